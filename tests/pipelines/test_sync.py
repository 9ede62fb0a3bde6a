"""What MLflow did not take when it was away is sent later, once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ferry.common.errors import RetryableError
from ferry.pipelines.catalogue import compile_pipeline, find
from ferry.pipelines.runner import load_record
from ferry.pipelines.runner.local import _failure
from ferry.pipelines.runner.record import RunRecord, TaskRecord, now
from ferry.pipelines.runner.sync import sync, unregistered
from ferry.registry import register as registration
from mlflow import MlflowClient

from ..registry.conftest import make_evaluation, make_model


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Skips MLflow's own packing, which takes seconds."""

    def pack(model, output, card):
        shutil.copytree(model, output / "artifacts" / "classifier")
        card.write(output)

    monkeypatch.setattr(registration, "pack", pack)
    for name in ("RUN_ID", "EXPERIMENT_ID", "EXPERIMENT_NAME"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)


@pytest.fixture
def uri(empty_store, tmp_path):
    return f"sqlite:///{shutil.copy(empty_store, tmp_path / 'server.db')}"


@pytest.fixture
def client(uri):
    return MlflowClient(uri)


@pytest.fixture
def left(home, uri, client, tmp_path):
    """A run of adabn whose server went away before the registration."""
    folder = home.new_run("adabn")
    make_model(folder / "model")
    make_evaluation(folder)
    (folder / "report.html").write_text("<!doctype html>")
    (folder / "pipeline.yaml").write_text(compile_pipeline(find("adabn")))
    run = client.create_run(client.create_experiment("e", str(tmp_path / "artifacts"))).info.run_id
    (home.checkpoints / "used.pt").write_text("x")
    tasks = [
        TaskRecord("re-estimate-statistics", "done", artifacts={"model": str(folder / "model")}),
        TaskRecord(
            "evaluate",
            "done",
            artifacts={"evaluation": str(folder), "report": str(folder / "report.html")},
            checkpoints=[str(home.checkpoints / "used.pt")],
        ),
        TaskRecord("register", "failed", exit_code=75, error="The server is away."),
    ]
    record = RunRecord(folder.name, "adabn", {"model_name": "faces"}, tasks=tasks, log=str(folder / "log.txt"))
    record.mlflow, record.started = {"tracking_uri": uri, "run_id": run}, now()
    record.end("failed", "The server is away.", 75)
    record.write(folder)
    return folder


def spooled(home, run, name="tracking-pretraining-1.jsonl"):
    about = {"run": run, "stage": "pretraining"}
    records = [
        {"kind": "metric", "key": "pretraining/loss", "value": 1.5, "step": 4, "time": 1_700_000_000_000, **about},
        {"kind": "metric", "key": "pretraining/loss", "value": 1.0, "step": 5, "time": 1_700_000_000_000, **about},
    ]
    path = home.spool / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_model_that_was_made_becomes_a_version_and_its_run_is_done(home, left, client):
    lines = []
    found = sync(home, lines.append)
    version = client.get_model_version_by_alias("faces", "challenger")
    record = load_record(left)
    assert (record.status, record.exit_code, record.error) == ("done", 0, "")
    assert record.model == found.models[0]
    assert (record.model["name"], record.model["version"]) == ("faces", str(version.version))
    assert record.tasks[-1].status == "done"
    assert version.run_id == record.mlflow["run_id"]
    assert client.get_run(version.run_id).info.status == "FINISHED"
    assert lines == [f"{left.name}: faces version 1"]
    again = sync(home, lines.append)
    assert (again.models, again.records, again.left) == ([], 0, [])
    assert len(client.search_model_versions("name = 'faces'")) == 1


def test_numbers_go_to_the_store_of_their_run(home, left, client):
    run = load_record(left).mlflow["run_id"]
    path = spooled(home, run)
    assert sync(home, lambda line: None).records == 2
    assert not path.exists()
    assert client.get_run(run).data.metrics == {"pretraining/loss": 1.0}
    assert not (home.root / "mlflow.db").exists()


def test_the_environment_may_name_another_store(home, left, empty_store, tmp_path, monkeypatch):
    other = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'other.db')}"
    MlflowClient(other).create_experiment("ferry", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ferry")
    (model,) = sync(home, lambda line: None).models
    assert MlflowClient(other).get_model_version_by_alias("faces", "challenger").run_id == model["run_id"]
    assert load_record(left).status == "done"


def test_a_model_that_was_registered_meanwhile_is_not_registered_again(home, left, client, uri):
    """The same command was given again, as the error's advice says."""
    record = load_record(left)
    other = client.create_run(client.create_experiment("other", str(left / "artifacts"))).info.run_id
    made = registration.register(left / "model", left, left / "report.html", "faces", tracking_uri=uri, run_id=other)
    (model,) = sync(home, lambda line: None).models
    assert (model["version"], model["run_id"]) == (str(made.version), other)
    assert load_record(left).status == "done"
    assert len(client.search_model_versions("name = 'faces'")) == 1
    assert record.status == "failed"


def test_an_older_model_does_not_take_the_alias_of_a_newer_one(home, left, client, uri, tmp_path):
    newer = make_model(tmp_path / "newer", seed=1)
    other = client.create_run(client.create_experiment("other", str(left / "artifacts"))).info.run_id
    registration.register(newer, left, left / "report.html", "faces", tracking_uri=uri, run_id=other)
    found = sync(home, lambda line: None)
    assert found.models == []
    assert "to be newer than faces version 1" in found.left[0]
    assert str(client.get_model_version_by_alias("faces", "challenger").version) == "1"
    assert load_record(left).status == "failed"


@pytest.mark.parametrize("damage", ["gone", "{", "root: {}", "a: [", "root: {dag: {tasks: {}}}"])
def test_a_run_whose_files_are_damaged_is_said_and_does_not_end_the_rest(home, left, damage):
    if damage == "gone":
        (left / "pipeline.yaml").unlink()
    else:
        (left / "pipeline.yaml").write_text(damage)
    found = sync(home, lambda line: None)
    assert found.models == []
    assert f"{left.name}: Expected `run` to be one whose files are all there" in found.left[0]


def test_a_server_that_is_still_away_changes_nothing(home, left, monkeypatch):
    path = spooled(home, load_record(left).mlflow["run_id"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    before = (left / "run.json").read_text(), path.read_text()
    with pytest.raises(RetryableError, match=r"(?s)MLFLOW_TRACKING_URI.*Nothing was lost: .*ferry sync"):
        sync(home, lambda line: None)
    assert ((left / "run.json").read_text(), path.read_text()) == before


def test_a_damaged_model_is_said_and_does_not_keep_the_others(home, left, client, ferry):
    (left / "model" / "model.safetensors").write_bytes(b"damaged")
    path = spooled(home, load_record(left).mlflow["run_id"])
    code, out, err = ferry("sync", "--home", home.root)
    assert code == 1
    assert "Sent:    2 records of trainings, 0 models" in out
    assert f"note: not sent, {left.name}: Expected" in err
    assert not path.exists()
    assert load_record(left).status == "failed"


def test_only_runs_whose_registration_met_a_server_that_was_away_are_gone_on_with(left, home):
    record = load_record(left)
    assert unregistered(record).name == "register"
    assert f"`ferry sync --home {home.root}` registers it" in _failure(record, home)
    for change in ("done", "wrong", "earlier"):
        other = load_record(left)
        if change == "done":
            other.end("done")
        elif change == "wrong":
            other.tasks[-1].exit_code = 2
        else:
            other.tasks[0].status = "failed"
        assert unregistered(other) is None
        assert "ferry sync" not in _failure(other, home)


def test_a_home_that_is_not_there_has_nothing_to_send_and_is_not_made(tmp_path, ferry):
    code, out, _ = ferry("sync", "--home", tmp_path / "absent", "--json")
    assert code == 0
    assert json.loads(out) == {"records": 0, "models": [], "left": []}
    assert not Path(tmp_path / "absent").exists()
