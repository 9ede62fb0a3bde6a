"""Every command in the documentation runs, the README's Python runs, and what is named in passing exists."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import kubeflow

ROOT = Path(__file__).resolve().parents[1]
DOCKER = """#!/bin/sh
echo "$@" >> PLACE/asked
case "$1" in image) echo '["registry.example.org/ml/ferry-'"${5##*ferry-}" | sed 's/:.*/@sha256:1"]/';; esac
"""
"""An engine that only notes what it was asked."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def environment(folder):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "FERRY_", "S3_"))}
    return {**kept, "PATH": path, "FERRY_HOME": str(folder / "home"), "OMP_NUM_THREADS": "2"}


def shell(script, folder):
    stop_servers = "trap 'kill $(jobs -p) 2> /dev/null || :' EXIT"
    command = ["bash", "-euo", "pipefail", "-c", f"{stop_servers}\n{script}"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the pages are followed in order, as a reader would."""
    from ferry.faces import render_faces
    from PIL import Image

    place = tmp_path_factory.mktemp("docs")
    faces = render_faces(place / "some", 1, "shaded", 0)
    assert faces is not None
    Image.new("L", (48, 48), 127).save(place / "face.png")
    return place


@pytest.mark.integration
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_runs(page, folder):
    for block in blocks(page, "sh"):
        if "--on docker" not in block:
            shell(block, folder)


@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_every_command_that_needs_an_engine_runs(engine, images, folder):
    """In the folder in which the README's commands have made faces and a model."""
    found = [(page, block) for page in PAGES for block in blocks(page, "sh") if "--on docker" in block]
    assert found
    if not (folder / "model").exists():
        test_every_command_runs(ROOT / "README.md", folder)
    for _, block in found:
        engines = {name: value for name, value in engine.environment.items() if name.startswith("DOCKER_")}
        exports = "".join(f"export {name}={value}\n" for name, value in engines.items())
        shell(f"{exports}export FERRY_IMAGE_REGISTRY=ferry-test\n{block}", folder)


@pytest.mark.slow
def test_every_command_for_engines_and_clusters_is_understood(folder):
    """With an engine that only notes what it was asked, and a double of Kubeflow."""
    place = folder / "engine"
    place.mkdir(exist_ok=True)
    docker = place / "docker"
    docker.write_text(DOCKER.replace("PLACE", str(place)))
    docker.chmod(0o755)
    lock = place / "images.lock.json"
    with kubeflow.serving() as cluster:
        exports = f"export PATH={place}:$PATH KF_PIPELINES_ENDPOINT={cluster.uri} HOME={folder}\ncd {ROOT}"
        for page in PAGES:
            for block in blocks(page, "bash") if page.name != "cluster.md" else ():  # which has a test of its own
                script = block.replace("python images/build.py push", f"python images/build.py push --lock {lock}")
                shell(f"{exports}\n{script}", folder)
    assert (cluster.refused, len(cluster.runs), cluster.schedules) == ([], 2, {})
    assert cluster.asked.count("recurring_run_service_create_recurring_run") == 1
    asked = (place / "asked").read_text()
    assert "--target cuda --tag registry.example.org/ml/ferry-cuda:0.1.0" in asked
    assert "--build-arg BASE=registry.example.org/python:3.11-slim-bookworm" in asked
    assert "PIP_CERT=/etc/ssl" in asked
    assert "TORCH_INDEX=https://mirror.example.org/torch-cpu" in asked
    assert set(json.loads(lock.read_text())) == {"slim", "cpu", "cuda"}


@pytest.mark.integration
def test_the_python_of_the_readme_runs_and_prints_a_result(folder):
    (script,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in script.splitlines() if line.strip()]) <= 10
    printed = shell(f"{sys.executable} - <<'PY'\n{script}\nPY", folder)
    assert re.search(r"0\.\d+ .*report\.html", printed)


def spans(page):
    """The code within sentences and tables of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands():
    """Words of every command to its options."""
    import typer
    from ferry.pipelines.cli.app import app

    found = {}

    def walk(command, words):
        found[words] = {option for entry in command.params for option in (*entry.opts, *entry.secondary_opts)}
        for name, below in getattr(command, "commands", {}).items():
            walk(below, (*words, name))

    walk(typer.main.get_command(app), ())
    return found


def alternatives(words):
    """`faces import/show` are two commands."""
    if re.fullmatch(r"[a-z]+(/[a-z]+)+", words[-1]):
        return [(*words[:-1], last) for last in words[-1].split("/")]
    return [words]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_that_are_named_in_passing_exist(page):
    known = commands()
    groups = {words[:-1] for words in known if words}
    everywhere = set.union(*known.values(), {"--help"})
    for span in spans(page):
        first, *rest = span.split()
        if first == "ferry" and rest:
            for words in alternatives(tuple(rest)):
                command = next(words[:end] for end in range(len(words), -1, -1) if words[:end] in known)
                assert command not in groups, f"{span} names no command"
                assert {word for word in words if word.startswith("-")} <= known[command], span
        elif first.startswith("-"):
            assert first in everywhere, span


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_parameters_that_are_named_in_passing_exist(page):
    from ferry.pipelines.catalogue import PIPELINES, parameters

    known = {name for pipeline in PIPELINES.values() for name in parameters(pipeline)}
    stages = tuple({name.split("_")[0] for name in known if "_" in name})
    for span in spans(page):
        name = re.fullmatch(r"(?:-p )?([a-z]+(?:_[a-z]+)+)(?:=\S+)?", span)
        if name and name[1].startswith(stages):
            assert name[1] in known, span


def test_every_command_has_its_place_in_the_list_of_commands():
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for words in commands():
        if words and words[0] not in ("faces", "schedules"):
            assert f"`ferry {' '.join(words)}" in text, words
        elif len(words) == 2:
            assert words[1] in re.search(rf"`ferry {words[0]} ([\w/]+)`", text)[1].split("/")


def test_every_variable_of_the_list_is_read_somewhere_and_every_one_of_ours_that_people_set_is_listed():
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`((?:FERRY|S3)_\w+)`", text))
    sources = [*(ROOT / "components").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]
    read = set(re.findall(r'"((?:FERRY|S3)_[A-Z_]+)"', "\n".join(path.read_text(encoding="utf-8") for path in sources)))
    between_processes = {"FERRY_STAGE_FOLDER", "FERRY_RUNNER_PID", "FERRY_PROGRESS_FILE", "FERRY_RUN_ID"}
    between_processes |= {"FERRY_RUNNER_LOCK", "FERRY_TRAINJOB", "FERRY_OUTPUT_URI", "FERRY_GRACE_SECONDS"}
    between_processes |= {"FERRY_POD_NAME", "FERRY_POD_UID", "FERRY_POD_NAMESPACE"}
    assert listed <= read
    assert read - between_processes <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert targets == {"demo", "test"}
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
