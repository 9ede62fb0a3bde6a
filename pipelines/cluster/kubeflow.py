"""Runs in Kubeflow Pipelines: a pipeline is uploaded once for each content, runs are submitted and waited for."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ... import __version__
from ...common.errors import RetryableError, expected
from ..catalogue import REMOTE, PipelineInfo

ENDPOINT_VARIABLE = "KF_PIPELINES_ENDPOINT"
NAMESPACE_VARIABLE = "FERRY_KFP_NAMESPACE"
TOKEN_VARIABLE = "FERRY_KFP_TOKEN"  # noqa: S105 (a name)
CA_VARIABLE = "FERRY_KFP_CA"

_NO_CHOICES = 'unknown field "literals"'
"""In the answer of a server that is older than the words of parameters: it refuses what it does not know."""

_ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED", "ERROR")
_FIRST_WAIT = 10.0
_LONGEST_WAIT = 60.0
_PAGE = 100
_POLL = 5.0


@dataclass(frozen=True)
class Address:
    """Where Kubeflow Pipelines is and how to get in.

    Attributes:
        endpoint: URL of the API; empty inside a cluster, or for the cluster of the current kubeconfig.
        namespace: The profile's namespace; empty where Kubeflow has one user.
        token: Bearer token; empty for none, or for the service account's inside a cluster.
        ca: File with certificates of private authorities, PEM.
    """

    endpoint: str = ""
    namespace: str = ""
    token: str = field(default="", repr=False)
    ca: str = ""

    def __post_init__(self) -> None:
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            fix = "Write it as https://kubeflow.example.org/pipeline."
            raise expected("endpoint", "a URL that begins with http:// or https://", self.endpoint, fix)
        if self.ca and not Path(self.ca).is_file():
            raise expected(CA_VARIABLE, "an existing PEM file", self.ca, "Check the path.")

    @classmethod
    def from_environment(cls, endpoint: str = "", namespace: str = "") -> Address:
        """Returns the address that variables name, where the arguments do not."""
        read = os.environ.get
        return cls(
            endpoint=endpoint or read(ENDPOINT_VARIABLE, ""),
            namespace=namespace or read(NAMESPACE_VARIABLE, ""),
            token=read(TOKEN_VARIABLE, ""),
            ca=read(CA_VARIABLE, ""),
        )


@dataclass(frozen=True)
class Uploaded:
    """A pipeline's version in Kubeflow.

    Attributes:
        pipeline: The pipeline's id.
        version: The version's id.
        name: The version's name: that of Ferry and a digest of the YAML.
        fresh: Whether it was not there before.
    """

    pipeline: str
    version: str
    name: str
    fresh: bool


@dataclass(frozen=True)
class Submitted:
    """A run in Kubeflow.

    Attributes:
        run: The run's id.
        name: The run's name.
        state: Its state: PENDING, RUNNING, SUCCEEDED, FAILED, ...
        error: Why it failed, in Kubeflow's words.
        uploaded: The version that it runs.
    """

    run: str
    name: str
    state: str
    error: str
    uploaded: Uploaded


class Kubeflow:
    """Kubeflow Pipelines at an address.

    Args:
        address: Where it is.

    Raises:
        RetryableError: It does not answer.
        UserError: The address is none of Kubeflow Pipelines, or the token may not enter.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        if address.endpoint:
            self._ask()
        elif not _cluster_is_known():
            fix = f"Pass --endpoint, or set {ENDPOINT_VARIABLE}, such as https://kubeflow.example.org/pipeline."
            raise expected("endpoint", "given outside a cluster and without a kubeconfig", "", fix)
        from kfp import Client

        namespace = {"namespace": address.namespace} if address.namespace else {}
        with self.translated(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.client = Client(
                host=address.endpoint or None,
                existing_token=address.token or None,
                ssl_ca_cert=address.ca or None,
                **namespace,
            )

    def upload(self, name: str, text: str) -> Uploaded:
        """Makes sure that a compiled pipeline is in Kubeflow; the same bytes are uploaded once.

        Args:
            name: The pipeline's name.
            text: The compiled YAML.

        Returns:
            The version with this content.

        Raises:
            FerryError: As for :class:`Kubeflow`.
        """
        wanted = f"{__version__}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        with self.translated(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pipeline.yaml"
            path.write_text(text, encoding="utf-8")
            pipeline = self.client.get_pipeline_id(name)
            if pipeline is None:
                namespace = self.address.namespace or None
                pipeline = self.client.upload_pipeline(str(path), name, namespace=namespace).pipeline_id
            there = next((one for one in self._versions(pipeline) if one.display_name == wanted), None)
            if there is not None:
                return Uploaded(pipeline, there.pipeline_version_id, wanted, fresh=False)
            made = self.client.upload_pipeline_version(str(path), wanted, pipeline_id=pipeline)
            return Uploaded(pipeline, made.pipeline_version_id, wanted, fresh=True)

    def submit(
        self,
        uploaded: Uploaded,
        name: str,
        values: Mapping[str, Any],
        *,
        experiment: str = "ferry",
        service_account: str = "",
    ) -> Submitted:
        """Starts a run.

        Args:
            uploaded: What to run, from :meth:`upload`.
            name: The run's name begins with this.
            values: The pipeline's parameters.
            experiment: Name of the experiment; made where there is none.
            service_account: Of the pods; Kubeflow's where empty.

        Returns:
            The run, which has only begun.

        Raises:
            FerryError: As for :class:`Kubeflow`.
        """
        full = f"{name} {datetime.now(UTC).strftime('%Y-%m-%d %H:%M:%S')}"
        with self.translated():
            of = self.client.create_experiment(experiment, namespace=self.address.namespace or None).experiment_id
            made = self.client.run_pipeline(
                of,
                full,
                params=dict(values),
                pipeline_id=uploaded.pipeline,
                version_id=uploaded.version,
                service_account=service_account or None,
            )
        return Submitted(made.run_id, full, made.state or "PENDING", "", uploaded)

    def wait(self, submitted: Submitted, say: Callable[[str], None], poll: float = _POLL) -> Submitted:
        """Waits until a run has ended, however long that takes; a stage's every new state is said.

        Args:
            submitted: The run.
            say: Receives lines for people.
            poll: Seconds between two looks.

        Returns:
            The run as it ended.

        Raises:
            FerryError: As for :class:`Kubeflow`; short absences of the server are waited through.
        """
        seen: dict[str, str] = {}
        absent = 0
        while True:
            try:
                with self.translated():
                    run = self.client.get_run(submitted.run)
                absent = 0
            except RetryableError:
                absent += 1
                if absent * poll > _LONGEST_WAIT:
                    raise
                time.sleep(poll)
                continue
            for task in (run.run_details.task_details if run.run_details else None) or ():
                if task.state and seen.get(task.display_name) != task.state:
                    seen[task.display_name] = task.state
                    say(f"  {task.display_name}: {task.state.lower()}")
            if run.state in _ENDED:
                error = run.error.message if run.error is not None else ""
                return Submitted(submitted.run, submitted.name, run.state, error or "", submitted.uploaded)
            time.sleep(poll)

    def _versions(self, pipeline: str) -> Iterator[Any]:
        token = ""
        while True:
            page = self.client.list_pipeline_versions(pipeline, page_token=token, page_size=_PAGE)
            yield from page.pipeline_versions or ()
            token = page.next_page_token or ""
            if not token:
                return

    def _ask(self) -> None:
        """Asks whether Kubeflow answers, in bounded time: its client would wait for minutes."""
        import ssl

        url = f"{self.address.endpoint.rstrip('/')}/apis/v2beta1/healthz"
        headers = {"Authorization": f"Bearer {self.address.token}"} if self.address.token else {}
        context = ssl.create_default_context(cafile=self.address.ca or None)
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 (the scheme was checked)
        try:
            with urllib.request.urlopen(request, timeout=_FIRST_WAIT, context=context) as answer:  # noqa: S310
                json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise self._refused(error.code, "") from error
        except (OSError, urllib.error.URLError) as error:
            raise self._away(getattr(error, "reason", error)) from error
        except ValueError as error:
            fix = "Pass the address of the API, such as https://kubeflow.example.org/pipeline; a login page answered."
            raise expected("endpoint", "Kubeflow Pipelines", self.address.endpoint, fix) from error

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Bounds waits, keeps kfp's own words from standard output, and says errors as Ferry does."""
        from kfp_server_api import ApiException
        from urllib3.exceptions import HTTPError

        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_LONGEST_WAIT)
        try:
            with redirect_stdout(io.StringIO()):
                yield
        except ApiException as error:
            raise self._refused(error.status or 0, _reason(error.body)) from error
        except HTTPError as error:
            raise self._away(getattr(error, "reason", error)) from error
        finally:
            socket.setdefaulttimeout(before)

    def _refused(self, status: int, reason: str) -> Exception:
        got = f"HTTP status {status}" + (f": {reason}" if reason else "")
        if _NO_CHOICES in reason:
            fix = "Pass --no-choices: the pipeline then has no lists of words for Kubeflow's form."
            return expected("endpoint", "Kubeflow Pipelines 2.16 or newer", got, fix)
        if status in (401, 403):
            fix = f"Set {TOKEN_VARIABLE} to a token, and --namespace to a namespace that it may use."
            return expected(TOKEN_VARIABLE, "a token with the right to do this", got, fix)
        if status >= 500 or status in (0, 429):
            return RetryableError(f"Expected Kubeflow Pipelines to work, but got {got}. Run the same command again.")
        rule = f"one of Kubeflow Pipelines that accepts this ({self._place})"
        return expected("endpoint", rule, got, "Check the address and the namespace.")

    def _away(self, reason: Any) -> RetryableError:
        fix = f"Check --endpoint ({ENDPOINT_VARIABLE}) and the network, then run the same command again."
        return RetryableError(f"Expected `endpoint` to answer, but got {reason} for {self._place}. {fix}")

    @property
    def _place(self) -> str:
        return self.address.endpoint or "the cluster of this pod or of the current kubeconfig"


def _cluster_is_known() -> bool:
    """Tells whether kfp's client can find a cluster by itself: that of this pod, or of a kubeconfig."""
    configs = os.environ.get("KUBECONFIG", "").split(os.pathsep)
    return "KUBERNETES_SERVICE_HOST" in os.environ or any(
        path and Path(path).expanduser().is_file() for path in (*configs, "~/.kube/config")
    )


def check_places(pipeline: PipelineInfo, values: Mapping[str, Any]) -> None:
    """Checks that pods can find what the parameters name.

    Args:
        pipeline: The pipeline.
        values: Its parameters.

    Raises:
        UserError: A path is relative to this machine's current folder.
    """
    for name in pipeline.paths:
        place = str(values[name]).strip()
        if place and not place.startswith((*REMOTE, "minio://", "/")):
            fix = "Pass s3://bucket/prefix, models:/NAME@ALIAS, or an absolute path that is mounted into the pods."
            raise expected(name, "an address that pods can reach", place, fix)


def _reason(body: Any) -> str:
    """Returns Kubeflow's own words, of which the first line is for people."""
    try:
        values = json.loads(body)
        text = values.get("error_message") or values.get("message") or values.get("error") or ""
    except (TypeError, ValueError, AttributeError):
        return ""
    if _NO_CHOICES in str(text):
        return _NO_CHOICES
    return str(text).splitlines()[0][:300] if text else ""
