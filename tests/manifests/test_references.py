"""Whatever the manifests and profiles name is there: secrets, config maps, accounts, ports, images, addresses."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from ferry import __version__
from ferry.common.images import kind_of

from .built import BUILDS, MANIFESTS, OURS, build, of_kind, pods, profiles, secrets
from .network import selects

FOREIGN_ACCOUNTS = ("pipeline-runner", "default-editor")
FOREIGN_PODS = (
    ("kube-system", {"k8s-app": "kube-dns"}, {53}),
    ("kubeflow", {"app": "ml-pipeline"}, {8887, 8888}),
    ("kubeflow", {"component": "metadata-grpc-server"}, {8080}),
    ("kubeflow", {"app": "seaweedfs"}, {8333}),
)
"""Pods of Kubernetes and of Kubeflow Pipelines 2.17 that policies name, and the ports that those listen to."""
COMPILED = Path(__file__).resolve().parents[1] / "pipelines" / "golden" / "profiles"
RUNS = "kubeflow"
"""The namespace of the runs in the README's commands."""


def references(spec, what):
    """Yields names and keys of the secrets or config maps that a pod needs; a key of None is the whole."""
    ref, whole, volume, name = {
        "secret": ("secretKeyRef", "secretRef", "secret", "secretName"),
        "config map": ("configMapKeyRef", "configMapRef", "configMap", "name"),
    }[what]
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for entry in container.get("env", []):
            if ref in entry.get("valueFrom", {}):
                yield entry["valueFrom"][ref]["name"], entry["valueFrom"][ref]["key"]
        for entry in container.get("envFrom", []):
            if whole in entry:
                yield entry[whole]["name"], None
    for one in spec.get("volumes", []):
        assert "projected" not in one
        if volume in one:
            for item in one[volume].get("items", [{"key": None}]):
                yield one[volume][name], item["key"]
    if what == "secret":
        yield from ((one["name"], None) for one in spec.get("imagePullSecrets", []))


def wanted_secrets():
    """Yields namespace, name and key of every secret of builds and profiles."""
    for name in BUILDS:
        for pod in pods(build(name)):
            for secret, key in references(pod.spec, "secret"):
                yield pod.namespace if pod.namespace in OURS else RUNS, secret, key
        for account in of_kind(build(name), "ServiceAccount"):
            place = account["metadata"]["namespace"]
            for secret in account.get("imagePullSecrets", []):
                yield place if place in OURS else RUNS, secret["name"], None
    for profile in profiles().values():
        for secret, given in profile.get("secrets", {}).items():
            yield from ((RUNS, secret, key) for key in given["keys"].values())
        yield from ((RUNS, secret, None) for secret in profile.get("images", {}).get("pull_secrets", []))


def test_the_readme_makes_every_secret_that_is_named_and_no_other():
    made, wanted = secrets(), {}
    for namespace, name, key in wanted_secrets():
        wanted.setdefault((namespace, name), set()).update({key} - {None})
    assert set(made) == set(wanted)
    for place, keys in wanted.items():
        assert set(made[place]) == (keys or {".dockerconfigjson"}), place


def test_keys_in_different_places_are_the_same_where_they_must_be_and_nowhere_else():
    made = secrets()
    assert made[RUNS, "ferry-s3"] != made[RUNS, "ferry-source-s3"]
    assert made["ferry", "mlflow-database"]["password"] in made["ferry", "mlflow-database"]["uri"]
    uri = urlsplit(made["ferry", "mlflow-database"]["uri"])
    assert address(build("standalone"), uri.geturl())
    assert (uri.username, uri.path) == ("mlflow", "/mlflow")
    generated = [values["secret-key"] for values in made.values() if "secret-key" in values]
    assert len(set(generated)) == len(generated) == 5
    assert made[RUNS, "ferry-s3"]["access-key"] not in made["ferry-source", "store-identities"]["s3.json"]


@pytest.mark.parametrize("name", BUILDS)
def test_config_maps_and_accounts_are_there(name):
    objects = build(name)
    maps = {
        (one["metadata"]["namespace"], one["metadata"]["name"]): one["data"] for one in of_kind(objects, "ConfigMap")
    }
    accounts = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in of_kind(objects, "ServiceAccount")}
    for pod in pods(objects):
        for config, key in references(pod.spec, "config map"):
            assert key in maps[pod.namespace, config], str(pod)
        assert (pod.namespace, pod.spec["serviceAccountName"]) in accounts, str(pod)
        mounted = {mount["name"] for container in pod.containers for mount in container.get("volumeMounts", [])}
        claims = {claim["metadata"]["name"] for claim in pod.of["spec"].get("volumeClaimTemplates", [])}
        assert mounted == claims | {volume["name"] for volume in pod.spec.get("volumes", [])}, str(pod)
    for binding in of_kind(objects, "RoleBinding"):
        for subject in binding["subjects"]:
            assert subject["name"] in FOREIGN_ACCOUNTS
        kind, role = binding["roleRef"]["kind"], binding["roleRef"]["name"]
        assert role in [one["metadata"]["name"] for one in of_kind(objects, kind)]


@pytest.mark.parametrize("name", ["standalone", "standalone-minio", "kubeflow", "gpu"])
def test_profiles_find_their_config_maps(name):
    maps = {one["metadata"]["name"]: one["data"] for one in of_kind(build(name), "ConfigMap")}
    for profile in profiles().values():
        for config, given in profile["config_maps"].items():
            assert set(given["keys"].values()) == set(maps[config])


@pytest.mark.parametrize("path", sorted(COMPILED.glob("*.yaml")), ids=lambda path: path.stem)
def test_compiled_pods_have_the_label_that_policies_select_by(path):
    _, platform = yaml.safe_load_all(path.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    pipeline = path.stem.partition("-")[0]
    assert {one["podMetadata"]["labels"]["ferry/pipeline"] for one in executors.values()} == {pipeline}
    for policy in of_kind(build("standalone"), "NetworkPolicy"):
        for expression in policy["spec"]["podSelector"].get("matchExpressions", []):
            assert (expression["key"], expression.get("values", ["source"])) == ("ferry/pipeline", ["source"])


def test_only_the_profile_of_the_source_has_the_keys_of_the_source():
    for name, profile in profiles().items():
        kinds = {"ferry-source-s3", "ferry-s3"} & set(profile["secrets"]), set(profile["config_maps"])
        assert kinds == (({"ferry-source-s3"}, {"ferry-source"}) if name == "source" else ({"ferry-s3"}, {"ferry"}))
        stages = {stage for secret in kinds[0] for stage in profile["secrets"][secret]["stages"]}
        assert ("train-source" in stages) == (name == "source")


def ports_of(pod):
    """Returns the ports of a pod by name and by number."""
    found = {}
    for container in pod.spec["containers"]:
        for port in container.get("ports", []):
            found[port["name"]] = found[port["containerPort"]] = port["containerPort"]
    return found


@pytest.mark.parametrize("name", BUILDS)
def test_services_and_probes_lead_to_ports_of_containers(name):
    objects = build(name)
    for service in of_kind(objects, "Service"):
        chosen = [
            pod
            for pod in pods(objects)
            if pod.namespace == service["metadata"]["namespace"] and selects(
                {"matchLabels": service["spec"]["selector"]}, pod.labels
            )
        ]  # fmt: skip
        assert len(chosen) == 1, service["metadata"]["name"]
        assert all(port["targetPort"] in ports_of(chosen[0]) for port in service["spec"]["ports"])
    for pod in pods(objects):
        for container in pod.spec["containers"]:
            probes = [probe for key, probe in container.items() if key.endswith("Probe")]
            assert all(probe["httpGet"]["port"] in ports_of(pod) for probe in probes if "httpGet" in probe), str(pod)
        if pod.of["kind"] == "StatefulSet":
            assert pod.of["spec"]["serviceName"] in [one["metadata"]["name"] for one in of_kind(objects, "Service")]
        if pod.of["kind"] in ("Deployment", "StatefulSet"):
            assert selects(pod.of["spec"]["selector"], pod.labels)
    for budget in of_kind(objects, "PodDisruptionBudget"):
        (pod,) = (pod for pod in pods(objects) if selects(budget["spec"]["selector"], pod.labels))
        assert pod.of["spec"]["replicas"] > budget["spec"]["maxUnavailable"]
    for monitor in of_kind(objects, "PodMonitor"):
        (pod,) = (pod for pod in pods(objects) if selects(monitor["spec"]["selector"], pod.labels))
        assert all(one["port"] in ports_of(pod) for one in monitor["spec"]["podMetricsEndpoints"])


@pytest.mark.parametrize("name", BUILDS)
def test_servers_listen_to_the_ports_of_their_containers(name):
    for pod in pods(build(name)):
        for container in pod.spec["containers"]:
            words = " ".join([*container.get("command", []), *container.get("args", [])])
            for port in container.get("ports", []):
                if words:  # PostgreSQL is started by its image, and has a port of its own
                    assert re.search(rf"(port[= ]|address=:){port['containerPort']}\b", words), str(pod)
                else:
                    assert (container["name"], port["containerPort"]) == ("postgresql", 5432)


def address(objects, url):
    """Returns the port of the container that a URL of a service leads to."""
    found = re.fullmatch(r"\w+://(?:[^@/]+@)?([a-z-]+)\.([a-z-]+)\.svc:(\d+)(?:/.*)?", url)
    service, namespace, number = found[1], found[2], int(found[3])
    (one,) = (
        one
        for one in of_kind(objects, "Service")
        if (one["metadata"]["name"], one["metadata"]["namespace"]) == (service, namespace)
    )
    (port,) = (port for port in one["spec"]["ports"] if port["port"] == number)
    wanted = {"matchLabels": one["spec"]["selector"]}
    (pod,) = (pod for pod in pods(objects) if pod.namespace == namespace and selects(wanted, pod.labels))
    return ports_of(pod)[port["targetPort"]]


@pytest.mark.parametrize("name", BUILDS)
def test_every_address_is_that_of_a_service(name):
    services = build("services")
    values = [
        value for one in of_kind(build(name), "ConfigMap") for key, value in one["data"].items() if "." not in key
    ]
    for pod in pods(build(name)):
        for container in pod.containers:
            values += [entry.get("value", "") for entry in container.get("env", [])]
    urls = [value for value in values if "://" in value]
    assert all(address(services, url) for url in urls)
    assert urls


def test_buckets_that_are_used_are_made_and_in_the_identities():
    made = secrets()
    buckets = {
        one["metadata"]["namespace"]: one["data"]["buckets"].split()
        for one in of_kind(build("standalone"), "ConfigMap")
        if "buckets" in one["data"]
    }
    assert buckets == {"ferry": ["ferry-targets", "ferry-mlflow"], "ferry-source": ["ferry-source"]}
    for namespace, names in buckets.items():
        identities = made[namespace, "store-identities"]["s3.json"]
        assert sorted(set(re.findall(r'"Read:([^"]+)"', identities))) == sorted(names)
    (server,) = of_kind(build("standalone"), "Deployment")
    (destination,) = re.findall(r"--artifacts-destination=s3://([^/']+)/", str(server))
    assert destination in buckets["ferry"]


@pytest.mark.parametrize("name", BUILDS)
def test_images_are_ours_of_this_version_or_pinned(name):
    for pod in pods(build(name)):
        for container in pod.containers:
            image = container["image"]
            if kind_of(image):
                assert image == f"ferry/ferry-{kind_of(image)}:{__version__}"
            else:
                assert re.fullmatch(r"[\w.-]+\.[a-z]+/[\w./-]+(:[\w.-]*\d[\w.-]*|@sha256:[0-9a-f]{64})", image), image


@pytest.mark.parametrize("name", ["standalone", "serving", "kserve"])
def test_the_registry_is_set_once_for_an_overlay(name):
    text = (MANIFESTS / "overlays" / name / "kustomization.yaml").read_text()
    ours = {kind_of(c["image"]) for pod in pods(build(name)) for c in pod.containers} - {""}
    assert set(re.findall(r"\{name: ferry/ferry-(\w+), newName: ferry/ferry-\1, newTag: [\d.]+\}", text)) == ours


def peers(policy):
    """Yields the selectors of a policy with the namespace, or the labels of the namespace, that they look in."""
    here = policy["metadata"]["namespace"]
    yield {"matchLabels": {"kubernetes.io/metadata.name": here}}, policy["spec"]["podSelector"], None
    for side, direction in (("ingress", "from"), ("egress", "to")):
        for rule in policy["spec"].get(side, []):
            ports = {port["port"] for port in rule.get("ports", [])}
            for peer in rule[direction]:
                if "ipBlock" not in peer:
                    where = peer.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": here}})
                    yield where, peer.get("podSelector", {}), ports if side == "egress" else None


@pytest.mark.parametrize("name", BUILDS)
def test_policies_select_pods_that_there_are_and_ports_that_they_have(name):
    """Pods of runs are known by ferry/pipeline, those that call from elsewhere by their namespace."""
    known = [(one.namespace, one.labels, set(ports_of(one).values())) for n in BUILDS for one in pods(build(n))]
    known += FOREIGN_PODS
    runs = "kubeflow" if "standalone" in name or name == "services" else "kubeflow-user-example-com"
    known += [(runs, {"ferry/pipeline": pipeline}, set()) for pipeline in ("clup", "source")]
    for policy in of_kind(build(name), "NetworkPolicy"):
        for where, selector, ports in peers(policy):
            found = [
                (labels, open_ports)
                for namespace, labels, open_ports in known
                if selects(where, {"kubernetes.io/metadata.name": namespace, "ferry/runs": "allowed"})
                and selects(selector, labels)
            ]
            assert found or selector == {}, (policy["metadata"]["name"], selector)
            for labels, open_ports in found:
                if ports is not None and "ferry/pipeline" not in labels:
                    assert ports <= open_ports, (policy["metadata"]["name"], labels)
        chosen = [
            open_ports
            for namespace, labels, open_ports in known
            if namespace == policy["metadata"]["namespace"] and selects(policy["spec"]["podSelector"], labels)
        ]
        asked = {port["port"] for rule in policy["spec"].get("ingress", []) for port in rule.get("ports", [])}
        assert all(asked <= open_ports for open_ports in chosen if asked), policy["metadata"]["name"]
