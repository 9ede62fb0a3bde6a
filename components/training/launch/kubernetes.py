"""The few requests to Kubernetes that a TrainJob takes, with errors that say what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...common.errors import RetryableError, UserError, expected
from .trainjob import CONTAINER, GROUP, PLURAL, VERSION

_TIMEOUT = (5.0, 30.0)
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

        Raises:
            UserError: A right is missing, or the cluster refuses the object.
            RetryableError: The cluster does not answer.
        """
        with self._translated("create", body["spec"]["trainer"]["numNodes"]):
            self._objects.create_namespaced_custom_object(**self._where(), body=body, _request_timeout=_TIMEOUT)

    def state(self, name: str) -> tuple[bool, str]:
        """Returns whether a TrainJob has ended, and why it failed; empty where it did not.

        Raises:
            RetryableError: It is gone, or the cluster does not answer.
            UserError: The right is missing.
        """
        with self._translated("get", 0):
            found = self._objects.get_namespaced_custom_object(**self._where(), name=name, _request_timeout=_TIMEOUT)
        for condition in found.get("status", {}).get("conditions", []):
            if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
                said = f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
                return True, "" if condition["type"] == "Complete" else said or "Failed"
        return False, ""

    def is_gone(self, error: Exception) -> bool:
        """Tells whether an error of :meth:`state` means that the job was removed."""
        return isinstance(error, _Gone)

    def delete(self, name: str) -> None:
        """Removes a TrainJob with its pods; one that is gone is no error.

        Raises:
            FerryError: The cluster does not answer, or the right is missing.
        """
        try:
            with self._translated("delete", 0):
                named = {"name": name, "propagation_policy": "Foreground", "_request_timeout": _TIMEOUT}
                self._objects.delete_namespaced_custom_object(**self._where(), **named)
        except _Gone:
            pass

    def first_pod(self, name: str) -> Any:
        """Returns the pod of a TrainJob's first machine, or None.

        Raises:
            FerryError: The cluster does not answer, or the right is missing.
        """
        selector = f"{_JOBSET}={name},{_INDEX}=0"
        with self._translated("list", 0, "pods"):
            found = self._core.list_namespaced_pod(
                self.namespace, label_selector=selector, _request_timeout=_TIMEOUT
            ).items
        return max(found, key=lambda pod: str(pod.metadata.creation_timestamp), default=None)

    def follow_log(self, pod: str, since: int | None) -> Iterator[bytes]:
        """Yields what a pod's container writes, as it comes.

        Args:
            pod: Name of the pod.
            since: Only what it wrote in so many seconds; None for all.

        Raises:
            FerryError: The cluster does not answer, or the right is missing.
        """
        with self._translated("get", 0, "pods/log"):
            how: dict[str, Any] = {"container": CONTAINER, "follow": True, "_preload_content": False}
            if since is not None:
                how["since_seconds"] = since
            response = self._core.read_namespaced_pod_log(pod, self.namespace, **how, _request_timeout=(5.0, 120.0))
            yield from response.stream()

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
        if error.status in (401, 403):
            fix = "Give the service account of the runs the role in manifests/base/rbac.yaml."
            rule = f"allowed to {verb} {what} in namespace {self.namespace}"
            return expected("service account", rule, said, fix)
        if error.status == 404 and verb in ("list", "create") and what.startswith(PLURAL):
            fix = f"Install Kubeflow Trainer 2.2 or newer ({GROUP}/{VERSION}), or remove nodes from the profile."
            return expected("nodes", "1 on a cluster without Kubeflow Trainer", nodes, fix)
        if error.status == 404:
            return _Gone(f"Expected `{what}` to stay to its end, but got '{said}'. Somebody removed it; run it again.")
        if error.status in (400, 409, 422):
            fix = "Correct the profile; `kubectl get clustertrainingruntimes` lists the runtimes."
            return UserError(str(expected("TrainJob", "one that the cluster accepts", said, fix)))
        return RetryableError(f"Expected `Kubernetes` to answer, but got '{said}' ({error.status}). Run it again.")


class _Gone(RetryableError):
    """What was asked for is not there."""


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def _own_namespace() -> str:
    with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace", encoding="utf-8") as file:
        return file.read().strip()
