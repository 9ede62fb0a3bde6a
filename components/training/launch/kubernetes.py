"""The few requests to Kubernetes that a TrainJob takes, with errors that say what to do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...common.errors import RetryableError, UserError, expected
from .trainjob import CONTAINER, GROUP, PLURAL, VERSION

_TIMEOUT, _LOG_TIMEOUT = (5.0, 30.0), (5.0, 120.0)
_LOOK_EVERY = 1.0
_NOT_A_RIGHT = ("admission webhook", "exceeded quota", "violates PodSecurity", "ValidatingAdmissionPolicy")
_JOBSET = "jobset.sigs.k8s.io/jobset-name"
_INDEX = "batch.kubernetes.io/job-completion-index"


class Cluster:
    """The namespace of a cluster in which TrainJobs are made.

    Args:
        namespace: The namespace; the pod's own, or that of the kubeconfig's context, where empty.

    Raises:
        UserError: There is neither a cluster around this process nor a kubeconfig.
    """

    def __init__(self, namespace: str = "") -> None:
        from kubernetes import client, config
        from kubernetes.config.config_exception import ConfigException

        settings = client.Configuration()
        try:
            try:
                config.load_incluster_config(client_configuration=settings)
                found = _own_namespace()
            except ConfigException:
                file = os.environ.get("KUBECONFIG")  # the client itself looks only when it is imported
                config.load_kube_config(file, client_configuration=settings)
                found = config.list_kube_config_contexts(file)[1]["context"].get("namespace", "default")
        except (ConfigException, OSError) as error:
            fix = "Run the stage as a pod, or set KUBECONFIG; without nodes in the profile it trains on one machine."
            raise expected("cluster", "reachable", " ".join(str(error).split()), fix) from None
        self.namespace = namespace or found
        api = client.ApiClient(settings)
        self._objects = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)

    def check(self, nodes: int) -> None:
        """Makes sure that there are TrainJobs, and that this service account may see them.

        Args:
            nodes: How many machines are wanted, for the message.

        Raises:
            UserError: Kubeflow Trainer is missing, or the right.
            RetryableError: The cluster does not answer.
        """
        with self._translated("list", nodes):
            self._objects.list_namespaced_custom_object(**self._where(), limit=1, _request_timeout=_TIMEOUT)

    def create(self, body: dict[str, Any]) -> None:
        """Makes a TrainJob.

        Args:
            body: The object.

        Raises:
            UserError: A right is missing, or the cluster refuses the object.
            RetryableError: The cluster does not answer.
        """
        # Otherwise an older Trainer would drop what it does not know: the labels that network policies go by, too.
        how = {"field_validation": "Strict", "_request_timeout": _TIMEOUT}
        with self._translated("create", body["spec"]["trainer"]["numNodes"]):
            self._objects.create_namespaced_custom_object(**self._where(), body=body, **how)

    def of_labels(self, labels: Mapping[str, str]) -> list[str]:
        """Returns the names of the TrainJobs that have certain labels.

        Args:
            labels: The labels.

        Raises:
            FerryError: As :meth:`check`.
        """
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        how = {"label_selector": selector, "_request_timeout": _TIMEOUT}
        with self._translated("list", 0):
            found = self._objects.list_namespaced_custom_object(**self._where(), **how)
        return [str(item["metadata"]["name"]) for item in found["items"]]

    def state(self, name: str) -> tuple[bool, str]:
        """Returns whether a TrainJob has ended, and why it failed; empty where it did not.

        Args:
            name: Its name.

        Raises:
            Gone: Somebody removed it.
            RetryableError: The cluster does not answer.
            UserError: The right is missing.
        """
        with self._translated("get", 0):
            found = self._objects.get_namespaced_custom_object(**self._where(), name=name, _request_timeout=_TIMEOUT)
        for condition in found.get("status", {}).get("conditions", []):
            if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
                said = f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
                return True, "" if condition["type"] == "Complete" else said or "Failed"
        return False, ""

    def delete(self, name: str, seconds: float = 0.0) -> None:
        """Removes a TrainJob with its pods; one that is gone is no error.

        Args:
            name: Its name.
            seconds: How long to wait until its pods are gone too.

        Raises:
            FerryError: The cluster does not answer, or the right is missing.
        """
        try:
            with self._translated("delete", 0):
                named = {"name": name, "propagation_policy": "Foreground", "_request_timeout": _TIMEOUT}
                self._objects.delete_namespaced_custom_object(**self._where(), **named)
        except Gone:
            pass
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.pods(name):
            time.sleep(_LOOK_EVERY)

    def pods(self, name: str) -> list[Any]:
        """Returns the pods of a TrainJob, by the number of their machine; of one that was started anew the last.

        Args:
            name: The job.

        Raises:
            FerryError: The cluster does not answer, or the right is missing.
        """
        how = {"label_selector": f"{_JOBSET}={name}", "_request_timeout": _TIMEOUT}
        with self._translated("list", 0, "pods"):
            found = self._core.list_namespaced_pod(self.namespace, **how).items
        found.sort(key=lambda pod: str(pod.metadata.creation_timestamp))
        return [pod for _, pod in sorted({machine_of(pod): pod for pod in found}.items())]

    def follow_log(self, pod: str, since: int | None) -> Iterator[bytes]:
        """Yields what a pod's container writes, as it comes, each line with its time before it.

        Args:
            pod: Name of the pod.
            since: Only what it wrote in so many seconds; None for all.

        Raises:
            FerryError: The cluster does not answer, or the right is missing. A machine that says nothing for minutes
                is no error: the log ends.
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import ReadTimeoutError

        how: dict[str, Any] = {"container": CONTAINER, "follow": True, "timestamps": True, "_preload_content": False}
        if since is not None:
            how["since_seconds"] = since
        try:
            with self._translated("get", 0, "pods/log"):
                response = self._core.read_namespaced_pod_log(pod, self.namespace, **how, _request_timeout=_LOG_TIMEOUT)
                yield from response.stream()
        except (UserError, RetryableError) as error:
            cause = error.__cause__
            waits = isinstance(cause, ApiException) and cause.status == 400  # its container is not there yet
            if not waits and not isinstance(cause, ReadTimeoutError):
                raise

    def _where(self) -> dict[str, str]:
        return {"group": GROUP, "version": VERSION, "namespace": self.namespace, "plural": PLURAL}

    @contextmanager
    def _translated(self, verb: str, nodes: int, what: str = f"{PLURAL}.{GROUP}") -> Iterator[None]:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            raise self._of_status(error, verb, nodes, what) from error
        except HTTPError as error:
            got = f"{type(error).__name__}. Run it again."
            raise RetryableError(f"Expected `Kubernetes` to answer, but got {got}") from error

    def _of_status(self, error: Any, verb: str, nodes: int, what: str) -> Exception:
        said = _message(error)
        refused = error.status == 403 and any(words in said for words in _NOT_A_RIGHT)
        if error.status == 400 and "unknown field" in said:
            fix = "Install Kubeflow Trainer 2.2 or newer, or remove nodes from the profile."
            return expected("Kubeflow Trainer", "one that knows runtimePatches", said, fix)
        if error.status in (401, 403) and not refused:
            fix = "Give the service account of the runs the role in manifests/base/rbac.yaml."
            rule = f"allowed to {verb} {what} in namespace {self.namespace}"
            return expected("service account", rule, said, fix)
        if error.status == 404 and verb in ("list", "create") and what.startswith(PLURAL):
            fix = f"Install Kubeflow Trainer 2.2 or newer ({GROUP}/{VERSION}), or remove nodes from the profile."
            return expected("nodes", "1 on a cluster without Kubeflow Trainer", nodes, fix)
        if error.status == 404:
            return Gone(f"Expected `{what}` to stay to its end, but got '{said}'. Somebody removed it; run it again.")
        if error.status in (400, 409, 422) or refused:
            fix = "Correct the profile; `kubectl get clustertrainingruntimes` lists the runtimes."
            return UserError(str(expected("TrainJob", "one that the cluster accepts", said, fix)))
        return RetryableError(f"Expected `Kubernetes` to answer, but got '{said}' ({error.status}). Run it again.")


class Gone(RetryableError):
    """What was asked for is not there."""


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def machine_of(pod: Any) -> int:
    """Returns the number of the machine that a pod of a TrainJob is.

    Args:
        pod: The pod, as Kubernetes' client gives it.
    """
    return int((pod.metadata.labels or {}).get(_INDEX, 0))


def _own_namespace() -> str:
    with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace", encoding="utf-8") as file:
        return file.read().strip()
