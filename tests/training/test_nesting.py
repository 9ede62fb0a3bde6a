"""Runs of stages on a cluster: nested under one run for each pipeline run, whoever comes first."""

from __future__ import annotations

import base64
import http.client
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from ferry.common.errors import UserError
from ferry.training import open_tracker
from ferry.training.nesting import artifact_uri, leave_parent, nested, parent_run
from ferry.training.runs import connect, experiment

from .. import servers

CASES = {
    "/minio/mlpipeline/v2/artifacts/clup/x/model": "minio://mlpipeline/v2/artifacts/clup/x/model",
    "/s3/bucket/a": "s3://bucket/a",
    "/gcs/bucket/a": "gs://bucket/a",
    "/home/me/minio/model": "",
    "s3/bucket": "",
    "/minio": "",
    "/minio/": "",
    "": "",
}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "FERRY_PARENT_RUN", "FERRY_CHECKPOINTS", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FERRY_RUN_ID", "3b5c-77")
    monkeypatch.setenv("FERRY_SPOOL", str(tmp_path / "spool"))


@pytest.fixture
def uri(empty_store, tmp_path):
    return f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"


@pytest.fixture
def client(uri):
    return connect(uri)


def pipelines(client, uri):
    return [run for run in client.search_runs([experiment(client, uri)]) if run.data.tags.get("ferry.kind")]


@pytest.mark.parametrize("path", CASES)
def test_paths_of_kubeflow_are_addresses_of_its_store_and_others_are_none(path):
    assert artifact_uri(path) == CASES[path]


def test_stages_of_a_run_share_one_parent_and_another_run_has_its_own(client, uri, monkeypatch):
    first = parent_run(client, uri)
    assert parent_run(client, uri) == first
    assert client.get_run(first).data.tags["ferry.run"] == "3b5c-77"
    monkeypatch.setenv("FERRY_RUN_ID", "another")
    assert parent_run(client, uri) != first
    assert len(pipelines(client, uri)) == 2


def test_a_parent_that_is_given_is_taken_and_left_alone(client, uri, monkeypatch):
    given = client.create_run(experiment(client, uri)).info.run_id
    monkeypatch.setenv("FERRY_PARENT_RUN", given)
    assert parent_run(client, uri) == given
    leave_parent(client, given, "FINISHED")
    assert client.get_run(given).info.status == "RUNNING"
    assert pipelines(client, uri) == []


@pytest.mark.parametrize("key", ["", "a'b", "x" * 300, "{{run}}"])
def test_without_an_id_that_can_be_looked_for_there_is_no_parent(client, uri, monkeypatch, key):
    monkeypatch.setenv("FERRY_RUN_ID", key)
    assert parent_run(client, uri) == ""
    leave_parent(client, "", "FINISHED")
    assert pipelines(client, uri) == []


@pytest.mark.slow
def test_of_two_stages_that_begin_at_once_one_makes_the_parent(client, uri):
    class Late:
        """A client that finds nothing until two have looked."""

        looked = threading.Barrier(2)

        def __init__(self):
            self.first = True

        def search_runs(self, *given, **named):
            found = client.search_runs(*given, **named)
            if self.first:
                self.first = False
                self.looked.wait(20)
            return found

        def __getattr__(self, name):
            return getattr(client, name)

    with ThreadPoolExecutor(2) as pool:
        parents = list(pool.map(lambda one: parent_run(one, uri), [Late(), Late()]))
    assert parents[0] == parents[1]
    assert [run.info.run_id for run in pipelines(client, uri)] == [parents[0]]


def ended(client, parent, stage, status):
    place = client.get_run(parent).info.experiment_id
    client.set_terminated(client.create_run(place, tags=nested(parent, stage)).info.run_id, status)
    leave_parent(client, parent, status)
    return client.get_run(parent).info.status


def test_the_parent_has_the_state_of_the_stages_so_far(client, uri):
    parent = parent_run(client, uri)
    assert client.get_run(parent).info.status == "RUNNING"
    assert ended(client, parent, "pretraining", "FINISHED") == "FINISHED"
    parent_run(client, uri)
    assert client.get_run(parent).info.status == "RUNNING"  # the next stage has begun
    assert ended(client, parent, "fine-tuning", "FAILED") == "FAILED"
    assert ended(client, parent, "labelling", "FINISHED") == "FAILED"  # one beside it does not hide that
    assert ended(client, parent, "fine-tuning", "FINISHED") == "FINISHED"  # the second try
    assert ended(client, parent, "evaluation", "KILLED") == "KILLED"


@pytest.mark.slow
def test_a_stage_makes_its_run_below_the_parent_and_links_what_it_leaves_in_the_store(client, uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with open_tracker("pretraining") as tracker:
        tracker.metrics({"loss": 1.0}, 1)
        tracker.link("model", "/minio/mlpipeline/v2/artifacts/clup/x/model")
        tracker.link("other", "/tmp/model")
    run = client.get_run(tracker.run_id)
    (parent,) = pipelines(client, uri)
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.tags["ferry.pretraining.model"] == "minio://mlpipeline/v2/artifacts/clup/x/model"
    assert "ferry.pretraining.other" not in run.data.tags
    assert parent.info.status == "FINISHED"


@contextmanager
def guarded(uri, allowed):
    """A door before a server that asks for an Authorization header, as ingresses and MLflow's own login do."""
    inside = urlsplit(uri)

    class Door(BaseHTTPRequestHandler):
        def _pass(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if self.headers.get("Authorization") != allowed and self.path != "/health":
                return self._answer(401, b'{"error_code": "UNAUTHENTICATED", "message": "who are you?"}')
            connection = http.client.HTTPConnection(inside.hostname, inside.port, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host",)}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return self._answer(answer.status, answer.read())

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

        def _answer(self, status, content):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.integration
def test_a_server_that_asks_who_you_are_is_told_by_the_environment(tmp_path, monkeypatch):
    basic = base64.b64encode(b"runs:secret").decode()
    with servers.mlflow(tmp_path) as server:
        with guarded(server.uri, f"Basic {basic}") as door:
            with pytest.raises(UserError, match="Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
                experiment_of(door)
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "runs")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
            assert experiment_of(door)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", door)
            (tmp_path / "report.html").write_text("x")
            with open_tracker("evaluation") as tracker:
                tracker.artifact(tmp_path / "report.html")
            client = connect(server.uri)
            run = client.get_run(tracker.run_id)
            assert run.info.status == "FINISHED"
            assert run.info.artifact_uri.startswith("mlflow-artifacts:/")  # through the server: no keys of its store
            assert [one.path for one in client.list_artifacts(tracker.run_id, "evaluation")] == [
                "evaluation/report.html"
            ]
            monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
            monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
        with guarded(server.uri, "Bearer t0ken") as door:
            monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
            assert experiment_of(door)


def experiment_of(uri):
    from ferry.training.runs import server_errors

    client = connect(uri)
    with server_errors("Try again."):
        return experiment(client, uri)
