"""Rights: a table of all that runs may do, and nothing beyond it."""

import pytest

from .built import BUILDS, build, of_kind, pods

RUNS = {
    ("trainer.kubeflow.org", "trainjobs"): {"create", "get", "list", "delete"},
    ("", "pods"): {"list"},
    ("", "pods/log"): {"get"},
    ("serving.kserve.io", "inferenceservices"): {"get", "list", "create", "patch"},
}
ACCOUNTS = {"standalone": "pipeline-runner", "standalone-minio": "pipeline-runner"}


def table(role):
    found = {}
    for rule in role["rules"]:
        assert set(rule) == {"apiGroups", "resources", "verbs"}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                assert (group, resource) not in found
                found[group, resource] = set(rule["verbs"])
    return found


@pytest.mark.parametrize("name", ["standalone", "standalone-minio", "kubeflow", "gpu"])
def test_the_account_of_runs_may_do_this_and_no_more(name):
    objects = build(name)
    (role,), (binding,) = of_kind(objects, "Role"), of_kind(objects, "RoleBinding")
    assert table(role) == RUNS
    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding")
    namespace = role["metadata"]["namespace"]
    account = {"kind": "ServiceAccount", "name": ACCOUNTS.get(name, "default-editor"), "namespace": namespace}
    assert binding["subjects"] == [account]
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role["metadata"]["name"]}
    assert binding["roleRef"] == reference
    assert binding["metadata"]["namespace"] == namespace


@pytest.mark.parametrize("name", BUILDS)
def test_there_are_no_wildcards_and_no_rights_for_services(name):
    for role in of_kind(build(name), "Role", "ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
    ours = {(pod.namespace, pod.spec["serviceAccountName"]) for pod in pods(build(name))}
    for binding in of_kind(build(name), "RoleBinding", "ClusterRoleBinding"):
        assert not ours & {(subject["namespace"], subject["name"]) for subject in binding["subjects"]}
