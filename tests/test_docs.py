"""Every command in the documentation runs, and the README's Python runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def environment(folder):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "FERRY_", "S3_"))}
    return {**kept, "PATH": path, "FERRY_HOME": str(folder / "home"), "OMP_NUM_THREADS": "2"}


def shell(script, folder):
    command = ["bash", "-euo", "pipefail", "-c", script]
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
        shell(block, folder)


@pytest.mark.integration
def test_the_python_of_the_readme_runs_and_prints_a_result(folder):
    (script,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in script.splitlines() if line.strip()]) <= 12
    printed = shell(f"{sys.executable} - <<'PY'\n{script}\nPY", folder)
    assert re.search(r"0\.\d+ .*report\.html", printed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert targets == {"demo", "test"}
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
