"""A container engine for the tests, and the images that they build in it.

Taken is the engine that answers; where none does, one is started with a folder of its own, which needs root. No
registry is asked: the base image is made with debootstrap.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE = "ferry-test/base:bookworm"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
MIRROR = os.environ.get("FERRY_TEST_DEBIAN", "http://deb.debian.org/debian")
OPERATORS = b"""
from torch import library as _operators

for _name in ("nms", "qnms"):
    _operators.define(f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


class Missing(Exception):
    """Why there can be no engine, or no image, on this machine."""


class Engine:
    """A container engine; use as a context.

    Args:
        folder: For its data, where it is started here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemon = None
        self.client = next(
            (path for path in ("/usr/bin/docker", shutil.which("docker")) if path and os.path.exists(path)), ""
        )

    def __enter__(self) -> Engine:
        self.environment = dict(os.environ)
        if not self.client:
            raise Missing("no docker: apt-get install docker.io debootstrap")
        if self._answers():
            return self
        if os.getuid() != 0 or shutil.which("dockerd") is None:
            raise Missing("no engine answers, and none can be started: root and `apt-get install docker.io` are needed")
        self.environment["DOCKER_HOST"] = f"unix://{self.folder}/docker.sock"
        command = ["dockerd", "--host", self.environment["DOCKER_HOST"], "--data-root", str(self.folder / "data")]
        command += ["--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "pid")]
        self._log = open(self.folder / "dockerd.log", "wb")
        self._daemon = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True)
        for _ in range(300):
            if self._answers():
                return self
            if self._daemon.poll() is not None:
                break
            time.sleep(0.1)
        self.__exit__()
        raise Missing(f"dockerd did not start: {(self.folder / 'dockerd.log').read_text()[-300:]}")

    def __exit__(self, *_: object) -> None:
        if self._daemon is not None:
            if self._daemon.poll() is None:
                self._daemon.terminate()
            try:
                self._daemon.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self._daemon.pid, signal.SIGKILL)
                self._daemon.wait()
            self._log.close()
            subprocess.run(["umount", *map(str, self.folder.glob("exec/netns/*"))], capture_output=True)
            shutil.rmtree(self.folder / "data", ignore_errors=True)  # gigabytes

    def run(self, *words: str, check: bool = True, **options: object) -> subprocess.CompletedProcess:
        """Runs the client."""
        done = subprocess.run(
            [self.client, *map(str, words)], capture_output=True, text=True, env=self.environment, **options
        )
        said = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert done.returncode == 0 or not check, f"docker {' '.join(words)}\n{said}"
        return done

    def inspect(self, image: str) -> dict:
        """Returns what the engine knows of an image."""
        return json.loads(self.run("image", "inspect", image).stdout)[0]

    def _answers(self) -> bool:
        return subprocess.run([self.client, "version"], env=self.environment, capture_output=True).returncode == 0


def make_base(engine: Engine, folder: Path) -> str:
    """Makes the base image: Debian with Python 3.11 and this machine's certificates."""
    if os.getuid() != 0 or shutil.which("debootstrap") is None:
        raise Missing("no base image: root and `apt-get install debootstrap` are needed")
    place = folder / "root"
    packages = "--include=python3,python3-venv,ca-certificates"
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", str(place), MIRROR], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise Missing(f"debootstrap failed: {done.stdout[-300:]}")
    if CERTIFICATES.exists():
        shutil.copyfile(CERTIFICATES, place / str(CERTIFICATES)[1:])
    tar = subprocess.Popen(
        ["tar", "-C", place, "-c", "--exclude=./var/cache/apt", "--exclude=./var/lib/apt/lists", "."],
        stdout=subprocess.PIPE,
    )
    engine.run("import", "-", BASE, stdin=tar.stdout)
    assert tar.wait() == 0
    shutil.rmtree(place)
    return BASE


def build(engine: Engine, folder: Path, kinds: tuple[str, ...], registry: str) -> dict[str, str]:
    """Builds images as a person would, from a copy of what the repository holds; returns their names by kind.

    Wheels of torch for CPUs may be out of reach; see :func:`cpu_wheels`.
    """
    context = folder / "context"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("components", "pipelines", "images"):
        shutil.copytree(ROOT / name, context / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".dockerignore"):
        shutil.copyfile(ROOT / name, context / name)
    wheels = folder / "wheels"
    wheels.mkdir()
    lock = context / "images" / "locks" / "cpu.txt"
    if "cpu" in kinds:
        lock.write_text(cpu_wheels(lock.read_text(), wheels))
    handler = partial(_Quiet, directory=str(wheels))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ["--network", "host", "--build-arg", f"BASE={BASE}", "--build-arg", "TORCH_INDEX="]
        if CERTIFICATES.exists():
            options += ["--build-arg", f"PIP_CERT={CERTIFICATES}"]
        command = [
            sys.executable,
            "images/build.py",
            "build",
            *kinds,
            "--registry",
            registry,
            "--engine",
            engine.client,
        ]
        environment = {**engine.environment, "PIP_FIND_LINKS": f"http://127.0.0.1:{server.server_port}/"}
        done = subprocess.run(
            [*command, "--", *options], cwd=context, env=environment, capture_output=True, text=True, timeout=1500
        )
        server.shutdown()
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    built = re.findall(r"^built (\S+)$", done.stdout, re.MULTILINE)
    return dict(zip(kinds, built, strict=True))


def cpu_wheels(lock: str, wheels: Path) -> str:
    """Puts the wheels of torch and torchvision for CPUs into a folder; returns the lock that fits them.

    PyPI has no wheel of torchvision for CPUs. Where it cannot be had, the one that PyPI has stands in for it, without
    its compiled operators, none of which Ferry uses, and the lock gets its hash.
    """
    torch, torchvision = (re.search(rf"^({name}==\S+)", lock, re.MULTILINE)[1] for name in ("torch", "torchvision"))
    if not _download(torch, wheels):
        raise Missing(f"no {torch}: pip finds no such wheel (PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu)")
    if _download(torchvision, wheels):
        return lock
    if not _download(torchvision.removesuffix("+cpu"), wheels):
        raise Missing(f"no {torchvision}: pip finds no such wheel")
    (theirs,) = wheels.glob("torchvision-*.whl")
    ours = _without_operators(theirs)
    theirs.unlink()
    digest = hashlib.sha256(ours.read_bytes()).hexdigest()
    return re.sub(rf"({re.escape(torchvision)} \\\n    --hash=sha256:)[0-9a-f]+", rf"\g<1>{digest}", lock)


def _download(requirement: str, folder: Path) -> bool:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", requirement]
    return subprocess.run([*command, "--dest", str(folder)], capture_output=True).returncode == 0


def _without_operators(wheel: Path) -> Path:
    name, version, tags = wheel.name.split("-", 2)
    ours = wheel.with_name(f"{name}-{version}+cpu-{tags}")
    before, after = f"{name}-{version}.dist-info", f"{name}-{version}+cpu.dist-info"
    lines = []
    with zipfile.ZipFile(wheel) as there, zipfile.ZipFile(ours, "w", zipfile.ZIP_DEFLATED) as here:
        for path in there.namelist():
            if path.endswith((".so", "RECORD")) or path.startswith(f"{name}.libs/"):
                continue
            data = there.read(path)
            if path.endswith("METADATA"):
                data = data.replace(f"Version: {version}\n".encode(), f"Version: {version}+cpu\n".encode())
            if path == f"{name}/extension.py":
                data += OPERATORS
            path = path.replace(before, after)
            here.writestr(path, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f"{path},sha256={digest},{len(data)}")
        here.writestr(f"{after}/RECORD", "\n".join([*lines, f"{after}/RECORD,,"]) + "\n")
    return ours


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
