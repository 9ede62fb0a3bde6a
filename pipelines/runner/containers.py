"""Runs stages in containers through kfp's DockerRunner, with what that leaves to its caller.

kfp's runner lets the engine remove a container when it ends, and takes one that is gone already for a success; it
knows no interrupts, mounts the artifacts alone, and hands a stage nothing of the environment. Here a container stays
until its exit code was read, gets SIGTERM when the run is asked to stop, sees the home and the input data under their
own paths, and writes as the person who started the run.
"""

from __future__ import annotations

import builtins
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...common.errors import RetryableError, expected
from ...common.images import REGISTRY_VARIABLE
from ...common.stage import ALIVE_VARIABLE
from .home import Home
from .stages import Stop

HOME_LABEL = "ferry.home"
"""Label of containers: the home of their run."""

_PASSED = ("FERRY_", "MLFLOW_", "S3_", "MINIO_", "AWS_", "PYTHONWARNINGS", "PYTHONUNBUFFERED", "GIT_PYTHON", "TMPDIR")
_PASSED_WHOLE = ("OMP_NUM_THREADS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_NO_IMAGE = f"Build it (make images), or set {REGISTRY_VARIABLE} to the registry and folder that have it."
_REFUSED = (401, 403, 404)
_LOOK_EVERY = 0.2
_ASK_EVERY = 5.0
_IMAGE = re.compile(r"^\s*image: (\S+)$", re.MULTILINE)
_PRINT = builtins.print  # kfp indents what is printed while a stage runs, by replacing print


def surroundings(
    home: Home, folder: Path, values: Mapping[str, Any], environment: Mapping[str, str], network: str = "host"
) -> dict[str, Any]:
    """Returns how the containers of a run are started, as JSON for the executing process.

    Args:
        home: The home, which containers see and write.
        folder: The run's folder.
        values: The pipeline's parameters: what they name on this machine is seen too, and cannot be written.
        environment: Of the stages; what they need of it is handed on.
        network: Network of the engine; ``host`` reaches servers on this machine.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if name.startswith(_PASSED) or name.upper() in _PASSED_WHOLE  # proxies are written either way
    }
    added = {"HOME": str(home.temporary), ALIVE_VARIABLE: str(folder / "alive") if sys.platform == "linux" else ""}
    cache = Path(environment.get("FERRY_CACHE") or home.cache).absolute()
    cache.mkdir(parents=True, exist_ok=True)  # the engine would make it as root
    mounts = {str(home.root): False, **({} if cache.is_relative_to(home.root) else {str(cache): False})}
    named = [Path(value) for value in values.values() if isinstance(value, str) and os.path.isabs(value)]
    named += [Path(value) for value in kept.values() if os.path.isabs(value)]  # certificates and the like
    for path in named:
        if path.exists() and not path.is_relative_to(home.root):
            mounts.setdefault(str(path), True)
            for beside in path.parent.glob(f"{path.name}.*"):  # the sidecar of a model file
                mounts.setdefault(str(beside), True)
    store = _store(environment.get("MLFLOW_TRACKING_URI", ""))
    if store is not None and not store.is_relative_to(home.root):
        mounts[str(store.parent)] = False
    return {
        "network_mode": network,
        "passed": sorted(kept),  # values stay in memory: keys are among them
        "environment": added,
        "mounts": mounts,
        "labels": {HOME_LABEL: str(home.root), "ferry.run": folder.name},
    }


def check_store(uri: str) -> None:
    """Makes sure, before a run, that its containers can open the MLflow store.

    Args:
        uri: Tracking URI.

    Raises:
        UserError: It is a file or folder whose place containers cannot know.
    """
    if "://" in uri and not uri.startswith(("sqlite:", "file:")):
        return
    if _store(uri) is None:
        fix = "Name a server, or write sqlite:////absolute/path/mlflow.db."
        raise expected("MLFLOW_TRACKING_URI", "a server or a file with its absolute path", uri, fix)


def _store(uri: str) -> Path | None:
    found = re.fullmatch(r"sqlite:///(/.+)", uri)
    return Path(found[1]) if found else None


def connect() -> Any:
    """Returns a client of the container engine that ``DOCKER_HOST`` names, else of this machine's.

    Raises:
        RetryableError: No engine answers.
    """
    import docker

    try:
        client = docker.from_env()
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        raise RetryableError(
            f"Expected `DOCKER_HOST` to name a container engine that answers, but got {str(error)[:200]}. "
            "Start the engine, or join its group; or run without containers: --on local."
        ) from error
    return client


def require_images(package: str) -> None:
    """Makes sure, before a run, that the images of a compiled pipeline are there.

    Those that are not are pulled where ``FERRY_IMAGE_REGISTRY`` says from where: the bare name of a local build means
    somebody else's folder at a public registry.

    Args:
        package: The compiled YAML.

    Raises:
        UserError: An image is neither there nor in its registry.
        RetryableError: The engine or the registry does not answer.
    """
    from docker.errors import APIError, ImageNotFound

    client = connect()
    for name in sorted(set(_IMAGE.findall(package))):
        try:
            client.images.get(name)
        except ImageNotFound as missing:
            if not os.environ.get(REGISTRY_VARIABLE):
                raise expected("image", "there", name, _NO_IMAGE) from missing
            try:
                client.images.pull(name)
            except APIError as error:
                reason = f"{name}: {error.explanation or error}"
                if error.status_code in _REFUSED or "denied" in reason or "not found" in reason:
                    raise expected("image", "there, or in a registry", reason, _NO_IMAGE) from error
                raise RetryableError(
                    f"Expected `image` to arrive, but got {reason}. Run the same command again."
                ) from error


def prepare(home: Home, package: str) -> None:
    """Makes sure, before a run, that its containers find store and images, and that none of a killed run is left.

    Args:
        home: The home, whose lock the caller holds.
        package: The compiled YAML.

    Raises:
        UserError: The store or an image cannot be used.
        RetryableError: The engine or the registry does not answer.
    """
    check_store(home.tracking_uri)
    require_images(package)
    remove_left(home)


def remove_left(home: Home) -> None:
    """Removes the containers of killed runs; the caller holds the home's lock, so nobody else's are at work."""
    from docker.errors import APIError, NotFound

    client = connect()
    for container in client.containers.list(all=True, filters={"label": f"{HOME_LABEL}={home.root}"}):
        try:
            container.remove(force=True, v=True)
        except (NotFound, APIError):  # the engine is removing it
            pass


def runner_of(asked: Mapping[str, Any], environment: Mapping[str, str]) -> Any:
    """Returns kfp's runner for the containers of a run.

    Args:
        asked: From :func:`surroundings`; the variables that it names have their values in this process.
        environment: Further variables of the stages.
    """
    from docker.types import Mount
    from kfp import local

    mounts = [Mount(path, path, type="bind", read_only=closed) for path, closed in asked["mounts"].items()]
    return local.DockerRunner(
        **_person(connect().info().get("SecurityOptions") or []),
        network_mode=asked["network_mode"],
        working_dir=asked["environment"]["HOME"],  # that of the image is open to its own user only
        environment={**{name: os.environ[name] for name in asked["passed"]}, **asked["environment"], **environment},
        mounts=mounts,
        labels=asked["labels"],
        ipc_mode="private",
        shm_size="2g",  # 64 MB, the engine's own, end data loaders with a bus error
    )


def _person(security: list[str]) -> dict[str, Any]:
    """Returns how containers write as who runs them.

    Args:
        security: What the engine says of itself: one without root maps its own user to number 0, and SELinux lets no
            container at folders that it was not told of.
    """
    found: dict[str, Any] = {"user": f"{os.getuid()}:{os.getgid()}", "group_add": os.getgroups()}
    if any("name=rootless" in entry for entry in security):
        found = {"user": "0:0"}
    if any("name=selinux" in entry for entry in security):
        found["security_opt"] = ["label=disable"]
    return found


def install(stop: Stop) -> None:
    """Makes kfp's DockerRunner start stages through this module.

    Args:
        stop: No stage is started once it is requested, and the one at work is asked to end.
    """
    from kfp.local import docker_task_handler as handler

    def run(client: Any, image: str, command: list[str], volumes: dict[str, Any], **options: Any) -> int:
        if stop.requested:
            return RetryableError.exit_code
        return run_container(client, image, command, stop, volumes=volumes, **options)

    handler.run_docker_container = run


def run_container(client: Any, image: str, command: list[str], stop: Stop, **options: Any) -> int:
    """Runs a container to its end; returns its exit code.

    Args:
        client: Of the engine.
        image: The image, which is there.
        command: What to run.
        stop: Once it is requested, the processes in the container get SIGTERM.
        **options: As docker's ``containers.run`` takes them.
    """
    container = client.containers.create(image, command, **options)
    try:
        container.start()
        printer = threading.Thread(target=_print_log, args=(container,), daemon=True)
        printer.start()
        asked = -_ASK_EVERY
        while _running(container):
            if stop.requested and time.monotonic() - asked > _ASK_EVERY:  # again, as Python may only just be starting
                asked = time.monotonic()
                _ask_to_end(container)
            time.sleep(_LOOK_EVERY)
        printer.join(10)
        state = container.attrs["State"]
        _PRINT(f"Container of {image}: {state['StartedAt']} to {state['FinishedAt']}", flush=True)
        if state.get("OOMKilled"):
            _PRINT("The stage was ended because its memory ran out.", flush=True)
        return int(state["ExitCode"])
    finally:
        container.remove(force=True, v=True)


def _ask_to_end(container: Any) -> None:
    """Sends SIGTERM to every process: the first one is a shell, which passes nothing on, or Python in its place."""
    from docker.errors import APIError

    try:
        container.kill("SIGTERM")
        container.exec_run(["sh", "-c", "kill -TERM -1"])
    except APIError:  # it has ended meanwhile
        pass


def _running(container: Any) -> bool:
    container.reload()
    return container.attrs["State"]["Status"] in ("created", "running", "paused", "restarting")


def _print_log(container: Any) -> None:
    for piece in container.logs(stream=True, follow=True):
        _PRINT(piece.decode("utf-8", errors="replace"), end="", flush=True)
