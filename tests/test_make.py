"""The Makefile: what it says where Python is missing, old or half installed; the targets that pages name exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]

OLD = """#!/bin/sh
case "$*" in *version_info*) exit 1;; --version) echo "Python 3.9.1";; esac
"""
WITHOUT_ENSUREPIP = f"""#!/bin/sh
case "$*" in
"-m venv"*) mkdir -p .venv/bin; ln -s {sys.executable} .venv/bin/python; echo "ensurepip is not available"; exit 1;;
*) exec {sys.executable} "$@";;
esac
"""


def make(folder, *words):
    return subprocess.run(
        ["make", "--no-print-directory", "-C", str(folder), "-f", str(ROOT / "Makefile"), *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))},
    )


@pytest.mark.parametrize(
    ("python", "shown"),
    [
        (None, "to be an installed Python 3.11 or newer, but got './python', which is not there."),
        (OLD, "to be Python 3.11 or newer, but got 'Python 3.9.1'. Run: make PYTHON=python3.12 .venv/bin/python"),
        (
            WITHOUT_ENSUREPIP,
            "to be able to make an environment, but got the error above. On Debian and Ubuntu run:",
        ),
    ],
    ids=["missing", "old", "without ensurepip"],
)
def test_a_python_that_cannot_be_used_is_named_each_time_with_advice(tmp_path, python, shown):
    if python is not None:
        (tmp_path / "python").write_text(python)
        (tmp_path / "python").chmod(0o755)
    for _ in range(2):
        done = make(tmp_path, "PYTHON=./python", ".venv/bin/python")
        assert done.returncode == 2
        assert f"Expected `PYTHON` {shown}" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / ".venv" / "bin" / "python").exists()


def test_an_environment_that_is_there_is_not_made_again():
    """What has been set up once costs nothing the next time: neither an environment nor an installation."""
    for path in (ROOT / ".venv" / ".ferry", ROOT / ".venv" / ".ferry-test"):
        if not path.exists() or path.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
            pytest.skip("the environment is not that of the Makefile")
    for target in ("demo", "fast"):
        done = make(ROOT, "-n", target)
        assert done.returncode == 0
        assert "pip install" not in done.stdout
        assert "venv .venv" not in done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_every_target_that_a_page_names_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.MULTILINE))
    assert targets or page.startswith("docs/")
    for target in targets:
        done = make(ROOT, "-n", target)
        assert done.returncode == 0, done.stderr


def test_the_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    shown = {line.split()[1] for line in make(ROOT, "help").stdout.splitlines() if line.strip()}
    assert shown == phony
