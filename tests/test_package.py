"""The package as a whole: what is installed, what importing costs, house rules that a machine can see."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "components").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])


def test_every_package_is_listed_so_that_the_wheel_holds_it():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"ferry.pipelines", *_packages("components", "ferry"), *_packages("pipelines", "ferry.pipelines")}
    assert listed == found


def _packages(folder, name):
    roots = [path.parent for path in (ROOT / folder).rglob("__init__.py")]
    return {".".join([name, *path.relative_to(ROOT / folder).parts]) for path in roots}


HEAVY = ("torch", "pyarrow", "PIL", "kfp", "mlflow", "faiss", "sklearn", "matplotlib")
STAGES = ("source", "pretraining", "labelling", "adaptation", "evaluation", "registry", "serving")


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("ferry", (*HEAVY, "numpy")),
        ("ferry.faces, ferry.faces.schema, ferry.faces.labels", (*HEAVY, "numpy")),
        ("ferry.networks, ferry.training, ferry.clustering", HEAVY),
        (", ".join(f"ferry.{name}" for name in STAGES), HEAVY),
    ],
)
def test_importing_the_package_loads_nothing_heavy(module, forbidden):
    code = f"import sys, {module}; print([name for name in {forbidden!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def trees():
    return {path: ast.parse(path.read_text()) for path in SOURCES}


def test_files_and_functions_stay_small(trees):
    assert not [path for path in SOURCES if len(path.read_text().splitlines()) > 400]
    long = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and _lines(node) > 60:
                # a pipeline's parameters and their documentation are its form in the Kubeflow UI
                pipeline = any("pipeline" in ast.dump(decorator) for decorator in node.decorator_list)
                component = any("component" in ast.dump(decorator) for decorator in node.decorator_list)
                if not (pipeline or component):
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not long


def _lines(node):
    """The lines of a function without its docstring."""
    docstring = node.body[0] if ast.get_docstring(node) is not None else None
    return node.end_lineno - node.lineno + 1 - (docstring.end_lineno - docstring.lineno + 1 if docstring else 0)


def test_the_library_has_no_assert_and_no_bare_except(trees):
    for path, tree in trees.items():
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}"
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{path}:{node.lineno}"


def test_doors_import_nothing_but_kfp_and_images():
    for path in SOURCES:
        if path.name == "component.py":
            tree = ast.parse(path.read_text())
            names = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
            assert names <= {"kfp", "common.images"}, path
            assert not [node for node in tree.body if isinstance(node, ast.Import)], path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The folder into which the wheel was installed, made from a copy because setuptools leaves things beside it."""
    place = tmp_path_factory.mktemp("wheel")
    for name in ("components", "pipelines"):
        shutil.copytree(ROOT / name, place / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / "source")
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(place / "installed")]
    subprocess.run([sys.executable, "-m", "pip", *install, str(place / "source")], check=True, capture_output=True)
    return place / "installed"


@pytest.mark.integration
def test_the_wheel_holds_every_file_of_the_package(wheel):
    found = {str(path.relative_to(wheel / "ferry")) for path in (wheel / "ferry").rglob("*") if path.is_file()}
    for folder, below in (("components", ""), ("pipelines", "pipelines/")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert f"{below}{path.relative_to(ROOT / folder)}" in found


@pytest.mark.integration
def test_the_command_works_from_the_wheel_outside_the_repository(wheel, tmp_path):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FERRY_", "MLFLOW_"))}

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-P", *words],
            cwd=tmp_path,
            env={**kept, "PYTHONPATH": str(wheel)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", "import ferry; print(ferry.__file__)").strip() == str(wheel / "ferry" / "__init__.py")
    ferry = str(wheel / "bin" / "ferry")
    assert run(ferry, "--version").strip() == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    run(ferry, "compile", "clup", "-o", "clup.yaml")
    assert "sdkVersion" in (tmp_path / "clup.yaml").read_text()
    run(ferry, "faces", "render", "28", "-o", "faces")
