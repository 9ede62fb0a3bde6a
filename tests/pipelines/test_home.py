from __future__ import annotations

import json
import multiprocessing
import os

import pytest
from ferry.common.errors import RetryableError, UserError
from ferry.pipelines.runner import Home, RunRecord, TaskRecord, load_record


def test_the_home_is_the_given_one_else_that_of_the_environment_else_here(tmp_path, monkeypatch):
    assert Home.at(tmp_path / "a").root == tmp_path / "a"
    assert Home.at().root == tmp_path / ".ferry"
    monkeypatch.setenv("FERRY_HOME", str(tmp_path / "b"))
    assert Home.at().root == tmp_path / "b"


def test_a_file_is_no_home(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Expected `home` to be a folder"):
        Home.at(tmp_path / "file")


def test_finding_a_home_makes_nothing_and_names_the_one_that_opening_makes(tmp_path):
    found = Home.find(tmp_path / "home")
    assert not list(tmp_path.iterdir())
    assert not found.has_store
    assert found == Home.at(tmp_path / "home")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Expected `home` to be a folder"):
        Home.find(tmp_path / "file")


def test_tracking_is_in_the_home_unless_a_server_is_named(home, monkeypatch):
    assert home.tracking_uri == f"sqlite:///{home.root / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert home.tracking_uri == "http://mlflow:5000"


def test_a_second_run_is_refused_and_told_who_is_at_work(home):
    with home.lock():
        with pytest.raises(RetryableError, match=rf"process id {os.getpid()} .*--home"), home.lock():
            pass
    with home.lock():
        pass


def _hold_and_die(home, ready):
    lock = home.lock()
    lock.__enter__()
    ready.set()
    os.kill(os.getpid(), 9)


def test_the_lock_of_a_dead_process_is_no_obstacle(home):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold_and_die, args=(home, ready))
    process.start()
    process.join()
    assert ready.is_set()
    assert json.loads((home.root / "lock").read_text())["pid"] == process.pid
    with home.lock():
        pass


def test_runs_of_the_same_second_have_different_names(home):
    names = [home.new_run("clup").name for _ in range(5)]
    assert len(set(names)) == 5
    assert all("-clup" in name for name in names)


def test_a_record_is_read_as_it_was_written_and_never_holds_nan(tmp_path):
    tasks = [TaskRecord("a", "done", seconds=1.5, facts={"x": float("nan")})]
    record = RunRecord("1", "clup", {"seed": 1}, metrics={"source": {"ece": float("inf")}}, tasks=tasks)
    record.write(tmp_path)
    text = (tmp_path / "run.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    found = load_record(tmp_path)
    assert (found.tasks[0].name, found.tasks[0].facts, found.metrics) == ("a", {"x": None}, {"source": {"ece": None}})


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"Expected `run\.json` to be valid JSON"):
        load_record(tmp_path)
