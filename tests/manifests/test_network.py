"""Source-free, for the network: who reaches whom by the policies that are built."""

import copy

import pytest

from .built import build, of_kind
from .network import Pod, World, key

API, INTERNET = Pod(ip="10.96.0.1"), Pod(ip="52.216.0.1")
DNS = Pod("kube-system", {"k8s-app": "kube-dns"})
PART = "app.kubernetes.io/component"
NAME = "app.kubernetes.io/name"


RUN = {"matchExpressions": [{"key": "ferry/pipeline", "operator": "Exists"}]}


def run(pipeline, namespace):
    return Pod(namespace, {"ferry/pipeline": pipeline, "ferry/stage": "any"})


SOURCE_STORE = Pod("ferry-source", {NAME: "source-store", PART: "object-store"})
TARGET_STORE = Pod("ferry", {NAME: "target-store", PART: "object-store"})
MLFLOW = Pod("ferry", {NAME: "mlflow"})
DATABASE = Pod("ferry", {NAME: "mlflow-database"})
SERVING = Pod("ferry", {NAME: "ferry-serving"})
SERVER, METADATA, ARTIFACTS = (
    Pod("kubeflow", labels)
    for labels in ({"app": "ml-pipeline"}, {"component": "metadata-grpc-server"}, {"app": "seaweedfs"})
)


def table(runs):
    """Returns connections with what they must be: source, destination, port, allowed."""
    source, stranger = run("source", runs), Pod(runs, {"app": "notebook"})
    rows = [
        (source, SOURCE_STORE, 8333, True),
        (source, TARGET_STORE, 8333, False),
        (run("source", "default"), SOURCE_STORE, 8333, False),
        (source, INTERNET, 443, False),
    ]
    for pipeline in ("clup", "adabn", "one-that-comes-later"):
        one = run(pipeline, runs)
        rows += [
            (one, SOURCE_STORE, 8333, False),
            (one, SOURCE_STORE, 443, False),
            (one, TARGET_STORE, 8333, True),
            (one, TARGET_STORE, 8888, False),
            (one, run("clup", runs), 29500, True),
            (one, source, 29500, False),
            (source, one, 29500, False),
            (source, source, 29500, True),
            (run(pipeline, "default"), TARGET_STORE, 8333, False),
            (stranger, one, 29500, False),
        ]
    for one in (run("clup", runs), source):
        rows += [(one, MLFLOW, 5000, True), (one, DATABASE, 5432, False), (one, SERVING, 8080, False)]
        rows += [(one, DNS, 53, True), (one, API, 443, True), (one, API, 6443, True), (one, API, 22, False)]
        rows += [(one, SERVER, 8887, True), (one, SERVER, 8888, True), (one, METADATA, 8080, True)]
        rows += [(one, ARTIFACTS, 8333, True), (one, ARTIFACTS, 8888, False)]
        rows += [(one, INTERNET, 443, False), (one, INTERNET, 53, False)]
    for one in (stranger, Pod("default", {}), SERVING, MLFLOW):
        rows += [(one, SOURCE_STORE, 8333, False), (one, DATABASE, 5432, one is MLFLOW)]
        rows += [(one, TARGET_STORE, 8333, one is MLFLOW), (one, MLFLOW, 5000, one is SERVING or one is MLFLOW)]
    for store in (SOURCE_STORE, TARGET_STORE):
        buckets = Pod(store.namespace, {**store.labels, PART: "buckets"})
        rows += [(buckets, store, 8333, True), (buckets, DNS, 53, True), (buckets, INTERNET, 443, False)]
        rows += [(store, INTERNET, 443, False), (buckets, Pod(store.namespace), 5432, False)]
    rows += [(one, INTERNET, 443, False) for one in (MLFLOW, DATABASE, SERVING)]
    rows += [(one, DNS, 53, True) for one in (MLFLOW, SERVING)]
    rows += [(Pod("apps"), SERVING, 8080, True), (Pod("default"), SERVING, 8080, False)]
    rows += [(Pod("monitoring"), SERVING, 8080, True), (stranger, Pod(runs, {"app": "other"}), 80, True)]
    # A pod reaches itself without any policy.
    return [row for row in rows if row[0] is not row[1] or row[2] == 29500]


def floors(runs):
    """Returns what one side alone must refuse: the policy of the runs and that of the store hold without the other."""
    for pipeline in ("clup", "adabn", "one-that-comes-later"):
        one = run(pipeline, runs)
        for port in (8333, 8888, 9333, 8080):
            yield "leaves", one, SOURCE_STORE, port
        for port in (8333, 8888, 18333, 443):
            yield "enters", one, SOURCE_STORE, port
    for port in (8888, 9333, 8080, 18333):  # where SeaweedFS asks for no keys
        yield "enters", run("clup", runs), TARGET_STORE, port
        yield "enters", run("source", runs), SOURCE_STORE, port
    yield "leaves", run("source", runs), TARGET_STORE, 8333
    yield "enters", run("source", runs), TARGET_STORE, 8333


def world(name):
    policies = of_kind(build(name), "NetworkPolicy")
    for other in ("services", "serving"):
        policies = [*policies, *(one for one in of_kind(build(other), "NetworkPolicy") if one not in policies)]
    labels = {"ferry/runs": "allowed"} if name != "standalone" else {}
    return World(tuple(policies), {runs_of(name): labels, "apps": {"ferry/clients": "allowed"}})


def runs_of(name):
    return "kubeflow" if name == "standalone" else "kubeflow-user-example-com"


def differences(in_world, runs):
    """Returns what does not hold of the table, with DNS by both protocols, and of the floors."""
    found = [one for one in floors(runs) if getattr(in_world, one[0])(*one[1:])]
    for source, destination, port, allowed in table(runs):
        protocols = ("UDP", "TCP") if port == 53 else ("TCP",)
        found += [
            (source, destination, port)
            for one in protocols
            if in_world.allows(source, destination, port, one) != allowed
        ]
    return found


NAMES = ("standalone", "kubeflow", "gpu")


@pytest.mark.parametrize("name", NAMES)
def test_who_reaches_whom(name):
    assert differences(world(name), runs_of(name)) == []


def test_without_its_label_a_namespace_is_not_let_in():
    bare = World(world("kubeflow").policies)
    for store, pipeline in ((SOURCE_STORE, "source"), (TARGET_STORE, "clup"), (MLFLOW, "clup")):
        assert not bare.enters(run(pipeline, runs_of("kubeflow")), store, 8333 if store is not MLFLOW else 5000)


@pytest.mark.parametrize("policy", sorted(key(one) for one in world("standalone").policies), ids="/".join)
def test_no_policy_can_be_left_out(policy):
    assert differences(world("standalone").without(*policy), "kubeflow")


def widened(policy, change):
    changed = copy.deepcopy(world("standalone").policies)
    (one,) = (one for one in changed if one["metadata"]["name"] == policy)
    change(one["spec"])
    return World(changed, world("standalone").namespaces)


@pytest.mark.parametrize(
    ("policy", "change"),
    [
        ("source-store", lambda spec: spec["ingress"][0].pop("from")),
        ("source-store", lambda spec: spec["ingress"][0]["from"][0].pop("namespaceSelector")),
        ("target-store", lambda spec: spec["ingress"][0]["from"][0].pop("podSelector")),
        ("target-store", lambda spec: spec["ingress"][0].pop("ports")),
        ("mlflow", lambda spec: spec["policyTypes"].remove("Ingress")),
        ("ferry-to-kubeflow", lambda spec: spec["egress"][0].pop("to")),
        ("ferry-to-kubeflow", lambda spec: spec["egress"][-1].pop("ports")),
        ("ferry-to-kubeflow", lambda spec: spec["egress"][-1]["to"].append({"ipBlock": {"cidr": "0.0.0.0/0"}})),
        ("ferry-to-targets", lambda spec: spec["podSelector"]["matchExpressions"].pop()),
        ("ferry-to-source", lambda spec: spec.update(podSelector=RUN)),
        ("source-store", lambda spec: spec["ingress"][0]["from"][0].update(podSelector=RUN)),
        ("ferry-adaptation-peers", lambda spec: spec["ingress"][0]["from"][0]["podSelector"].clear()),
    ],
)
def test_a_policy_that_lets_more_through_is_seen(policy, change):
    assert differences(widened(policy, change), "kubeflow")
