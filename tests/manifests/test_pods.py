"""Rules for every pod: Pod Security `restricted`, resources, probes, and no secrets but by reference."""

import copy
import re

import pytest

from .built import BUILDS, MANIFESTS, build, of_kind, pods

ALLOWED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
SECRET = re.compile(r"pass(word|wd)?|secret|token|credential|(access|api)_?key", re.IGNORECASE)


def violations(spec):
    """Returns what the Pod Security standard `restricted` (and, below it, `baseline`) forbids in a pod."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    if spec.get("hostUsers") is True:
        found.append("hostUsers")
    for volume in spec.get("volumes", []):
        found += [f"volume {kind}" for kind in set(volume) - {"name"} - ALLOWED_VOLUMES]
    whole = spec.get("securityContext", {})
    for container in [*spec.get("initContainers", []), *spec["containers"], *spec.get("ephemeralContainers", [])]:
        own = container.get("securityContext", {})
        given = {**whole, **own}
        found += [name for name in ("privileged",) if own.get(name)]
        if own.get("allowPrivilegeEscalation") is not False:
            found.append("allowPrivilegeEscalation")
        if given.get("runAsNonRoot") is not True:
            found.append("runAsNonRoot")
        if given.get("runAsUser", 1) == 0:
            found.append("runAsUser")
        if given.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append("seccompProfile")
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            found.append("capabilities")
        if own.get("procMount", "Default") != "Default":
            found.append("procMount")
        found += ["hostPort" for port in container.get("ports", []) if port.get("hostPort")]
    if whole.get("sysctls"):
        found.append("sysctls")
    return sorted(found)


def every_pod(name):
    found = list(pods(build(name)))
    assert len(found) == {"standalone": 6, "standalone-minio": 6, "services": 6, "kubeflow": 0, "gpu": 0}.get(name, 1)
    return found


@pytest.mark.parametrize("name", BUILDS)
def test_pods_are_restricted(name):
    for pod in every_pod(name):
        assert violations(pod.spec) == [], str(pod)
        assert pod.spec["automountServiceAccountToken"] is False, str(pod)
        assert pod.spec["securityContext"]["runAsUser"] > 0, str(
            pod
        )  # names of users are nothing that a node can check
        for container in pod.containers:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, str(pod)


@pytest.mark.parametrize(
    ("violation", "change"),
    [
        ("hostNetwork", lambda spec, _: spec.update(hostNetwork=True)),
        ("volume hostPath", lambda spec, _: spec.setdefault("volumes", []).append({"name": "x", "hostPath": {}})),
        ("runAsNonRoot", lambda spec, _: spec["securityContext"].pop("runAsNonRoot")),
        ("runAsUser", lambda _, container: container["securityContext"].update(runAsUser=0)),
        ("seccompProfile", lambda spec, _: spec["securityContext"].pop("seccompProfile")),
        ("allowPrivilegeEscalation", lambda _, container: container["securityContext"].pop("allowPrivilegeEscalation")),
        ("privileged", lambda _, container: container["securityContext"].update(privileged=True)),
        ("capabilities", lambda _, container: container["securityContext"].pop("capabilities")),
        ("capabilities", lambda _, container: container["securityContext"]["capabilities"].update(add=["SYS_ADMIN"])),
        ("hostPort", lambda _, container: container["ports"][0].update(hostPort=1)),
    ],
)
def test_a_violation_is_seen(violation, change):
    (pod,) = pods(build("serving"))
    spec = copy.deepcopy(pod.spec)
    change(spec, spec["containers"][0])
    assert violations(spec) == [violation]


@pytest.mark.parametrize("name", BUILDS)
def test_containers_ask_for_what_they_need_and_can_be_asked_how_they_are(name):
    for pod in every_pod(name):
        for container in pod.containers:
            resources = container["resources"]
            assert set(resources["requests"]) == {"cpu", "memory"}, str(pod)
            assert resources["limits"]["memory"], str(pod)
        for container in pod.spec["containers"]:
            probes = {name for name in container if name.endswith("Probe")}
            wanted = set() if pod.of["kind"] == "Job" else {"startupProbe", "readinessProbe", "livenessProbe"}
            assert probes == wanted, str(pod)


def literal_secrets(spec):
    """Returns variables and words of a pod that look like secrets, and are not references."""
    found = []
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for entry in container.get("env", []):
            value = entry.get("value", "")
            if (value and SECRET.search(entry["name"])) or re.search(r"//[^/@\s]+:[^/@\s$]+@", value):
                found.append(entry["name"])
        words = [*container.get("command", []), *container.get("args", [])]
        found += [word for word in words if re.search(r"(?i)(password|secret|access[-_.]?key)=[^$]", word)]
    return found


@pytest.mark.parametrize("name", BUILDS)
def test_no_secret_is_in_a_build(name):
    assert of_kind(build(name), "Secret") == []
    for pod in every_pod(name):
        assert literal_secrets(pod.spec) == [], str(pod)
    for one in of_kind(build(name), "ConfigMap"):
        assert not [key for key in one["data"] if re.search(r"(?i)password|token|secret|access-key", key)]


def test_a_literal_secret_is_seen():
    (pod,) = pods(build("serving"))
    for entry in ({"name": "S3_SECRET_KEY", "value": "x"}, {"name": "STORE", "value": "postgresql://a:b@c/d"}):
        spec = copy.deepcopy(pod.spec)
        spec["containers"][0]["env"].append(entry)
        assert literal_secrets(spec) == [entry["name"]]


def test_no_file_makes_secrets():
    for path in MANIFESTS.rglob("*.y*ml"):
        text = path.read_text()
        assert not re.search(r"^kind: Secret$|secretGenerator", text, re.MULTILINE), path


def test_prometheus_is_sent_to_the_port_and_path_of_the_metrics():
    for name, place in (("serving", ("spec", "template", "metadata")), ("kserve", ("spec", "predictor"))):
        (pod,) = pods(build(name))
        annotations = pod.of
        for key in place:
            annotations = annotations[key]
        annotations = annotations["annotations"]
        ports = [str(port["containerPort"]) for port in pod.spec["containers"][0]["ports"]]
        assert [annotations[f"prometheus.io/{key}"] for key in ("scrape", "path", "port")] == [
            "true",
            "/metrics",
            *ports,
        ]
        command = pod.spec["containers"][0]["command"]
        assert command[command.index("--port") + 1] == ports[0]


@pytest.mark.parametrize("name", ["serving", "kserve"])
def test_the_champion_is_served_by_a_command_and_asked_at_routes_that_there_are(name):
    from ferry.pipelines.cli.app import app
    from ferry.serving.app import ROUTES
    from ferry.serving.settings import ServeSettings
    from typer.main import get_command

    (pod,) = pods(build(name))
    (container,) = pod.spec["containers"]
    program, command, *words = container["command"]
    with get_command(app).commands[command].make_context(command, list(words)) as context:
        given = context.params
    assert (program, given["model"], given["host"]) == ("ferry", "models:/ferry-clup@champion", "0.0.0.0")
    for probe, path in (("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")):
        assert container[probe]["httpGet"]["path"] == path
        assert f"GET {path}" in ROUTES
    assert "GET /metrics" in ROUTES
    leaving = container["lifecycle"]["preStop"]["sleep"]["seconds"] + ServeSettings().grace
    assert pod.spec["terminationGracePeriodSeconds"] > leaving
