"""Every overlay builds, and what it builds is what Kubernetes and the controllers of its custom kinds take."""

import copy
import json
import re
import shutil
from decimal import Decimal
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest

from .built import BUILDS, MANIFESTS, OURS, build, kustomize, of_kind, pods

VERSION = "1.33"  # the oldest Kubernetes that Kubeflow Pipelines 2.17 is tested with
SCHEMAS = Path(__file__).parent / "schemas"
CUSTOM = ("InferenceService", "PodMonitor")


@cache
def schema(kind):
    return json.loads((SCHEMAS / f"{kind.lower()}.json").read_text())


@cache
def check_once(text):
    """Checks an object, which several overlays may have."""
    check(json.loads(text))


def check(one):
    if one["kind"] in CUSTOM:
        jsonschema.validate(one, schema(one["kind"]))
        for pod in pods([one]):
            as_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": pod.spec}
            kubernetes_validate.validate(as_pod, VERSION, strict=True)
    else:
        kubernetes_validate.validate(one, VERSION, strict=True)


@pytest.mark.parametrize("name", BUILDS)
def test_an_overlay_is_valid(name):
    objects = build(name)
    for one in objects:
        check_once(json.dumps(one, sort_keys=True))
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)


def test_the_check_sees_a_field_that_there_is_not_and_a_wrong_type():
    for name, kind, path in (
        ("standalone", "Deployment", ("spec", "template", "spec")),
        ("kserve", "InferenceService", ("spec", "predictor")),
        ("kserve", "InferenceService", ("spec",)),
        (BUILDS[-1], "PodMonitor", ("spec",)),
    ):
        one = copy.deepcopy(of_kind(build(name), kind)[0])
        place = one
        for key in path:
            place = place[key]
        place["replicaz"] = 1
        with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
            check(one)
    one = copy.deepcopy(of_kind(build("kserve"), "InferenceService")[0])
    one["spec"]["predictor"]["minReplicas"] = "1"
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        check(one)


@pytest.mark.parametrize("name", BUILDS)
def test_every_object_is_labelled_and_in_the_namespace_of_its_overlay(name):
    for one in build(name):
        labels, kind = one["metadata"].get("labels", {}), one["kind"]
        assert labels.get("app.kubernetes.io/part-of") == "ferry", (kind, one["metadata"]["name"])
        if kind == "Namespace":
            continue
        allowed = {
            "serving": ("ferry",),
            "services": OURS,
            "standalone": (*OURS, "kubeflow"),
            "standalone-minio": (*OURS, "kubeflow"),
            BUILDS[-1]: ("ferry",),
        }.get(name, ("kubeflow-user-example-com",))
        assert one["metadata"].get("namespace") in allowed, (kind, one["metadata"]["name"])
    for pod in pods(build(name)):
        assert {"app.kubernetes.io/name", "app.kubernetes.io/part-of", "app.kubernetes.io/component"} <= set(pod.labels)


@pytest.mark.parametrize("name", ["kubeflow", "gpu", "kserve"])
def test_one_line_moves_an_overlay_to_another_namespace(name, tmp_path):
    copied = tmp_path / "manifests"
    shutil.copytree(MANIFESTS, copied)
    file = copied / "overlays" / name / "kustomization.yaml"
    text = file.read_text()
    assert text.count("\nnamespace: kubeflow-user-example-com") == 1
    file.write_text(text.replace("kubeflow-user-example-com", "alice"))
    objects = kustomize(file.parent)
    assert "kubeflow-user-example-com" not in json.dumps(objects)
    for one in of_kind(objects, "RoleBinding"):
        assert [subject["namespace"] for subject in one["subjects"]] == ["alice"]


def quantity(text):
    number, unit = re.fullmatch(r"([\d.]+)(\D*)", str(text)).groups()
    return Decimal(number) * {"": 1, "m": Decimal("0.001"), "Mi": 2**20, "Gi": 2**30}[unit]


@pytest.mark.parametrize("namespace", OURS)
def test_a_quota_has_room_for_all_pods_and_one_more_of_each_kind(namespace):
    objects = [*build("services"), *build("serving")]
    (quota,) = (one for one in of_kind(objects, "ResourceQuota") if one["metadata"]["namespace"] == namespace)
    needed = dict.fromkeys(("requests.cpu", "requests.memory", "limits.memory", "requests.storage", "pods"), Decimal(0))
    for pod in pods(objects):
        if pod.namespace != namespace:
            continue
        number = pod.of["spec"].get("replicas", 1) + 1
        needed["pods"] += number
        for container in pod.spec["containers"]:
            needed["requests.cpu"] += number * quantity(container["resources"]["requests"]["cpu"])
            needed["requests.memory"] += number * quantity(container["resources"]["requests"]["memory"])
            needed["limits.memory"] += number * quantity(container["resources"]["limits"]["memory"])
        for claim in pod.of["spec"].get("volumeClaimTemplates", []):
            needed["requests.storage"] += quantity(claim["spec"]["resources"]["requests"]["storage"])
    hard = {name: quantity(value) for name, value in quota["spec"]["hard"].items()}
    assert {name: value for name, value in needed.items() if value > hard[name]} == {}
    limits = [one for one in of_kind(objects, "LimitRange") if one["metadata"]["namespace"] == namespace]
    assert limits[0]["spec"]["limits"][0]["default"]["memory"]  # a quota refuses containers without a limit


def test_gpus_are_limited_by_the_overlay_gpu_only():
    def limited(name):
        return [one["spec"]["hard"] for one in of_kind(build(name), "ResourceQuota")]

    assert limited("gpu") == [{"requests.nvidia.com/gpu": "2"}]
    assert limited("kubeflow") == []


def test_the_namespaces_refuse_pods_that_are_not_restricted():
    spaces = of_kind(build("standalone"), "Namespace")
    assert {one["metadata"]["name"] for one in spaces} == set(OURS)
    assert all(one["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted" for one in spaces)
