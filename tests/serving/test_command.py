"""The command as a process: a real MLflow server, an alias that moves, and the end in the middle of a request."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from ferry.faces.decode import encode_png
from ferry.networks import load_info

from .. import servers
from ..registry.conftest import make_evaluation, make_model

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@contextmanager
def serve(log: Path, *words: str, **environment: str):
    """`ferry serve` on a free port; yields the process and a client."""
    command = [sys.executable, "-c", "from ferry.pipelines.cli import main; main()", "serve", *words, "--port", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=log.parent, env={**os.environ, **environment}, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        found = wait_for(lambda: re.search(r"listening on (http://\S+)", log.read_text()), process)
        with httpx.Client(base_url=found[1], timeout=120) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()


def wait_for(what, process, seconds: float = 60.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < end, "nothing has happened"
        time.sleep(0.1)
    return found


def gauge(client: httpx.Client, name: str) -> float:
    return float(re.search(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)[1])


def test_a_champion_is_served_followed_and_a_request_at_work_is_finished_at_the_end(tmp_path, monkeypatch):
    from ferry.registry import Registry
    from ferry.registry.register import register

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    evaluation = make_evaluation(tmp_path / "evaluation")
    models = [make_model(tmp_path / str(seed), seed=seed) for seed in range(2)]
    (tmp_path / "server").mkdir()
    with servers.mlflow(tmp_path / "server") as store:
        register(models[0], evaluation, None, "faces", tracking_uri=store.uri)
        registry = Registry(store.uri)
        registry.promote("faces", "challenger")
        words = ("models:/faces@champion", "--refresh", "0.3")
        log = tmp_path / "log"
        environment = {"MLFLOW_TRACKING_URI": store.uri, "FERRY_CACHE": str(tmp_path / "cache")}
        with serve(log, *words, OMP_NUM_THREADS="1", **environment) as (process, client):
            assert client.get("/health").status_code == 200
            wait_for(lambda: client.get("/ready").status_code == 200, process)
            assert client.get("/ready").json()["digest"] == load_info(models[0]).digest

            register(models[1], evaluation, None, "faces", tracking_uri=store.uri)
            registry.promote("faces", "challenger")
            wait_for(lambda: client.get("/ready").json()["version"] == "2", process)
            picture = encode_png(np.full((48, 48), 127, np.uint8))
            answer = client.post("/predict", content=picture, headers={"Content-Type": "image/png"}).json()
            assert answer["model"] == {"name": "faces", "version": "2", "digest": load_info(models[1]).digest}

            store.stop()  # the model goes on answering without its registry
            wait_for(lambda: gauge(client, "ferry_model_refresh_failed") == 1, process)
            assert client.get("/ready").json()["version"] == "2"

            large = base64.b64encode(encode_png(np.full((2500, 2500, 3), 90, np.uint8))).decode()
            body, answers = {"instances": [large] * 64}, []
            address = str(client.base_url).rstrip("/")
            thread = threading.Thread(
                target=lambda: answers.append(httpx.post(f"{address}/v1/models/faces:predict", json=body, timeout=120))
            )
            thread.start()
            wait_for(lambda: gauge(client, "ferry_requests_in_flight") == 1, process)
            time.sleep(0.5)
            assert client.get("/health").elapsed.total_seconds() < 0.5
            assert not answers, "the request is at work"
            process.send_signal(signal.SIGTERM)
            thread.join(100)
            assert answers[0].status_code == 200
            assert len(answers[0].json()["predictions"]) == 64
            assert process.wait(20) == 0
    lines = log.read_text().splitlines()
    assert len([line for line in lines if " answers, loaded in " in line]) == 2
    assert len([line for line in lines if "the refresh failed" in line]) == 1
    assert "Traceback" not in log.read_text()
    assert large[:30] not in log.read_text()


def test_without_its_registry_the_server_lives_says_why_and_ends_when_asked(tmp_path):
    (port,) = servers.free_ports(1)
    address = f"http://127.0.0.1:{port}"
    with serve(tmp_path / "log", "models:/faces@champion", "--access-log", MLFLOW_TRACKING_URI=address) as (
        process,
        client,
    ):
        wait_for(lambda: "no answer" in client.get("/ready").text, process)
        assert client.get("/ready").status_code == 503
        assert client.get("/health").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    text = (tmp_path / "log").read_text()
    assert '"GET /health HTTP/1.1" 200' in text
    assert "Traceback" not in text


def test_a_model_that_the_registry_does_not_have_ends_the_command_with_code_2(tmp_path, empty_store):
    command = [
        sys.executable,
        "-c",
        "from ferry.pipelines.cli import main; main()",
        "serve",
        "models:/x@y",
        "--port",
        "0",
    ]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{empty_store}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("ferry: Expected `model name` to be the name of a registered model")
    assert "Traceback" not in done.stderr


def test_a_client_that_never_ends_its_request_does_not_keep_the_server_from_ending(tmp_path):
    model = make_model(tmp_path / "model")
    with serve(tmp_path / "log", str(model), "--grace", "1") as (process, client):
        wait_for(lambda: client.get("/ready").status_code == 200, process)
        with socket.create_connection((client.base_url.host, client.base_url.port)) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nx")
            wait_for(lambda: gauge(client, "ferry_requests_in_flight") == 1, process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
