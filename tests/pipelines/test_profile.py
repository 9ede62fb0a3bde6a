"""Profiles: what they say is in the compiled YAML, for every stage, and what is wrong in one is named.

After a wanted change refresh the golden files with:
FERRY_UPDATE_GOLDEN=1 python -m pytest tests/pipelines/test_profile.py
"""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from ferry.common.errors import UserError
from ferry.common.images import image, kind_of
from ferry.pipelines.catalogue import PIPELINES, compile_pipeline, find, stages
from ferry.pipelines.cluster.apply import NOT_TWICE
from ferry.pipelines.cluster.profile import Pod, Profile, load_profile, profile_of, seconds

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden" / "profiles"
SHIPPED = {path.stem: path for path in sorted((ROOT / "manifests" / "profiles").glob("*.yaml"))}
CASES = [(profile, name) for profile in SHIPPED for name in PIPELINES if profile != "source" or name == "source"]
TRAININGS = {"pretrain", "fine-tune", "train-source"}


def compiled(values, name="clup"):
    return parsed(compile_pipeline(find(name), profile_of(values, ROOT)))


def parsed(text):
    """Returns container and pod settings of every stage, and its task."""
    spec, *platform = yaml.safe_load_all(text)
    pods = platform[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if platform else {}
    found = {}
    for stage, task in spec["root"]["dag"]["tasks"].items():
        label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        found[stage] = (spec["deploymentSpec"]["executors"][label]["container"], pods.get(label, {}), task)
    return found


@cache
def text(profile, name):
    return compile_pipeline(find(name), load_profile(SHIPPED[profile]))


# --- What is shipped ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("profile", "name"), CASES)
def test_a_pipeline_with_a_shipped_profile_is_the_golden_one(profile, name):
    path = GOLDEN / f"{name}-{profile}.yaml"
    if os.environ.get("FERRY_UPDATE_GOLDEN") == "1":
        path.write_text(text(profile, name), encoding="utf-8")
    plain = [
        re.sub(r"(image: \S+):\S+", r"\1:any", re.sub(r"^sdkVersion: .*$", "", one, flags=re.M))
        for one in (text(profile, name), path.read_text(encoding="utf-8"))
    ]
    assert plain[0] == plain[1]


@pytest.mark.parametrize(("profile", "name"), CASES)
def test_rules_for_pods(profile, name):
    for stage, (container, pod, task) in parsed(text(profile, name)).items():
        kind = kind_of(container["image"])
        assert kind, stage
        assert container["resources"]["resourceMemoryLimit"] == container["resources"]["resourceMemoryRequest"], stage
        assert container["resources"]["resourceCpuRequest"], stage
        assert int(pod["activeDeadlineSeconds"]) > 0, stage
        mounts = {mount["mountPath"]: mount for mount in pod.get("emptyDirMounts", [])}
        assert set(mounts) == (set() if kind == "slim" else {"/dev/shm"}), stage
        assert all(mount["medium"] == "Memory" and mount["sizeLimit"] for mount in mounts.values()), stage
        assert ("accelerator" in container["resources"]) == (kind == "cuda"), stage
        assert ("retryPolicy" in task) == (stage not in NOT_TWICE), stage
        assert {"name": "FERRY_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"} in pod["fieldPathAsEnv"]
        assert pod["podMetadata"]["labels"] == {"ferry/pipeline": name, "ferry/stage": stage}
        keys = {secret["secretName"] for secret in pod.get("secretAsEnv", [])}
        reading = ("take-snapshot", "import-target", "import-holdout", "import-model")
        assert ("ferry-s3" in keys) == (profile != "source" and stage in reading), stage
        assert ("ferry-source-s3" in keys) == (profile == "source" and stage == "train-source"), stage
        assert not re.search(r"(?i)password|secret", " ".join(entry["name"] for entry in container.get("env", []))), (
            stage
        )


def test_gpus_are_asked_for_where_they_are_used_and_not_mentioned_elsewhere():
    pods = parsed(text("gpu", "clup"))
    with_gpu = {stage for stage, (container, _, _) in pods.items() if "accelerator" in container["resources"]}
    assert with_gpu == {"pretrain", "fine-tune"}
    accelerator = pods["pretrain"][0]["resources"]["accelerator"]
    assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("nvidia.com/gpu", "1")
    assert pods["pretrain"][1]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "accelerator" not in text("cpu", "clup")
    assert "tolerations" not in text("cpu", "clup")


@pytest.mark.slow
def test_the_pipeline_itself_is_the_same_whatever_the_profile():
    plain = parsed(compile_pipeline(find("clup")))
    for profile in SHIPPED:
        changed = parsed(text(profile, "clup"))
        for stage, (container, _, task) in plain.items():
            assert changed[stage][0]["command"] == container["command"]
            assert {**changed[stage][2], "retryPolicy": 0} == {**task, "retryPolicy": 0}


def test_what_compiles_without_a_profile_says_nothing_of_pods():
    assert list(yaml.safe_load_all(compile_pipeline(find("clup"))))[1:] == []


# --- Layers ---------------------------------------------------------------------------------------------------------


def test_a_stage_takes_what_its_own_settings_leave_out_from_torch_and_then_from_all():
    profile = profile_of(
        {
            "default": {"cpu": 1, "memory": "2Gi", "retries": 3, "node_selector": {"a": "1"}},
            "torch": {"cpu": "2", "timeout": "1h"},
            "stages": {"pretrain": {"memory": "16Gi", "gpus": 0}, "import-target": {"cpu": "500m", "retries": 0}},
        },
        ROOT,
    )
    common = {"retries": 3, "node_selector": {"a": "1"}}
    assert profile.pod("evaluate", torch=True) == Pod(cpu="2", memory="2Gi", timeout="1h", **common)
    assert profile.pod("pretrain", torch=True) == Pod(cpu="2", memory="16Gi", gpus=0, timeout="1h", **common)
    assert profile.pod("import-target", torch=False) == Pod(
        cpu="500m", memory="2Gi", retries=0, node_selector={"a": "1"}
    )
    assert profile.pod("anything", torch=False) == profile.default


def test_an_empty_profile_changes_images_nothing_and_gives_the_run_id(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    profile = load_profile(tmp_path / "empty.yaml")
    assert profile == Profile()
    for container, pod, task in parsed(compile_pipeline(find("clup"), profile)).values():
        assert container["image"] in (image("slim"), image("cpu"))
        assert "resources" not in container
        assert set(pod) == {"fieldPathAsEnv", "podMetadata"}
        assert "retryPolicy" not in task


def test_numbers_of_yaml_are_taken_as_they_are_written():
    (container, pod, _) = compiled({"default": {"memory": 8589934592, "timeout": 1209600, "cpu": 1.5}})["evaluate"]
    assert container["resources"]["resourceMemoryLimit"] == "8589934592"
    assert container["resources"]["resourceCpuRequest"] == "1.5"
    assert pod["activeDeadlineSeconds"] == "1209600"


@pytest.mark.slow
def test_every_quantity_that_a_profile_may_have_compiles():
    memory, cpu = ("8589934592", "64K", "64Ki", "8M", "8Gi", "1T", "1Ti"), ("1", "0.5", "250m")
    given = {
        stage: {"memory": memory[number % len(memory)], "cpu": cpu[number % len(cpu)]}
        for number, stage in enumerate(stages(find("clup")))
    }
    assert {pod["memory"] for pod in given.values()} == set(memory)
    for stage, (container, _, _) in compiled({"stages": given}).items():
        assert container["resources"]["resourceMemoryLimit"] == given[stage]["memory"]
        assert container["resources"]["resourceCpuRequest"] == given[stage]["cpu"]


def test_no_gpus_omit_the_key():
    container, _, _ = compiled({"stages": {"pretrain": {"gpus": 0}}})["pretrain"]
    assert "resources" not in container
    assert kind_of(container["image"]) == "cpu"


def test_digests_go_before_the_registry(tmp_path):
    digest = f"registry.example.org/ml/ferry-cuda@sha256:{'0' * 64}"
    (tmp_path / "images.lock.json").write_text(json.dumps({"cuda": digest}))
    values = {"images": {"registry": "other.example.org", "lock": "images.lock.json"}}
    values["stages"] = {"pretrain": {"gpus": 2}}
    pods = parsed(compile_pipeline(find("clup"), profile_of(values, tmp_path)))
    assert pods["pretrain"][0]["image"] == digest
    assert pods["import-target"][0]["image"] == image("slim", "other.example.org")
    assert pods["pretrain"][0]["resources"]["accelerator"]["resourceCount"] == "2"


def test_everything_that_a_profile_may_say_reaches_the_pod():
    values = {
        "images": {"pull_policy": "Always", "pull_secrets": ["a", "b"]},
        "environment": {"OMP_NUM_THREADS": "4"},
        "secrets": {"s": {"keys": {"S3_SECRET_KEY": "k"}, "optional": True, "stages": ["pretrain"]}},
        "config_maps": {"c": {"keys": {"S3_ENDPOINT": "e"}}},
        "stages": {
            "pretrain": {
                "cpu_limit": 2,
                "gpus": 1,
                "gpu_type": "amd.com/gpu",
                "node_selector": {"pool": "gpu"},
                "tolerations": [{"key": "t", "operator": "Equal", "value": "v", "effect": "NoExecute"}],
            },
            "evaluate": {"retries": 2, "backoff": "1m"},
        },
    }
    pods = compiled(values)
    container, pod, _ = pods["pretrain"]
    assert container["env"] == [{"name": "OMP_NUM_THREADS", "value": "4"}]
    assert container["resources"]["resourceCpuLimit"] == "2"
    assert container["resources"]["accelerator"]["resourceType"] == "amd.com/gpu"
    assert pod["imagePullPolicy"] == "Always"
    assert [one["secretName"] for one in pod["imagePullSecret"]] == ["a", "b"]
    assert pod["nodeSelector"]["labels"] == {"pool": "gpu"}
    assert pod["tolerations"] == [{"key": "t", "operator": "Equal", "value": "v", "effect": "NoExecute"}]
    (secret,) = pod["secretAsEnv"]
    assert (secret["secretName"], secret["optional"]) == ("s", True)
    assert secret["keyToEnv"] == [{"secretKey": "k", "envVar": "S3_SECRET_KEY"}]
    assert pod["configMapAsEnv"][0]["optional"] is False
    assert "secretAsEnv" not in pods["evaluate"][1]
    policy = pods["evaluate"][2]["retryPolicy"]
    assert policy == {"maxRetryCount": 2, "backoffDuration": "60s", "backoffFactor": 2.0, "backoffMaxDuration": "600s"}


# --- What is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"defaults": {}}, r"`defaults` to be one of the fields .*'default'"),
        ({"default": {"memoryy": "2Gi"}}, r"`default.memoryy`.*Did you mean 'memory'"),
        ({"default": []}, r"`default` to be a mapping"),
        ({"default": {"cpu": "two"}}, r"`default.cpu` to be a quantity that Kubeflow understands, but got 'two'"),
        ({"torch": {"memory": "8GiB"}}, r"`torch.memory` to be a quantity"),
        ({"torch": {"memory": "1.5Gi"}}, r"`torch.memory` to be a quantity.*1536Mi"),
        ({"torch": {"memory": "500m"}}, r"`torch.memory` to be a quantity"),
        ({"torch": {"cpu": "4Gi"}}, r"`torch.cpu` to be a quantity.*500m"),
        ({"default": {"tolerations": [{"operator": "exists"}]}}, r"`default.tolerations`.*'Exists'"),
        ({"default": {"tolerations": [{"toleration_seconds": "x"}]}}, r"`default.tolerations` to be with a number"),
        ({"default": {"tolerations": [{"value": 1}]}}, r"`default.tolerations` to be with text as value"),
        ({"environment": {"MLFLOW_TRACKING_URI": "http://me:word@host"}}, r"`environment` to be without secrets"),
        (
            {"secrets": {"f": {"keys": {"A": "k"}, "stages": ["pretrian"]}}, "config_maps": {"f": {"keys": {}}}},
            r"`secrets.f.stages` to be one of",
        ),
        ({"stages": {"pretrain": {"timeout": "long"}}}, r"`stages.pretrain.timeout` to be a time"),
        ({"stages": {"pretrain": {"timeout": "0h"}}}, r"`stages.pretrain.timeout` to be a time"),
        ({"stages": {"pretrain": {"gpus": -1}}}, r"`stages.pretrain.gpus` to be zero or more"),
        ({"torch": {"memory": 8}}, r"`torch.memory` to be enough for a stage, but got '8 bytes'.*8Gi"),
        ({"images": {"registry": "https://r.example.org"}}, r"`images.registry` to be without a scheme"),
        ({"stages": {"pretrain": {"gpus": "one"}}}, r"`stages.pretrain.gpus`"),
        ({"stages": {"pretrian": {}}}, r"`stages` to be one of .*'pretrian'. Did you mean 'pretrain'"),
        ({"stages": {"register": {"retries": 1}}}, r"`stages.register.retries` to be 0.*a second version"),
        ({"stages": {"fine-tune": {"retries": 1}}}, r"`stages.fine-tune.retries` to be 0"),
        ({"stages": {"import-target": {"gpus": 1}}}, r"`stages.import-target.gpus` to be 0"),
        ({"default": {"tolerations": {"key": "a"}}}, r"`default.tolerations` to be a list"),
        ({"default": {"tolerations": [{"kee": "a"}]}}, r"`default.tolerations`.*'kee'"),
        ({"default": {"node_selector": {"a": 1}}}, r"`default.node_selector.a` to be text, but got 1"),
        ({"environment": {"A B": "1"}}, r"`environment` to be names of environment variables"),
        ({"environment": {"THREADS": 4}}, r"`environment.THREADS` to be text, but got 4"),
        ({"environment": {"S3_SECRET_KEY": "x"}}, r"`environment` to be without secrets.*Secret"),
        ({"environment": {"MLFLOW_TRACKING_TOKEN": "x"}}, r"`environment` to be without secrets"),
        ({"secrets": {"Ferry_S3": {"keys": {}}}}, r"`secrets` to be names of Kubernetes objects"),
        ({"secrets": {"s": {"keys": {"A": "k", "B": "k"}}}}, r"`secrets.s.keys` to be a key for each variable"),
        (
            {"secrets": {"s": {"keys": {"A": "k"}, "stages": ["pretrian"]}}},
            r"`secrets.s.stages` to be one of.*'pretrain'",
        ),
        ({"secrets": {"s": ["A"]}}, r"`secrets.s` to be a mapping"),
        ({"images": {"pull_policy": "always"}}, r"`images.pull_policy` to be one of .*'Always'"),
        ({"images": {"lock": "absent.json"}}, r"`images.lock` to be a file with digests.*images/build.py push"),
    ],
)
def test_a_wrong_field_is_named_with_its_place_and_a_way_out(values, says):
    with pytest.raises(UserError, match=rf"(?s)^Expected {says}"):
        compiled(values)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [", "`profile` to be YAML"),
        (b"\xff\xfe\x00", "`profile` to be YAML"),
        (b"- a", "`profile` to be a mapping of fields, but got 'list'"),
        (None, "`profile` to be a file that can be read"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path, content, says, ferry):
    path = tmp_path / "profile.yaml"
    if content is not None:
        path.write_bytes(content)
    code, _, err = ferry("compile", "clup", "--profile", path, "-o", tmp_path / "clup.yaml")
    assert code == 2
    assert f"Expected {says}" in err
    assert not (tmp_path / "clup.yaml").exists()


@pytest.mark.parametrize("content", ["[]", '{"tpu": "a@sha256:0"}', '{"cpu": "registry/ferry-cpu:0.1.0"}', "{"])
def test_a_lock_that_holds_no_digests_is_refused(tmp_path, content):
    (tmp_path / "images.lock.json").write_text(content)
    with pytest.raises(UserError, match=r"`images\.lock`"):
        profile_of({"images": {"lock": "images.lock.json"}}, tmp_path)


@pytest.mark.parametrize(("time", "number"), [("90", 90), ("90s", 90), ("2m", 120), ("12h", 43200), ("1d", 86400)])
def test_times(time, number):
    assert seconds(time) == number
    with pytest.raises(UserError, match="`time`"):
        seconds(f"{time}x")


def test_stages_that_never_run_twice_are_stages():
    assert set(NOT_TWICE) <= {stage for info in PIPELINES.values() for stage in stages(info)}
    assert set(NOT_TWICE) > TRAININGS
