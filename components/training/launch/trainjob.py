"""The TrainJob of Kubeflow's Trainer that does a stage's training on several machines: what it says, as plain data.

The form is that of Trainer 2.2 and newer (``trainer.kubeflow.org/v1alpha1`` with ``runtimePatches``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...common.errors import expected
from ...common.parameters import from_mapping

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
MANAGER = "ferry"
"""Who owns Ferry's patch of the runtime, for Kueue and others that have their own."""

POD_VARIABLES: Mapping[str, str] = {
    "FERRY_POD_NAME": "metadata.name",
    "FERRY_POD_UID": "metadata.uid",
    "FERRY_POD_NAMESPACE": "metadata.namespace",
}
"""Environment variables of a stage's pod that waits for a TrainJob, and the fields of the pod that they have."""

RUN_LABEL = "ferry/run"
"""Label of TrainJobs: the pipeline run, by which a stage that is started again finds what it has left."""

_NO_SIDECAR = {"sidecar.istio.io/inject": "false"}
"""Where Istio adds a container to every pod, that one would keep a pod from ending."""

_GRACE_SECONDS = 90

CONTAINER = "node"
"""Name of the trainer's job and container, in Trainer's runtimes and in every one that it accepts."""


@dataclass(frozen=True)
class TrainJob:
    """How a training is spread over machines; the compiler puts it into :data:`TRAINJOB_VARIABLE` of a stage's pod.

    Attributes:
        nodes: Machines.
        processes: Processes on each, usually one for each GPU.
        image: Image with Ferry and torch.
        exchange: ``s3://bucket/prefix`` where stage and machines hand each other data and model.
        runtime: The ClusterTrainingRuntime.
        requests: What each machine's pod asks for.
        limits: What it may use.
        shared_memory: Size of ``/dev/shm``; empty for the engine's.
        node_selector: Labels that the machines must have.
        tolerations: Taints that the pods tolerate, as Kubernetes writes them.
        environment: Variables with their values, which are not secret.
        references: Variables from secrets and config maps: ``name``, and ``secret`` or ``config_map``, ``key``,
            ``optional``.
        pull_secrets: Secrets for the image's registry.
        labels: Labels of the pods.
        seconds: Longest time; 0 for no limit.
    """

    nodes: int
    processes: int
    image: str
    exchange: str
    runtime: str = "torch-distributed"
    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    shared_memory: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    references: Sequence[Mapping[str, Any]] = ()
    pull_secrets: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    seconds: int = 0

    @classmethod
    def parse(cls, text: str) -> TrainJob:
        """Reads what :meth:`dump` wrote.

        Args:
            text: JSON.

        Raises:
            UserError: It is something else.
        """
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise expected("FERRY_TRAINJOB", "JSON", text, "Compile the pipeline anew: ferry compile --profile FILE.")
        return from_mapping(cls, values, "FERRY_TRAINJOB.")

    def dump(self) -> str:
        """Returns the description as JSON, without what is empty."""
        return json.dumps({name: value for name, value in asdict(self).items() if value not in ("", 0, {}, (), [])})

    def body(
        self, name: str, namespace: str, uri: str, variables: Mapping[str, str], owner: Mapping[str, str] | None
    ) -> dict[str, Any]:
        """Returns the object for Kubernetes.

        Args:
            name: Its name.
            namespace: Its namespace.
            uri: Where the call lies.
            variables: Further variables, such as the id of the run.
            owner: ``name`` and ``uid`` of the pod that waits for it, and with which it goes; None for nobody.
        """
        run = variables.get("FERRY_RUN_ID", "")
        labels = {**self.labels, **({RUN_LABEL: run} if run else {})}
        metadata: dict[str, Any] = {"name": name, "namespace": namespace, "labels": labels}
        if owner:
            metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", **owner}]
        resources = {kind: dict(getattr(self, kind)) for kind in ("requests", "limits") if getattr(self, kind)}
        trainer: dict[str, Any] = {
            "image": self.image,
            "command": ["python3", "-m", f"{__package__}.node"],
            "args": [uri],
            "numNodes": self.nodes,
            "numProcPerNode": self.processes,
            "env": self._variables(variables),
        }
        if resources:
            trainer["resourcesPerNode"] = resources
        spec: dict[str, Any] = {
            "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": self.runtime},
            "trainer": trainer,
            "runtimePatches": [{"manager": MANAGER, "trainingRuntimeSpec": _patch(self._pod(), self.labels)}],
        }
        if self.seconds:
            spec["activeDeadlineSeconds"] = self.seconds
        return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainJob", "metadata": metadata, "spec": spec}

    def _variables(self, more: Mapping[str, str]) -> list[dict[str, Any]]:
        plain = [{"name": name, "value": value} for name, value in {**self.environment, **more}.items()]
        return plain + [_reference(given) for given in self.references if given["name"] not in more]

    def _pod(self) -> dict[str, Any]:
        """Returns the patch of the pods; they keep the rules of Pod Security's profile ``restricted``."""
        container: dict[str, Any] = {
            "name": CONTAINER,
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        pod: dict[str, Any] = {
            "terminationGracePeriodSeconds": _GRACE_SECONDS,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        }
        if self.shared_memory:
            memory = {"medium": "Memory", "sizeLimit": self.shared_memory}
            pod["volumes"] = [{"name": "shm", "emptyDir": memory}]
            container["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108
        if self.node_selector:
            pod["nodeSelector"] = dict(self.node_selector)
        if self.tolerations:
            pod["tolerations"] = [dict(toleration) for toleration in self.tolerations]
        if self.pull_secrets:
            pod["imagePullSecrets"] = [{"name": secret} for secret in self.pull_secrets]
        return pod


def _reference(given: Mapping[str, Any]) -> dict[str, Any]:
    kind, name = ("secretKeyRef", given["secret"]) if "secret" in given else ("configMapKeyRef", given["config_map"])
    source = {kind: {"name": name, "key": given["key"], "optional": bool(given.get("optional", False))}}
    return {"name": given["name"], "valueFrom": source}


def _patch(pod: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    template = {"metadata": {"labels": {**labels, **_NO_SIDECAR}}, "spec": dict(pod)}
    job = {"name": CONTAINER, "template": {"spec": {"template": template}}}
    return {"template": {"spec": {"replicatedJobs": [job]}}}
