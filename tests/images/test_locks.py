"""The locks of the images: whole, closed under what packages need, and in agreement with the project."""

import importlib.util
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "images" / "locks"
TORCH = {"torch", "torchvision", "onnxruntime", "safetensors"}
MARKERS = {"python_version": "3.11", "python_full_version": "3.11.9", "platform_machine": "x86_64", "extra": ""}

spec = importlib.util.spec_from_file_location("lock", ROOT / "images" / "lock.py")
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)


def pinned(name):
    """Returns the versions of a lock by package."""
    entries = lock.packages_of((LOCKS / f"{name}.txt").read_text())
    return {package: re.match(r"[\w.-]+==(\S+)", entry)[1] for package, entry in entries.items()}


@pytest.fixture(scope="module")
def locked():
    return {name: pinned(name) for name in ("slim", "cpu", "cuda", "build")}


@pytest.mark.parametrize("name", ["slim", "cpu", "cuda", "build"])
def test_every_package_has_one_version_and_hashes(name):
    entries = lock.packages_of((LOCKS / f"{name}.txt").read_text())
    assert len(entries) > 5
    for package, entry in entries.items():
        assert re.fullmatch(r"[\w.-]+==\S+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", entry), package


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_an_image_has_every_dependency_of_the_project_in_a_version_that_it_allows(locked, kind):
    there = {**locked["slim"], **locked[kind]}
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        wanted = Requirement(text)
        assert Version(there[canonicalize_name(wanted.name)]) in wanted.specifier, text


def test_slim_has_no_torch_and_torch_adds_nothing_twice(locked):
    assert not TORCH & locked["slim"].keys()
    assert not [name for name in locked["slim"] if name.startswith("nvidia") or name == "triton"]
    assert locked["cpu"].keys() & locked["cuda"].keys() >= TORCH
    for kind in ("cpu", "cuda"):
        assert not locked[kind].keys() & locked["slim"].keys()
    assert not [name for name in locked["cpu"] if name.startswith("nvidia")]
    assert locked["cpu"]["torch"].endswith("+cpu")


@pytest.mark.parametrize("kinds", [("slim",), ("slim", "cpu"), ("slim", "cuda"), ("build",)])
def test_a_lock_holds_what_its_packages_need(locked, kinds):
    """As far as the packages are installed here in the same version."""
    there = {name: version for kind in kinds for name, version in locked[kind].items()}
    known = 0
    for name, version in there.items():
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if Version(installed.version).public != Version(version).public:
            continue
        known += 1
        for text in installed.requires or []:
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate(MARKERS):
                needed = canonicalize_name(wanted.name)
                assert needed in there, f"{name} needs {needed}"
                assert wanted.specifier.contains(Version(there[needed]).public, prereleases=True), f"{name}: {text}"
    assert known > 3


def test_packages_are_read_whatever_the_lock_says_around_them():
    text = "# head\nA_b.C==1.0 \\\n    --hash=sha256:00\n    # via x\nd==2\n"
    assert lock.packages_of(text) == {"a-b-c": "A_b.C==1.0 \\\n    --hash=sha256:00\n    # via x\n", "d": "d==2\n"}
    assert lock.pins(lock.packages_of(text)) == ["A_b.C==1.0", "d==2"]
    assert lock.packages_of("# nothing\n") == {}
