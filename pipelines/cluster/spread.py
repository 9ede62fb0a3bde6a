"""What a profile says about a training on several machines: its TrainJob, and the pod that waits for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ...common.images import image
from ...training.launch.trainjob import TrainJob
from .profile import Keys, Pod, Profile, seconds


def image_for(profile: Profile, kind: str) -> str:
    """Returns the image of a kind, by digest where the profile has one.

    Args:
        profile: The profile.
        kind: ``slim``, ``cpu`` or ``cuda``.
    """
    return profile.images.digests.get(kind) or image(kind, profile.images.registry)  # type: ignore[arg-type]


def given_to(stage: str, entries: Mapping[str, Keys]) -> Iterator[tuple[str, Keys]]:
    """Yields the secrets or config maps that a stage gets.

    Args:
        stage: The stage's name.
        entries: Those of the profile.
    """
    return ((name, given) for name, given in entries.items() if not given.stages or stage in given.stages)


def train_job(profile: Profile, stage: str, pod: Pod, labels: Mapping[str, str]) -> TrainJob:
    """Returns the TrainJob that does a stage's training.

    Args:
        profile: The profile.
        stage: The stage's name.
        pod: What each machine's pod asks for.
        labels: Labels of the pods.
    """
    both = {"memory": pod.memory, pod.gpu_type or "nvidia.com/gpu": str(pod.gpus or "")}
    return TrainJob(
        nodes=pod.nodes or 1,
        processes=pod.gpus or 1,
        image=image_for(profile, "cuda" if pod.gpus else "cpu"),
        exchange=profile.trainer.exchange,
        runtime=profile.trainer.runtime,
        requests=_given({"cpu": pod.cpu, **both}),
        limits=_given({"cpu": pod.cpu_limit, **both}),
        shared_memory=pod.shared_memory,
        node_selector=pod.node_selector,
        tolerations=[_toleration(given) for given in pod.tolerations],
        environment=profile.environment,
        references=list(_references(profile, stage)),
        pull_secrets=profile.images.pull_secrets,
        labels=labels,
        seconds=seconds(pod.timeout) if pod.timeout else 0,
    )


def waiting(profile: Profile, pod: Pod) -> Pod:
    """Returns the pod of a stage whose training runs elsewhere: that of a stage without torch, as long as it takes.

    Args:
        profile: The profile.
        pod: What each machine's pod asks for.
    """
    small = profile.trainer.launcher.over(profile.default)
    return replace(small, timeout=pod.timeout, gpus=0, nodes=None, retries=pod.retries, backoff=pod.backoff)


def _given(quantities: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in quantities.items() if value}


def _toleration(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"tolerationSeconds" if name == "toleration_seconds" else name: value for name, value in given.items()}


def _references(profile: Profile, stage: str) -> Iterator[dict[str, Any]]:
    for kind, entries in (("secret", profile.secrets), ("config_map", profile.config_maps)):
        for name, given in given_to(stage, entries):
            for variable, key in given.keys.items():
                yield {"name": variable, kind: name, "key": key, "optional": given.optional}
