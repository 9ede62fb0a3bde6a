"""Builds, pushes and locks the container images.

    python images/build.py build slim cpu cuda
    python images/build.py push slim cpu cuda

`build` tags with the version of the package. `push` sends the images to the registry and writes their digests into
`images.lock.json`, which a profile names (`images.lock`). Options after `--` go to the builder, for instance
`-- --build-arg BASE=registry.example.org/python:3.11`. Needs docker, or what `--engine` names.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("slim", "cpu", "cuda")
FORWARDED = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST", "TORCH_INDEX")
"""Environment variables that become build arguments, where they are set."""


def main() -> None:
    """Runs one of the two commands."""
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("build", "push"))
    parser.add_argument("kinds", nargs="*", choices=[[], *KINDS], default=[])
    parser.add_argument("--registry", default=os.environ.get("FERRY_IMAGE_REGISTRY", "ferry"), help="registry/folder")
    parser.add_argument("--engine", default="docker", help="docker, podman or another command with their words")
    parser.add_argument("--lock", type=Path, default=ROOT / "images.lock.json", help="where push writes digests")
    given = parser.parse_intermixed_args(arguments[:split])
    kinds = given.kinds or KINDS
    if given.command == "build":
        for kind in kinds:
            build(given.engine, kind, reference(given.registry, kind), arguments[split + 1 :])
    else:
        before = read_lock(given.lock)  # a damaged one is found before anything is sent
        pushed = {kind: push(given.engine, reference(given.registry, kind)) for kind in kinds}
        write_lock(given.lock, {**before, **pushed})


def reference(registry: str, kind: str) -> str:
    """Returns the name of an image; its tag is the version of the package."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return f"{registry.rstrip('/')}/ferry-{kind}:{version}"


def build(engine: str, kind: str, name: str, options: list[str]) -> None:
    """Builds one image."""
    labels = {"VERSION": name.rpartition(":")[2], "REVISION": revision(), "SOURCE": source()}
    labels.update({variable: os.environ[variable] for variable in FORWARDED if os.environ.get(variable)})
    command = [engine, "build", "--file", str(ROOT / "images/Dockerfile"), "--target", kind, "--tag", name]
    for variable, value in labels.items():
        command += ["--build-arg", f"{variable}={value}"]
    run([*command, *options, str(ROOT)])
    print(f"built {name}")


def push(engine: str, name: str) -> str:
    """Sends an image to its registry; returns its name with the digest that the registry gave it."""
    run([engine, "push", name])
    text = run([engine, "image", "inspect", "--format", "{{json .RepoDigests}}", name], capture=True)
    repository = name.rpartition(":")[0]
    short = re.sub(r"^docker\.io/(library/)?", "", repository)  # as Docker itself calls it
    digests = [entry for entry in json.loads(text) if entry.startswith((f"{repository}@sha256:", f"{short}@sha256:"))]
    if not digests:
        refuse(f"Expected `{name}` to have a digest after the push, but got {text.strip()}. Push it again.")
    return digests[0]


def read_lock(path: Path) -> dict[str, str]:
    """Returns the digests that were written before."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except ValueError:
        refuse(f"Expected `{path}` to be a file with digests, but got a damaged one. Remove it and push all kinds.")


def write_lock(path: Path, images: dict[str, str]) -> None:
    """Writes digests."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(images, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    fresh.replace(path)
    print(f"digests: {path}")


def revision() -> str:
    """Returns the commit, with a mark where files were changed since."""
    return run(["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty"], capture=True, may_fail=True)


def source() -> str:
    """Returns where the code comes from, without credentials."""
    url = run(["git", "-C", str(ROOT), "remote", "get-url", "origin"], capture=True, may_fail=True)
    return re.sub(r"//[^@/]*@", "//", url)


def run(command: list[str], capture: bool = False, may_fail: bool = False) -> str:
    """Runs a command; returns what it printed where that is asked for."""
    try:
        done = subprocess.run(
            command,
            check=not may_fail,
            text=True,
            stdout=subprocess.PIPE if capture else None,
            stderr=subprocess.DEVNULL if may_fail else None,
        )
    except FileNotFoundError:
        if may_fail:
            return "unknown"
        refuse(f"Expected `{command[0]}` to be installed, but got no such command. Install it or pass --engine.")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    return (done.stdout or "").strip() if done.returncode == 0 else "unknown"


def refuse(message: str) -> NoReturn:
    """Ends with a message for people."""
    print(message, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
