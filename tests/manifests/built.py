"""The manifests as `kubectl kustomize` builds them, and the commands for their secrets as a shell runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
OVERLAYS = tuple(sorted(path.name for path in (MANIFESTS / "overlays").iterdir()))
MONITORED = "serving with podmonitor"
BUILDS = (*OVERLAYS, "services", MONITORED)
OURS = ("ferry", "ferry-source")
"""Namespaces that the manifests make; every other one is that of the runs."""


class PodSpec(NamedTuple):
    """A pod that an object of a build makes."""

    of: dict[str, Any]
    namespace: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def __str__(self) -> str:
        return f"{self.of['kind']} {self.of['metadata']['name']}"


def kustomize(folder: Path) -> list[dict[str, Any]]:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("no `kubectl` program on PATH")
    done = subprocess.run([program, "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@cache
def build(name: str) -> list[dict[str, Any]]:
    """Returns the objects of an overlay, or of another of :data:`BUILDS`; not to be changed."""
    if name == "services":
        return kustomize(MANIFESTS / "services")
    if name != MONITORED:
        return kustomize(MANIFESTS / "overlays" / name)
    with tempfile.TemporaryDirectory() as place:
        here = Path(place).resolve()
        wanted = {
            "namespace": "ferry",
            "resources": [os.path.relpath(MANIFESTS / "overlays" / "serving", here)],
            "components": [os.path.relpath(MANIFESTS / "components" / "podmonitor", here)],
        }
        (here / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
        return kustomize(here)


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] in kinds]


def pods(objects: list[dict[str, Any]]) -> Iterator[PodSpec]:
    """Yields the pods that objects make."""
    for one in objects:
        namespace = one["metadata"].get("namespace", "")
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            template = one["spec"]["template"]
            yield PodSpec(one, namespace, template["metadata"]["labels"], template["spec"])
        elif one["kind"] == "InferenceService":
            predictor = one["spec"]["predictor"]
            own = ("labels", "annotations", "minReplicas", "maxReplicas", "timeout")
            spec = {key: value for key, value in predictor.items() if key not in own}
            yield PodSpec(one, namespace, predictor["labels"], spec)


def profiles() -> dict[str, dict[str, Any]]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted((MANIFESTS / "profiles").glob("*.yaml"))}


def secrets() -> dict[tuple[str, str], dict[str, str]]:
    """Runs the commands of the README with a `kubectl` that writes them down; returns keys by namespace and name."""
    (block,) = re.findall(r"^```bash\n(.*?)^```", (MANIFESTS / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return made_by(block)


@cache
def made_by(block: str) -> dict[tuple[str, str], dict[str, str]]:
    with tempfile.TemporaryDirectory() as place:
        log, stub = Path(place) / "log", Path(place) / "kubectl"
        stub.write_text(
            '#!/bin/sh\n[ "$1" = get ] && exit 1\n{ printf \'%s\\037\' "$@"; printf \'\\036\'; } >> "$LOG"\n'
        )
        stub.chmod(0o755)
        environment = {"PATH": f"{place}:{os.environ['PATH']}", "LOG": str(log)}
        subprocess.run(["bash", "-euo", "pipefail", "-c", _given() + block], env=environment, cwd=ROOT, check=True)
        calls = [call.split("\037")[:-1] for call in log.read_text().split("\036")[:-1]]
    found = {}
    for words in calls:
        if words[:2] == ["create", "secret"]:
            name, namespace = words[3], words[words.index("-n") + 1]
            literals = [word.removeprefix("--from-literal=").partition("=") for word in words if "--from-l" in word]
            assert (namespace, name) not in found
            found[namespace, name] = {key: value for key, _, value in literals}
            if words[2] == "docker-registry":
                found[namespace, name] = {".dockerconfigjson": ""}
        else:
            assert words[:2] == ["apply", "-f"]
            assert (ROOT / words[2]).is_file()
    return found


def _given() -> str:
    names = ("MLFLOW_USER", "MLFLOW_PASSWORD", "REGISTRY", "REGISTRY_USER", "REGISTRY_PASSWORD")
    return "".join(f"{name}=of-the-user\n" for name in names)
