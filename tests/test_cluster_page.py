"""docs/cluster.md is followed from its first command to its last, with doubles where a cluster would be.

Images are only asked for; manifests are built by the real kubectl; the ports that are forwarded lead to a real MLflow
server and an S3 server in this process; Kubeflow is the double of its API.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from minio import Minio

from . import kubectl as double
from . import kubeflow, servers
from .test_docs import DOCKER, ROOT, blocks, environment

PAGE = ROOT / "docs" / "cluster.md"

# What the run in Kubeflow, which is a double's here, would leave in the registry.
BEFORE = """
ferry faces render 100 --style shaded --seed 1 -o faces/source
ferry run source -p faces=faces/source -p training_epochs=1 -p network_width=8 -o before
ferry faces render 60 --style line --seed 2 --unlabelled -o faces/t
ferry run clup -p target=faces/t -p source=before -p pretraining=none -p finetuning_start=source -p finetuning_epochs=1
"""


def run(script, folder, variables):
    stop_servers = "trap 'kill $(jobs -p) 2> /dev/null || :' EXIT"
    command = ["bash", "-euo", "pipefail", "-c", f"{stop_servers}\n{script}"]
    given = {**environment(folder), **variables}
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture
def clone(tmp_path):
    """A folder like a clone, with programs that note what they are asked."""
    for name in ("images", "manifests"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "state").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(DOCKER.replace("PLACE", str(tmp_path)))
    tool = tmp_path / "bin" / "kubectl"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(double.__file__)} "$@"\n')
    for path in (docker, tool):
        path.chmod(0o755)
    return tmp_path


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_the_page_leads_from_nothing_to_a_promoted_model(clone):
    real = shutil.which("kubectl")
    if real is None:
        pytest.skip("no `kubectl` on PATH")
    (clone / "mlflow").mkdir()
    with servers.moto() as address, servers.mlflow(clone / "mlflow") as mlflow, kubeflow.serving() as cluster:
        Minio(endpoint=address, access_key="k", secret_key="s", secure=False).make_bucket(bucket_name="ferry-targets")
        forwarded = {"target-store": address.split(":"), "mlflow": mlflow.uri.removeprefix("http://").split(":")}
        variables = {
            "PATH": f"{clone / 'bin'}{os.pathsep}{environment(clone)['PATH']}",
            "KUBECTL": real,
            "KUBECTL_STATE": str(clone / "state"),
            "FORWARD": json.dumps(forwarded),
            "KF_PIPELINES_ENDPOINT": cluster.uri,
            "HOME": str(clone),
        }
        run(f"export MLFLOW_TRACKING_URI={mlflow.uri}\n{BEFORE}", clone, variables)
        script = "\n".join(blocks(PAGE, "bash")).replace(
            "python images/build.py push", f"python images/build.py push --lock {clone}/images.lock.json"
        )
        waits = (
            "for port in 18333 15000; do for i in $(seq 100); do (: < /dev/tcp/127.0.0.1/$port) 2>/dev/null && break"
        )
        waits += "; sleep 0.1; done; done\n"
        said = run(script.replace("export S3_ENDPOINT", f"{waits}export S3_ENDPOINT"), clone, variables)
        objects = Minio(endpoint=address, access_key="k", secret_key="s", secure=False).list_objects(
            bucket_name="ferry-targets", recursive=True
        )
        names = {item.object_name for item in objects}
    assert (cluster.refused, len(cluster.runs), cluster.schedules) == ([], 1, {})
    assert {"new/faces.json", "holdout/faces.json", "models/fer/model.json"} <= names
    assert "models:/ferry-clup@champion" in said
    assert "--target cuda --tag registry.example.org/ml/ferry-cuda:0.1.0" in (clone / "asked").read_text()
    applied = {path.name for path in (clone / "state").iterdir()}
    assert {"Deployment.ferry.ferry-serving.json", "Deployment.ferry.mlflow.json"} <= applied
