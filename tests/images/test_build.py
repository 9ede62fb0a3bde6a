"""Building, pushing and locking images, with an engine that only notes what it was asked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word" >> "$0.asked"; done
case "$1" in image) echo '["other/ferry-cpu@sha256:11", "registry.example.org/ml/ferry-cpu@sha256:22"]';; esac
exit ${FAKE_CODE:-0}
"""


@pytest.fixture
def run(tmp_path):
    engine = tmp_path / "engine"
    engine.write_text(ENGINE)
    engine.chmod(0o755)

    def call(*words, **environment):
        command = [sys.executable, str(ROOT / "images" / "build.py"), *words]
        done = subprocess.run(
            [*command[:3], "--engine", str(engine), *command[3:]],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        asked = Path(f"{engine}.asked")
        return done, asked.read_text().splitlines() if asked.exists() else []

    return call


def test_an_image_is_named_after_registry_kind_and_version(run):
    done, asked = run("build", "cpu", "--registry", "registry.example.org/ml/", "--", "--network", "host")
    assert done.returncode == 0, done.stderr
    assert asked[asked.index("--tag") + 1] == "registry.example.org/ml/ferry-cpu:0.1.0"
    assert asked[asked.index("--target") + 1] == "cpu"
    assert "VERSION=0.1.0" in asked
    assert asked[-3:] == ["--network", "host", str(ROOT)]


def test_where_packages_come_from_is_handed_on(run):
    _, asked = run("build", "slim", PIP_INDEX_URL="https://mirror.example.org/simple", TORCH_INDEX="")
    assert "PIP_INDEX_URL=https://mirror.example.org/simple" in asked
    assert not [word for word in asked if word.startswith("TORCH_INDEX")]


def test_all_kinds_are_built_where_none_is_named(run):
    _, asked = run("build")
    assert [asked[at + 1] for at, word in enumerate(asked) if word == "--target"] == ["slim", "cpu", "cuda"]


def test_a_build_that_fails_ends_with_its_code(run):
    done, asked = run("build", FAKE_CODE="3")
    assert done.returncode == 3
    assert asked.count("--target") == 1
    assert "Traceback" not in done.stderr


def test_a_push_writes_the_registrys_digest_and_keeps_the_others(run, tmp_path):
    path = tmp_path / "images.lock.json"
    path.write_text(json.dumps({"slim": "a@sha256:00", "cpu": "old"}))
    done, asked = run("push", "cpu", "--registry", "registry.example.org/ml", "--lock", str(path))
    assert done.returncode == 0, done.stderr
    assert asked[:2] == ["push", "registry.example.org/ml/ferry-cpu:0.1.0"]
    assert json.loads(path.read_text()) == {
        "cpu": "registry.example.org/ml/ferry-cpu@sha256:22",
        "slim": "a@sha256:00",
    }


def test_a_push_that_left_no_digest_changes_nothing(run, tmp_path):
    path = tmp_path / "images.lock.json"
    done, _ = run("push", "slim", "--registry", "registry.example.org/ml", "--lock", str(path))
    assert done.returncode == 2
    assert "Expected `registry.example.org/ml/ferry-slim:0.1.0` to have a digest" in done.stderr
    assert not path.exists()


def test_docker_hub_is_called_by_its_short_name(run, tmp_path):
    path = tmp_path / "images.lock.json"
    done, _ = run("push", "cpu", "--registry", "docker.io/other", "--lock", str(path))
    assert done.returncode == 0, done.stderr
    assert json.loads(path.read_text()) == {"cpu": "other/ferry-cpu@sha256:11"}


def test_a_damaged_lock_is_found_before_anything_is_sent(run, tmp_path):
    path = tmp_path / "images.lock.json"
    path.write_text("{")
    done, asked = run("push", "cpu", "--registry", "registry.example.org/ml", "--lock", str(path))
    assert done.returncode == 2
    assert "to be a file with digests" in done.stderr
    assert asked == []
    assert path.read_text() == "{"


def test_a_missing_engine_is_named(tmp_path):
    command = [sys.executable, str(ROOT / "images" / "build.py"), "build", "--engine", "no-such-engine"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Expected `no-such-engine` to be installed")
