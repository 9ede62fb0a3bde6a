"""Compiles pipelines for a cluster: every stage gets the pod that a profile describes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import wraps
from typing import Any

from ...common.checkpoints import FOLDER_VARIABLE as CHECKPOINTS_VARIABLE
from ...common.errors import expected, unknown
from ...common.images import kind_of
from ...faces.addresses import VARIABLES
from ...training.launch import PROCESSES_VARIABLE, TRAINJOB_VARIABLE
from ...training.launch.trainjob import POD_VARIABLES
from .profile import Pod, Profile, seconds
from .spread import given_to, image_for, train_job, waiting

RUN_LABEL = "pipeline/runid"
"""Label of a pod: the run in Kubeflow. From the pod itself, as a placeholder among the inputs would defeat caching."""

NOT_TWICE: Mapping[str, str] = {
    "register": "a second time would make a second version",
    "train-source": "a training would begin anew and fail again for the same reason",
    "pretrain": "a training would begin anew and fail again for the same reason",
    "fine-tune": "a training would begin anew and fail again for the same reason",
}
"""Stages that are not started again, and why; trainings are where their checkpoints are kept."""

TRAININGS = ("train-source", "pretrain", "fine-tune")
"""Stages that can train in several processes."""

LABEL = "ferry"
"""Prefix of the labels that Ferry gives to pods: ``ferry/pipeline`` and ``ferry/stage``; network policies read them."""

_LONGEST_WAIT = "600s"


def with_profile(pipeline: Any, profile: Profile) -> Any:
    """Returns a pipeline whose tasks have what a profile says.

    Args:
        pipeline: The kfp pipeline.
        profile: The profile.

    Raises:
        UserError: The profile asks of a stage what that cannot have.
    """
    from kfp import dsl
    from kfp.dsl.pipeline_context import Pipeline

    define = pipeline.pipeline_func

    @wraps(define)
    def defined(*values: Any, **named: Any) -> Any:
        result = define(*values, **named)
        for name, task in Pipeline.get_default_pipeline().tasks.items():
            apply(profile, pipeline.name, name, task)
        return result

    return dsl.pipeline(name=pipeline.name)(defined)


def check_stages(profile: Profile, known: set[str]) -> None:
    """Checks the names of the stages that a profile speaks of.

    Args:
        profile: The profile.
        known: Stages of all pipelines, so that one profile serves them all.

    Raises:
        UserError: There is no stage of that name, it must not be started twice, or it cannot use several GPUs.
    """
    places: dict[str, Iterable[str]] = {"stages": profile.stages}
    for kind, entries in (("secrets", profile.secrets), ("config_maps", profile.config_maps)):
        places.update({f"{kind}.{name}.stages": given.stages for name, given in entries.items()})
    for place, names in places.items():
        for name in names:
            if name not in known:
                raise unknown(place, name, sorted(known))
    for name, pod in profile.stages.items():
        if pod.retries and not _may_repeat(profile, name):
            fix = f"Remove it: {NOT_TWICE[name]}."
            if name in TRAININGS:
                fix = f"{fix.rstrip('.')}; or set environment.{CHECKPOINTS_VARIABLE} to s3://bucket/prefix."
            raise expected(f"stages.{name}.retries", "0", pod.retries, fix)
    for place, pod in {"default": profile.default, "torch": profile.torch, **_others(profile)}.items():
        for field in ("gpus", "nodes"):
            if (getattr(pod, field) or 0) > 1:
                fix = f"Only trainings use more: write it below stages, for {', '.join(TRAININGS)}."
                raise expected(f"{place}.{field}", "at most 1", getattr(pod, field), fix)
    spread = [name for name, pod in profile.stages.items() if (pod.nodes or 1) > 1]
    if spread and not profile.trainer.exchange:
        fix = f"{spread[0]} has several nodes: write s3://bucket/prefix, where they get the data from."
        raise expected("trainer.exchange", "set", "", fix)


def _may_repeat(profile: Profile, stage: str) -> bool:
    """Tells whether a stage may be started again; a training may where it finds its checkpoint on any machine."""
    return stage not in NOT_TWICE or (stage in TRAININGS and _kept_in_a_store(profile))


def _kept_in_a_store(profile: Profile) -> bool:
    return profile.environment.get(CHECKPOINTS_VARIABLE, "").startswith(("s3://", "minio://"))


def _check_keys(profile: Profile, stage: str, pod: Pod) -> None:
    """Checks that a training that needs an object store has a key: it would fail after the stages before it."""
    several = (pod.nodes or 1) > 1
    given = {variable for _, keys in given_to(stage, profile.secrets) for variable in keys.keys}
    if (several or _kept_in_a_store(profile)) and not given & set(VARIABLES["access_key"]):
        why = "has several nodes" if several else f"keeps its checkpoint in {profile.environment[CHECKPOINTS_VARIABLE]}"
        fix = f"{stage} {why}: give it the keys of that store."
        raise expected("secrets", f"with S3_ACCESS_KEY for {stage}", ", ".join(sorted(given)) or "none", fix)


def _others(profile: Profile) -> dict[str, Pod]:
    return {f"stages.{name}": pod for name, pod in profile.stages.items() if name not in TRAININGS}


def apply(profile: Profile, pipeline: str, name: str, task: Any) -> None:
    """Gives one task its image, pod and environment.

    Args:
        profile: The profile.
        pipeline: The pipeline's name.
        name: The stage's name.
        task: The kfp task.

    Raises:
        UserError: The profile asks for GPUs for a stage that has no torch.
    """
    from kfp import kubernetes

    kind = kind_of(task.container_spec.image)
    pod = profile.pod(name, torch=kind != "slim")
    if pod.gpus and kind == "slim":
        raise expected(f"stages.{name}.gpus", "0", pod.gpus, "The stage has no torch; remove it.")
    if name in TRAININGS:
        _check_keys(profile, name, pod)
    labels = {f"{LABEL}/pipeline": pipeline, f"{LABEL}/stage": name}
    if (pod.nodes or 1) > 1:
        job = train_job(profile, name, pod, labels)
        task.set_env_variable(TRAINJOB_VARIABLE, job.dump())
        for variable, field in POD_VARIABLES.items():
            kubernetes.use_field_path_as_env(task, variable, field)
        pod = waiting(profile, pod)
    elif (pod.gpus or 1) > 1:
        task.set_env_variable(PROCESSES_VARIABLE, str(pod.gpus))
    task.set_container_image(image_for(profile, "cuda" if pod.gpus else kind))
    _resources(task, pod, shared_memory=kind != "slim")
    _placement(task, pod)
    _time(task, pod, again=_may_repeat(profile, name))
    _environment(task, name, profile)
    _pull(task, profile)
    for label, value in labels.items():
        kubernetes.add_pod_label(task, label, value)


def _resources(task: Any, pod: Pod, shared_memory: bool) -> None:
    from kfp import kubernetes

    if pod.cpu:
        task.set_cpu_request(pod.cpu)
    if pod.cpu_limit:
        task.set_cpu_limit(pod.cpu_limit)
    if pod.memory:
        task.set_memory_request(pod.memory).set_memory_limit(pod.memory)
    if pod.gpus:
        task.set_accelerator_type(pod.gpu_type or "nvidia.com/gpu").set_accelerator_limit(pod.gpus)
    if pod.shared_memory and shared_memory:
        where = {"volume_name": "shm", "mount_path": "/dev/shm"}  # noqa: S108 (shared memory, not a temporary file)
        kubernetes.empty_dir_mount(task, **where, medium="Memory", size_limit=pod.shared_memory)


def _placement(task: Any, pod: Pod) -> None:
    from kfp import kubernetes

    for label, value in pod.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in pod.tolerations:
        kubernetes.add_toleration(task, **toleration)


def _time(task: Any, pod: Pod, again: bool) -> None:
    from kfp import kubernetes

    if pod.timeout:
        kubernetes.set_timeout(task, seconds(pod.timeout))
    if pod.retries and again:
        wait = f"{seconds(pod.backoff or '30s')}s"
        task.set_retry(pod.retries, backoff_duration=wait, backoff_factor=2.0, backoff_max_duration=_LONGEST_WAIT)


def _environment(task: Any, stage: str, profile: Profile) -> None:
    from kfp import kubernetes

    for name, value in profile.environment.items():
        task.set_env_variable(name, value)
    kubernetes.use_field_path_as_env(task, "FERRY_RUN_ID", f"metadata.labels['{RUN_LABEL}']")
    secrets = (profile.secrets, kubernetes.use_secret_as_env)
    for entries, use in (secrets, (profile.config_maps, kubernetes.use_config_map_as_env)):
        for name, given in given_to(stage, entries):
            use(task, name, {key: variable for variable, key in given.keys.items()}, optional=given.optional)


def _pull(task: Any, profile: Profile) -> None:
    from kfp import kubernetes

    if profile.images.pull_policy:
        kubernetes.set_image_pull_policy(task, profile.images.pull_policy)
    if profile.images.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(profile.images.pull_secrets))
