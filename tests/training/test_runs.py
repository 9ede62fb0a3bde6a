from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from ferry.common.errors import RetryableError, UserError
from ferry.training import runs, store
from ferry.training.tracking import RunStore
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(runs, "_PROBE_SECONDS", 0.3)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def uri(empty_store, tmp_path):
    (tmp_path / "home").mkdir()
    path = tmp_path / "home" / "mlflow.db"
    path.write_bytes(empty_store.read_bytes())
    return f"sqlite:///{path}"


@contextmanager
def server(status: int, body: dict | None = None, hang: bool = False):
    """A server that is healthy and answers every other request in one way, or not at all."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/health" and hang:
                stop.wait(20)
                return
            data = json.dumps(body or {}).encode()
            self.send_response(200 if self.path == "/health" else status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.daemon_threads = True
    thread = threading.Thread(target=service.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{service.server_port}"
    finally:
        stop.set()
        service.shutdown()
        service.server_close()


def test_a_run_holds_the_pipeline_and_its_parameters(uri, tmp_path):
    many = {f"p{index}": index for index in range(150)}
    run_id = runs.open_run(uri, "clup", "r1", {**many, "empty": "", "long": "x" * 9000}, tmp_path / "files")
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    assert run.data.tags["ferry.pipeline"] == "clup"
    assert run.data.tags["ferry.run"] == "r1"
    assert run.data.params["p149"] == "149"
    assert "empty" not in run.data.params
    assert len(run.data.params["long"]) == 6000
    assert run.info.artifact_uri.startswith((tmp_path / "files").as_uri())
    runs.close_run(uri, run_id, success=False)
    assert client.get_run(run_id).info.status == "FAILED"


def test_artifacts_of_a_local_store_lie_beside_it_and_not_in_the_current_folder(uri, tmp_path):
    run_id = runs.open_run(uri, "clup", "r1", {})
    place = MlflowClient(uri).get_run(run_id).info.artifact_uri
    assert place.startswith((tmp_path / "home" / "mlartifacts").as_uri())
    store = RunStore(uri, "", "pretraining")  # a stage that makes its own run finds the same experiment
    store.open()
    assert MlflowClient(uri).get_run(store.run_id).info.artifact_uri.startswith(place.rsplit("/", 2)[0])
    assert len(MlflowClient(uri).search_experiments(filter_string="name = 'ferry'")) == 1
    assert not (tmp_path / "mlruns").exists()


def test_variables_name_the_experiment(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    client = MlflowClient(uri)
    found = client.get_experiment(runs.experiment(client, uri))
    assert found.name == "mine"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
    assert runs.experiment(client, uri) == "77"


def test_a_deleted_experiment_is_named(uri):
    client = MlflowClient(uri)
    client.delete_experiment(runs.experiment(client, uri))
    with pytest.raises(UserError, match="Expected `MLFLOW_EXPERIMENT_NAME` to be an active experiment") as caught:
        runs.open_run(uri, "clup", "r1", {})
    assert "mlflow experiments restore" in str(caught.value)


def test_no_uri_is_refused_with_advice():
    with pytest.raises(UserError, match="Expected `MLFLOW_TRACKING_URI` to be set") as caught:
        runs.connect()
    assert "sqlite:////" in str(caught.value)


def test_a_store_that_mlflow_refuses_is_the_users_error(tmp_path):
    (tmp_path / "broken.db").write_text("this is no database, but text" * 100)
    for uri in (f"file://{tmp_path}/mlruns", f"sqlite:///{tmp_path}/broken.db"):
        with pytest.raises(UserError, match="Expected"):
            runs.connect(uri)


def test_a_store_in_a_new_folder_is_made(empty_store, tmp_path):
    target = tmp_path / "a" / "b" / "mlflow.db"
    target.parent.mkdir(parents=True)
    target.write_bytes(empty_store.read_bytes())
    assert runs.connect(f"sqlite:///{target}") is not None


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["dead", "silent"])
def test_a_server_that_is_away_is_found_in_bounded_time(kind):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "silent":
            listener.listen()
        uri = f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}"
        calls = (
            lambda: runs.open_run(uri, "clup", "r1", {}),
            lambda: runs.connect(uri),
            lambda: runs.download_model("models:/faces@champion", uri),
        )
        for call in calls:
            with pytest.raises(RetryableError, match="Expected `MLFLOW_TRACKING_URI` to name a server") as caught:
                call()
            assert "secret" not in str(caught.value)
            assert caught.value.exit_code == 75
        runs.close_run(uri, "some-run", success=True)  # only warns
        assert "no answer" in runs.reachable(uri)


@pytest.mark.timeout(60)
def test_a_server_that_hangs_after_it_said_that_it_is_well_is_given_up():
    with server(200, hang=True) as uri, pytest.raises(RetryableError, match="Expected `MLflow` to answer"):
        runs.open_run(uri, "clup", "r1", {})


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("status", "code", "kind", "part"),
    [
        (503, "TEMPORARILY_UNAVAILABLE", RetryableError, "503.*nothing has been run yet"),
        (500, "INTERNAL_ERROR", RetryableError, "500.*nothing has been run yet"),
        (409, "RESOURCE_EXHAUSTED", RetryableError, "because.*nothing has been run yet"),
        (401, "UNAUTHENTICATED", UserError, "because.*MLFLOW_TRACKING_USERNAME"),
        (403, "PERMISSION_DENIED", UserError, "because.*MLFLOW_TRACKING_USERNAME"),
        (400, "INVALID_PARAMETER_VALUE", UserError, "because.*documentation"),
    ],
)
def test_the_servers_answer_decides_whether_a_retry_can_help(status, code, kind, part):
    with server(status, {"error_code": code, "message": "because"}) as uri, pytest.raises(kind, match=part):
        runs.open_run(uri, "clup", "r1", {})


def test_messages_of_mlflow_lose_their_passwords():
    with pytest.raises(RetryableError) as caught, runs.server_errors("Wait."):
        raise MlflowException("API request to http://me:hidden@host:5000/api failed")
    assert "hidden" not in str(caught.value)
    assert str(caught.value).endswith("//host:5000/api failed. Wait.")


def test_pages_are_followed_to_the_end():
    class Page(list):
        token = ""

    def search(page_token, **filters):
        start = int(page_token or 0)
        page = Page(range(start, min(start + 3, 7)))
        page.token = str(start + 3) if start + 3 < 7 else ""
        return page

    assert list(runs.pages(search)) == list(range(7))


def test_only_models_of_the_registry_are_taken_for_such():
    assert runs.is_registry_uri("models:/faces@champion")
    assert not runs.is_registry_uri("models/faces")
    assert not runs.is_registry_uri("/models:/faces")


def test_quotes_never_reach_a_filter():
    model = SimpleNamespace(aliases={"champion": 1})
    client = SimpleNamespace(get_registered_model=lambda name: model, search_model_versions=None)
    with pytest.raises(UserError, match="free of quotes"):
        runs._find_version(client, "it's", "champion", "")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_processes_that_open_a_new_store_at_once_all_succeed(tmp_path):
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    runner = f"from ferry.training import runs; print(runs.open_run({uri!r}, 'clup', 'r', {{}}))"
    stage = f"from ferry.training.tracking import RunStore; s = RunStore({uri!r}, '', 's'); s.open(); print(s.run_id)"
    jobs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for code in (runner, stage, runner)
    ]
    found = [job.communicate(timeout=150) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0], found
    client = MlflowClient(uri)
    tags = [client.get_run(out.strip()).data.tags for out, _ in found]
    assert [tag.get("ferry.pipeline") or tag["ferry.stage"] for tag in tags] == ["clup", "s", "clup"]
    assert Path(tmp_path / "new" / "mlartifacts").as_uri() in client.get_experiment_by_name("ferry").artifact_location


def test_a_damaged_store_is_named_with_what_to_do(empty_store, tmp_path):
    whole = empty_store.read_bytes()
    for content in (b"no database " * 100, whole[: len(whole) // 2]):
        (tmp_path / "mlflow.db").write_bytes(content)
        with pytest.raises(UserError, match=r"a store that MLflow can open, but got .*mlflow\.db") as caught:
            runs.connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
        assert f"Restore it from a backup, or move {tmp_path / 'mlflow.db'} away" in str(caught.value)
        assert "without the models" in str(caught.value)


@pytest.mark.timeout(20)
def test_a_path_that_cannot_be_opened_is_to_be_checked_and_found_at_once(tmp_path):
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(UserError, match=r"unable to open.*Check the path: .*mlflow\.db must be a file") as caught:
        runs.connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert "away" not in str(caught.value)


@pytest.mark.timeout(20)
def test_a_locked_store_can_pass_and_nobody_is_told_to_move_it_away(uri, monkeypatch):
    monkeypatch.setattr(store, "_STORE_SECONDS", 0.1)
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RetryableError, match=r"a store that is free, but got .*mlflow\.db: .*is locked") as caught:
            runs.connect(uri)
        assert caught.value.exit_code == 75
        assert "away" not in str(caught.value)
        assert "run the same command again" in str(caught.value)
        other.execute("ROLLBACK")
    assert runs.connect(uri) is not None


def test_a_store_of_a_newer_mlflow_is_left_alone(uri):
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        database.execute("UPDATE alembic_version SET version_num = 'feedc0ffee12'")
        database.execute("DROP TABLE registered_model_aliases")  # else MLflow does not look at the version
        database.commit()
    with pytest.raises(UserError, match=r"a store that MLflow can open.*feedc0ffee12.*is as it was") as caught:
        runs.connect(uri)
    assert "away" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "kind", "fix"),
    [
        ("database is locked", RetryableError, "run the same command again"),
        ("database table is locked", RetryableError, "run the same command again"),
        ("database is busy", RetryableError, "run the same command again"),
        ("unable to open database file", UserError, "Check the path"),
        ("attempt to write a readonly database", UserError, "Check the path"),
        ("database disk image is malformed", UserError, "mlflow.db away"),
        ("file is not a database", UserError, "mlflow.db away"),
        ("no such table: experiments", UserError, "is as it was"),
    ],
)
def test_what_a_database_says_decides_what_to_do(tmp_path, monkeypatch, said, kind, fix):
    import mlflow
    from sqlalchemy.exc import OperationalError

    def refuse(uri):
        raise OperationalError("SELECT 1 -- is locked, not a database", {}, Exception(said))

    monkeypatch.setattr(mlflow, "MlflowClient", refuse)
    with pytest.raises(kind) as caught:
        runs.connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert said in str(caught.value)
    assert fix in str(caught.value)
    assert ("away" in str(caught.value)) == ("away" in fix)


def test_a_full_disk_under_the_store_can_pass(tmp_path, monkeypatch):
    import mlflow
    from sqlalchemy.exc import OperationalError

    def refuse(uri):
        raise OperationalError("INSERT", {}, Exception("database or disk is full"))

    monkeypatch.setattr(mlflow, "MlflowClient", refuse)
    with pytest.raises(RetryableError, match=r"Expected `disk` to be large enough for .*mlflow\.db.*Free some space"):
        runs.connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
