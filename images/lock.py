"""Writes the lock files of the images: every package in one version, with the hashes of its files.

    python images/lock.py

`locks/slim.txt` has what all images have, `locks/cpu.txt` and `locks/cuda.txt` what torch adds to it, `locks/build.txt`
what builds them and reaches none. Needs uv (`pip install uv`) and PyPI; wheels for CPUs come from `--torch-index`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "locks"
PROJECT = FOLDER.parents[1] / "pyproject.toml"
PYTHON = "3.11"
PLATFORM = "x86_64-manylinux_2_28"
TORCH = ("torch", "torchvision", "onnxruntime", "safetensors")
"""What slim does without."""
VERSIONS = {
    "cpu": ("torch==2.13.0+cpu", "torchvision==0.28.0+cpu"),
    "cuda": ("torch==2.14.1", "torchvision==0.29.1"),
}
"""Releases for CPUs have an index of their own."""
BUILD = ("pip", "setuptools", "wheel", "cyclonedx-bom")


def main() -> None:
    """Writes all of them, or none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-index", default="https://download.pytorch.org/whl/cpu", help="index of the CPU wheels")
    index = parser.parse_args().torch_index
    needed = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    slim = [entry for entry in needed if name_of(entry) not in TORCH]
    cuda = resolve(needed, VERSIONS["cuda"])
    common = resolve(slim, pins(cuda))
    cpu = resolve(needed, [*pins(common), *VERSIONS["cpu"]], index)
    missing = common.keys() - cuda.keys()
    if missing:
        sys.exit(f"Expected slim to be part of cuda, but got more packages: {', '.join(sorted(missing))}.")
    locks = {
        "slim": common,
        "cpu": {name: entry for name, entry in cpu.items() if name not in common},
        "cuda": {name: entry for name, entry in cuda.items() if name not in common},
        "build": resolve(BUILD),
    }
    for name, packages in locks.items():
        head = f"# Written by images/lock.py for Python {PYTHON}, {PLATFORM}.\n"
        (FOLDER / f"{name}.txt").write_text(head + "".join(packages.values()), encoding="utf-8")
        print(f"{name}: {len(packages)} packages")


def resolve(needed: list[str] | tuple[str, ...], constraints: object = (), index: str = "") -> dict[str, str]:
    """Returns the lines of every package, by name."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, limits, lock = (Path(folder, name) for name in ("wanted.in", "limits.txt", "lock.txt"))
        wanted.write_text("\n".join(needed), encoding="utf-8")
        limits.write_text("\n".join(constraints), encoding="utf-8")  # type: ignore[call-overload]
        command = [sys.executable, "-m", "uv", "pip", "compile", str(wanted), "--constraints", str(limits)]
        command += ["--generate-hashes", "--no-header", "--no-annotate", "--quiet", "--output-file", str(lock)]
        command += ["--python-version", PYTHON, "--python-platform", PLATFORM]
        if index:
            command += ["--index", index, "--index-strategy", "unsafe-best-match"]
        subprocess.run(command, check=True)
        return packages_of(lock.read_text(encoding="utf-8"))


def packages_of(lock: str) -> dict[str, str]:
    """Returns the lines of every package of a lock, by name."""
    entries = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)
    return {name_of(entry): entry for entry in entries if re.match(r"[A-Za-z0-9]", entry)}


def name_of(requirement: str) -> str:
    """Returns the normal form of a package's name."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()  # type: ignore[index]


def pins(packages: dict[str, str]) -> list[str]:
    """Returns name and version of every package, without the hashes."""
    return [entry.split(maxsplit=1)[0] for entry in packages.values()]


if __name__ == "__main__":
    main()
