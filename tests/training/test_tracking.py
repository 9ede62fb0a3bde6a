"""Tracking joins a run or makes one, and a store that is away never harms a training."""

import http.server
import json
import os
import runpy
import shutil
import signal
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ferry.common.errors import Interrupted, RetryableError, TrainingDiverged
from ferry.training import open_tracker, runs, tracking, train, upload_spool
from ferry.training.runs import probe
from ferry.training.spool import read_spool
from ferry.training.tracking import RunStore, Tracker

from .. import servers

toy = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("toy.py"))))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "FERRY_PARENT_RUN", "FERRY_CHECKPOINTS", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FERRY_SPOOL", str(tmp_path / "spool"))


@pytest.fixture(scope="module")
def store(empty_store, tmp_path_factory):
    return f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('store'))}"


@pytest.fixture
def client(store):
    from mlflow import MlflowClient

    return MlflowClient(store)


def spooled(tmp_path):
    files = sorted((tmp_path / "spool").glob("tracking-*.jsonl"))
    return [record for file in files for record in read_spool(file) if record["kind"] != "end"]


def ends(tmp_path):
    files = sorted((tmp_path / "spool").glob("tracking-*.jsonl"))
    return [record["status"] for file in files for record in read_spool(file) if record["kind"] == "end"]


class Memory:
    """A run that is a list, and can be away."""

    def __init__(self):
        self.run_id, self.reached, self.own = "", 0.0, True
        self.written, self.ended, self.away, self.opened = [], [], False, 0

    def open(self):
        self.opened += 1
        if self.away:
            raise ConnectionError("nobody there")
        self.reached, self.run_id = time.monotonic(), "made"

    def write(self, records):
        if self.away:
            raise ConnectionError("nobody there")
        self.written += list(records)

    def end(self, status):
        self.ended.append(status)


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_without_mlflow_it_does_nothing_and_says_so(caplog, tmp_path):
    with caplog.at_level("INFO", logger="ferry"), open_tracker("pretraining") as tracker:
        tracker.metrics({"loss": 1.0}, 1)
    assert not tracker.active
    assert "neither MLFLOW_RUN_ID nor MLFLOW_TRACKING_URI" in caplog.text
    assert spooled(tmp_path) == []


def test_only_the_first_process_tracks(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("RANK", "1")
    assert not open_tracker("pretraining").active


def test_records_are_prefixed_finite_and_in_order():
    store = Memory()
    with Tracker("fine-tuning", store) as tracker:
        tracker.metrics({"loss": 1.5, "nan": float("nan"), "inf": float("inf"), "none": None, "a (b)": 2}, 7)
        tracker.parameters({"epochs": 3})
        tracker.tags({"target": "faces"})
        tracker.metrics({"loss": 1.0}, 8)
    kinds = [(one["kind"], one["key"], one["value"]) for one in store.written]
    assert kinds == [
        ("metric", "fine-tuning/loss", 1.5),
        ("metric", "fine-tuning/a _b_", 2.0),
        ("parameter", "fine-tuning/epochs", "3"),
        ("tag", "target", "faces"),
        ("metric", "fine-tuning/loss", 1.0),
    ]
    assert [one["step"] for one in store.written if one["kind"] == "metric"] == [7, 7, 8]
    assert store.ended == ["FINISHED"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError, "FAILED"),
        (RetryableError, "FAILED"),
        (SystemExit, "FAILED"),
        (KeyboardInterrupt, "KILLED"),
        (Interrupted, "KILLED"),
    ],
)
def test_an_error_in_the_block_ends_the_run_as_what_it_is(error, status, tmp_path):
    store, away = Memory(), Memory()
    away.away = True
    for one in (store, away):
        with pytest.raises(error), Tracker("s", one) as tracker:
            tracker.metrics({"loss": 1.0}, 1)
            raise error
    assert store.ended == [status]
    assert ends(tmp_path) == [status]  # also kept for later


def test_closing_twice_is_harmless_and_later_records_are_ignored():
    store = Memory()
    tracker = Tracker("s", store)
    tracker.close()
    tracker.close()
    tracker.metrics({"loss": 1.0}, 1)
    assert (store.written, store.ended) == ([], ["FINISHED"])


def test_a_store_that_is_away_costs_nothing_warns_once_and_keeps_the_records(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "_FLUSH_SECONDS", 0.01)
    store = Memory()
    store.away = True
    tracker = Tracker("s", store)
    began = time.monotonic()
    for step in range(20):
        tracker.metrics({"loss": float(step)}, step)
        tracker.flush()
        time.sleep(0.01)
    tracker.close()
    assert time.monotonic() - began < tracking._CLOSE_SECONDS
    assert [record["value"] for record in spooled(tmp_path)] == [float(step) for step in range(20)]
    assert caplog.text.count("takes no records (nobody there)") == 1
    assert str(tmp_path / "spool") in caplog.text


def test_a_store_that_dies_and_comes_back_gets_everything_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_FLUSH_SECONDS", 0.01)
    store = Memory()
    tracker = Tracker("s", store)
    tracker.metrics({"loss": 1.0}, 1)
    wait_for(lambda: len(store.written) == 1)
    store.away = True
    tracker.metrics({"loss": 2.0}, 2)
    wait_for(lambda: len(spooled(tmp_path)) == 1)
    store.away = False
    tracker.metrics({"loss": 3.0}, 3)
    tracker.close()
    assert sorted(one["value"] for one in store.written) == [1.0, 2.0, 3.0]
    assert spooled(tmp_path) == []
    assert store.ended == ["FINISHED"]


def test_a_store_that_never_answers_is_left_after_a_few_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_CLOSE_SECONDS", 0.3)
    never = threading.Event()
    store = Memory()
    store.open = never.wait
    tracker = Tracker("s", store)
    tracker.metrics({"loss": 1.0}, 1)
    began = time.monotonic()
    tracker.close()
    assert time.monotonic() - began < 5
    assert [record["value"] for record in spooled(tmp_path)] == [1.0]
    never.set()


def test_records_are_kept_beside_the_checkpoint_by_default(tmp_path, monkeypatch):
    monkeypatch.delenv("FERRY_SPOOL")
    store = Memory()
    store.away = True
    with Tracker("s", store) as tracker:
        train(toy.Toy(), toy.toy_pixels(), toy.settings(), checkpoint=tmp_path / "run" / "c.pt", tracker=tracker)
    (file,) = (tmp_path / "run").glob("tracking-s-*.jsonl")
    keys = {record.get("key") for record in read_spool(file)}
    assert {"s/loss", "s/learning_rate", "s/images_per_second", "s/epoch/loss", "s/epochs", "s/precision"} <= keys


def test_a_place_that_cannot_be_written_does_not_end_the_training(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FERRY_SPOOL", str(tmp_path / "file" / "folder"))
    store = Memory()
    store.away = True
    with Tracker("s", store) as tracker:
        tracker.metrics({"loss": 1.0}, 1)
    assert "records are lost" in caplog.text


def test_the_history_of_a_training_is_tracked(tmp_path):
    store = Memory()
    with Tracker("s", store) as tracker:
        result = train(toy.Toy(), toy.toy_pixels(), toy.settings(), tracker=tracker)
    for kind, key in (("step", "s/loss"), ("epoch", "s/epoch/loss"), ("epoch", "s/epoch/spread")):
        wanted = [(record["step"], record[key.split("/")[-1]]) for record in result.history if record["kind"] == kind]
        assert [(one["step"], one["value"]) for one in store.written if one["key"] == key] == wanted


def test_a_cut_off_line_of_a_spool_is_left_out(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text('{"kind": "metric", "key": "a"}\n{"kind": "met')
    assert read_spool(path) == [{"kind": "metric", "key": "a"}]


def test_probe_knows_who_answers():
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(401)

        def log_message(self, *given):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    probe(f"http://user:secret@127.0.0.1:{server.server_port}/")
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError) as caught:
        probe(f"http://user:secret@127.0.0.1:{server.server_port}")
    assert "secret" not in str(caught.value)
    probe("sqlite:///anything.db")


def test_probe_does_not_wait_for_a_server_that_says_nothing(monkeypatch):
    monkeypatch.setattr(runs, "_PROBE_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ConnectionError, match="no answer"):
            probe(f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.slow
def test_it_joins_the_given_run_and_never_ends_it(store, client, monkeypatch, tmp_path):
    run = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_RUN_ID", run)
    (tmp_path / "figure.txt").write_text("x")
    with open_tracker("pretraining") as tracker:
        tracker.metrics({"loss": 2.0}, 3)
        tracker.parameters({"epochs": 3})
        tracker.artifact(tmp_path / "figure.txt")
    found = client.get_run(run)
    assert os.environ["MLFLOW_RUN_ID"] == run == tracker.run_id
    assert found.info.status == "RUNNING"
    assert found.data.metrics == {"pretraining/loss": 2.0}
    assert found.data.params == {"pretraining/epochs": "3"}
    assert [one.path for one in client.list_artifacts(run, "pretraining")] == ["pretraining/figure.txt"]


@pytest.mark.slow
def test_it_makes_a_nested_run_and_ends_it(store, client, monkeypatch):
    parent = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("FERRY_PARENT_RUN", parent)
    with open_tracker("pretraining") as tracker:
        wait_for(lambda: tracker.run_id, seconds=60)
        for step in range(2500):
            tracker.metrics({"loss": float(step)}, step)
    found = client.get_run(tracker.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "pretraining"
    assert found.data.tags["mlflow.parentRunId"] == parent
    assert client.get_experiment(found.info.experiment_id).name == "ferry"
    assert len(client.get_metric_history(tracker.run_id, "pretraining/loss")) == 2500


class Nan(toy.Toy):
    def step(self, batch):
        scalars = super().step(batch)
        return {**scalars, "loss": scalars["loss"] * float("nan")} if batch.step == 4 else scalars


class Stopped(toy.Toy):
    def step(self, batch):
        if batch.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(batch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "error", "status"), [(Nan, TrainingDiverged, "FAILED"), (Stopped, Interrupted, "KILLED")]
)
def test_a_training_that_fails_or_is_stopped_ends_its_run_so(store, client, monkeypatch, method, error, status):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    with pytest.raises(error), open_tracker("pretraining") as tracker:
        train(method(), toy.toy_pixels(), toy.settings(), tracker=tracker)
    assert client.get_run(tracker.run_id).info.status == status


@pytest.mark.slow
def test_a_parameter_that_changed_on_resume_does_not_stop_the_rest(store, client, monkeypatch, tmp_path):
    run = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_RUN_ID", run)
    for device, more in (("cpu", {}), ("cuda", {"new": 1})):
        with open_tracker("s") as tracker:
            tracker.parameters({"device": device, **more})
            tracker.metrics({"loss": 1.0}, 1)
    assert client.get_run(run).data.params == {"s/device": "cpu", "s/new": "1"}
    assert spooled(tmp_path) == []


@pytest.mark.slow
def test_a_kept_file_can_be_sent_later(store, client, tmp_path):
    run = client.create_run("0").info.run_id
    path = tmp_path / "tracking-s-1.jsonl"
    about = {"stage": "s", "run": run}
    records = [
        {"kind": "metric", "key": "s/loss", "value": 1.0, "step": 4, "time": 1_700_000_000_000, **about},
        {"kind": "parameter", "key": "s/epochs", "value": "3", **about},
        {"kind": "metric", "key": "s/loss", "value": 2.0, "step": 1, "time": 1_700_000_000_000, **about, "run": ""},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert upload_spool(path, store) == 3
    assert client.get_run(run).data.metrics == {"s/loss": 1.0}
    assert client.get_run(run).info.status == "RUNNING"
    assert not path.exists()


@pytest.mark.slow
def test_a_kept_end_ends_the_run(store, client, tmp_path):
    run = client.create_run("0").info.run_id
    path = tmp_path / "tracking-s-1.jsonl"
    path.write_text(json.dumps({"kind": "end", "status": "FAILED", "stage": "s", "run": run}))
    assert upload_spool(path, store) == 1
    assert client.get_run(run).info.status == "FAILED"


@pytest.fixture
def server(tmp_path):
    """A real tracking server."""
    with servers.mlflow(tmp_path) as started:
        yield started


@pytest.mark.integration
def test_a_training_on_a_real_server_and_one_whose_server_dies(server, tmp_path, monkeypatch, caplog, capsys):
    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    with open_tracker("pretraining") as tracker:
        result = train(toy.Toy(), toy.toy_pixels(), toy.settings(), tracker=tracker)
    history = client.get_metric_history(tracker.run_id, "pretraining/loss")
    assert [(one.step, one.value) for one in history] == [
        (record["step"], record["loss"]) for record in result.history if record["kind"] == "step"
    ]
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert client.get_run(tracker.run_id).data.params["pretraining/batch_size"] == "16"
    assert spooled(tmp_path) == []
    assert "View run" not in capsys.readouterr().out  # MLflow's own word, among what --json prints

    class Deadly(toy.Toy):
        def end_epoch(self, epoch, context):
            if epoch == 1:
                server.stop()
            return super().end_epoch(epoch, context)

    tracker = open_tracker("fine-tuning")
    wait_for(lambda: tracker.run_id, seconds=60)
    began = time.monotonic()
    whole = train(Deadly(), toy.toy_pixels(), toy.settings(), tracker=tracker)
    tracker.close()
    assert time.monotonic() - began < 60
    assert whole.steps == 12
    kept = [record for record in spooled(tmp_path) if record["key"] == "fine-tuning/epoch/loss"]
    assert [record["step"] for record in kept][-1] == 12
    assert {record["run"] for record in kept} == {tracker.run_id}
    assert "takes no records" in caplog.text


def test_the_store_has_the_interface_that_the_tests_fake():
    assert {"open", "write", "end"} <= set(dir(RunStore)) & set(dir(Memory))
