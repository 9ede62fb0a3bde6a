"""The Dockerfile: clean, by digest, not root, without an entry point, and with every stage's image."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ferry.pipelines.smoke import DOORS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "images" / "Dockerfile").read_text()
IMAGES = ("slim", "cpu", "cuda")


def stages():
    """Returns base and instructions of every stage by its name."""
    lines = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    found, current = {}, []
    for line in filter(str.strip, lines):
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            current = found.setdefault(match[2], (match[1], []))[1]
        elif found:
            current.append(line)
    return found


def test_hadolint_finds_nothing():
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    done = subprocess.run([program, str(ROOT / "images" / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_an_argument_with_a_digest():
    (default,) = re.findall(r"^ARG BASE=(\S+)$", TEXT, re.MULTILINE)
    assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", default)
    known = stages()
    for name, (base, _) in known.items():
        assert base == "${BASE}" or base in known, name
        assert list(known).index(name) > list(known).index(base) if base in known else True


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_runs_as_a_number_and_starts_nothing_by_itself(name):
    base, lines = stages()[name]
    every = [*(stages()[base][1] if base in IMAGES else []), *lines]
    assert [line for line in every if line.startswith("USER")] == ["USER 1000:0"]
    assert not [line for line in every if line.startswith(("ENTRYPOINT", "CMD"))]
    assert lines[-1] == f'RUN ["python3", "-m", "ferry.pipelines.smoke", "{name}"]'
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", " ".join(every)))
    assert labels >= {"title", "description", "version", "revision", "source", "licenses"}


def test_only_hashed_packages_are_installed():
    installs = re.findall(r"pip (?:--python \S+ )?install (.*?)(?:&&|\n\n|$)", re.sub(r"\\\n\s*", " ", TEXT), re.DOTALL)
    assert len(installs) == 5
    for options in installs:
        assert "--require-hashes" in options or "--no-index" in options
        assert "--no-deps" in options


def test_the_context_has_no_tests_no_git_and_nothing_that_was_made():
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    assert kept[1] == "*"
    copied = {
        word.split("/")[0]
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", TEXT, re.MULTILINE)
        for word in line.split()
    }
    assert {line[1:].split("/")[0] for line in kept if line.startswith("!")} == copied


def test_every_stage_runs_in_an_image_that_has_its_door():
    """Images of the compiled pipelines, against what the smoke command imports in them."""
    asked = {}
    for path in (ROOT / "tests" / "pipelines" / "golden").glob("*.yaml"):
        spec = next(document for document in yaml.safe_load_all(path.read_text()) if "root" in document)
        for executor in spec["deploymentSpec"]["executors"].values():
            container = executor["container"]
            kind = re.fullmatch(r"ferry/ferry-(\w+):[\d.]+", container["image"])[1]
            for module in re.findall(r"from (ferry\.\w+)\.\w+ import", " ".join(container["command"])):
                asked.setdefault(kind, set()).add(module)
    for kind, modules in asked.items():
        rooms = {name.rpartition(".")[0] for name in (*DOORS["slim"], *DOORS[kind])}
        assert modules - {"ferry.common"} <= rooms, kind
    assert set(asked) == {"slim", "cpu"}
