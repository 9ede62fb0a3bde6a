"""Trainings with several GPUs and on several machines: what a profile's stage becomes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from ferry.common.errors import UserError
from ferry.pipelines.catalogue import compile_pipeline, find
from ferry.pipelines.cluster.profile import profile_of
from ferry.training.launch.trainjob import TrainJob

from .test_profile import parsed

POD = {
    "gpus": 4,
    "nodes": 2,
    "cpu": "8",
    "memory": "32Gi",
    "shared_memory": "8Gi",
    "timeout": "2h",
    "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "toleration_seconds": 300}],
}
VALUES = {
    "images": {"registry": "registry.example.org/ml", "pull_secrets": ["pull"]},
    "default": {"cpu": "1", "memory": "2Gi"},
    "stages": {"pretrain": POD, "fine-tune": {"gpus": 2}},
    "trainer": {"exchange": "s3://training/ferry"},
    "environment": {"NCCL_DEBUG": "WARN"},
    "config_maps": {"ferry": {"keys": {"S3_ENDPOINT": "s3-endpoint"}}},
    "secrets": {
        "ferry-s3": {
            "keys": {"S3_SECRET_KEY": "secret-key", "S3_ACCESS_KEY": "access-key"},
            "stages": ["pretrain", "import-target"],
        },
        "other": {"keys": {"OTHER": "key"}, "stages": ["import-target"]},
    },
}


def stage(values, name):
    return _stages(json.dumps(values))[name]


@cache
def _stages(values):
    return parsed(compile_pipeline(find("clup"), profile_of(json.loads(values), Path())))


def variables(container):
    return {entry["name"]: entry["value"] for entry in container.get("env", [])}


def yaml_of_one_gpu():
    return compile_pipeline(find("source"), profile_of({"stages": {"train-source": {"gpus": 1}}}, Path()))


@pytest.mark.slow
def test_several_gpus_are_as_many_processes():
    container, _, _ = stage(VALUES, "fine-tune")
    assert variables(container)["FERRY_PROCESSES"] == "2"
    assert container["resources"]["accelerator"]["resourceCount"] == "2"
    assert "FERRY_PROCESSES" not in variables(stage(VALUES, "evaluate")[0])
    assert "FERRY_PROCESSES" not in yaml_of_one_gpu()


def test_several_machines_are_a_trainjob_and_a_small_pod_that_waits():
    container, pod, task = stage(VALUES, "pretrain")
    assert container["image"].startswith("registry.example.org/ml/ferry-cpu:")
    assert "accelerator" not in container["resources"]
    assert container["resources"]["resourceMemoryLimit"] == "2Gi"
    assert "emptyDirMounts" not in pod
    assert "nodeSelector" not in pod
    assert "retryPolicy" not in task
    assert pod["activeDeadlineSeconds"] == "7200"
    fields = {entry["name"]: entry["fieldPath"] for entry in pod["fieldPathAsEnv"]}
    assert fields["FERRY_POD_UID"] == "metadata.uid"
    job = TrainJob.parse(variables(container)["FERRY_TRAINJOB"])
    assert (job.nodes, job.processes, job.seconds) == (2, 4, 7200)
    assert job.image.startswith("registry.example.org/ml/ferry-cuda:")
    assert job.requests == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "4"}
    assert job.limits == {"memory": "32Gi", "nvidia.com/gpu": "4"}
    assert job.tolerations == [{"key": "nvidia.com/gpu", "operator": "Exists", "tolerationSeconds": 300}]
    assert job.labels == {"ferry/pipeline": "clup", "ferry/stage": "pretrain"}
    assert {reference["name"] for reference in job.references} == {"S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY"}
    assert job.environment == {"NCCL_DEBUG": "WARN"}
    assert (job.exchange, job.runtime) == ("s3://training/ferry", "torch-distributed")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stages": {"pretrain": {"nodes": 0}}}, r"`stages.pretrain.nodes` to be 1 or more"),
        ({"stages": {"pretrain": {"nodes": 2}}}, r"`trainer.exchange` to be set.*pretrain has several nodes"),
        ({"stages": {"evaluate": {"gpus": 2}}}, r"`stages.evaluate.gpus` to be at most 1.*pretrain, fine-tune"),
        ({"torch": {"gpus": 2}}, r"`torch.gpus` to be at most 1"),
        ({"default": {"nodes": 2}}, r"`default.nodes` to be at most 1"),
        ({"trainer": {"exchange": "s3://bucket"}}, r"`trainer.exchange` to be a prefix below a bucket"),
        ({"trainer": {"exchange": "/mnt/shared"}}, r"`trainer.exchange` to be a prefix below a bucket"),
        ({"trainer": {"runtime": "Torch!"}}, r"`trainer.runtime`"),
        ({"trainer": {"exchnge": "s3://b/p"}}, r"`trainer.exchnge`.*Did you mean 'exchange'"),
    ],
)
def test_what_cannot_be_is_named(values, message):
    with pytest.raises(UserError, match=message):
        stage(values, "pretrain")


@pytest.mark.slow
def test_trainings_are_started_again_where_their_checkpoint_is_found_on_any_machine():
    values = {"default": {"retries": 2}, "stages": {"pretrain": {"retries": 3}}}
    with pytest.raises(UserError, match=r"`stages.pretrain.retries` to be 0.*FERRY_CHECKPOINTS to s3://"):
        stage(values, "pretrain")
    kept = {**values, "environment": {"FERRY_CHECKPOINTS": "s3://faces/checkpoints"}}
    with pytest.raises(
        UserError, match=r"`secrets` to be with S3_ACCESS_KEY for (pretrain|fine-tune).*keeps its check"
    ):
        stage(kept, "pretrain")
    kept["secrets"] = {"ferry-s3": {"keys": {"S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "s"}}}
    assert stage(kept, "pretrain")[2]["retryPolicy"]["maxRetryCount"] == 3
    assert stage(kept, "fine-tune")[2]["retryPolicy"]["maxRetryCount"] == 2
    assert "retryPolicy" not in stage(kept, "register")[2]
    spread = {**VALUES, **kept, "stages": {"pretrain": {**POD, "retries": 3}}}
    assert stage(spread, "pretrain")[2]["retryPolicy"]["maxRetryCount"] == 3
    folder = {**values, "environment": {"FERRY_CHECKPOINTS": "/checkpoints"}}  # another pod would not find it
    with pytest.raises(UserError, match=r"`stages.pretrain.retries` to be 0"):
        stage(folder, "pretrain")


@pytest.mark.slow
def test_the_pod_that_waits_has_settings_of_its_own():
    values = {**VALUES, "trainer": {**VALUES["trainer"], "launcher": {"memory": "6Gi", "node_selector": {"a": "b"}}}}
    container, pod, _ = stage(values, "pretrain")
    assert container["resources"]["resourceMemoryLimit"] == "6Gi"
    assert container["resources"]["resourceCpuRequest"] == "1"
    assert pod["nodeSelector"]["labels"] == {"a": "b"}


def test_several_machines_without_keys_of_the_store_are_refused():
    values = {**VALUES, "secrets": {}}
    with pytest.raises(UserError, match=r"`secrets` to be with S3_ACCESS_KEY for pretrain.*pretrain has several nodes"):
        stage(values, "pretrain")
