import json

import pytest
from ferry.common.errors import RetryableError, expected
from ferry.common.stage import FOLDER_VARIABLE, stage


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def read(folder, name="work"):
    return json.loads((folder / f"{name}.json").read_text())


def test_a_stage_leaves_times_warnings_and_facts(folder):
    with stage("work") as record:
        assert read(folder)["status"] == "running"
        record.warn("look here")
        record.facts["images"] = 3
    left = read(folder)
    assert (left["status"], left["exit_code"], left["warnings"], left["facts"]) == (
        "done",
        0,
        ["look here"],
        {"images": 3},
    )
    assert left["ended"] >= left["started"] > 0


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (expected("lr", "positive", -1, "Pass 0.1."), 2, "Expected `lr` to be positive"),
        (RetryableError("disk full"), 75, "disk full"),
        (KeyboardInterrupt(), 75, "was interrupted"),
        (ZeroDivisionError("oops"), 1, "ZeroDivisionError: oops"),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "Expected `/x/y` to be accessible to this user"),
        (ConnectionResetError(104, "Connection reset by peer"), 75, "Connection reset by peer"),
    ],
)
def test_an_error_becomes_an_exit_code_and_a_message(folder, error, code, message):
    with pytest.raises(SystemExit) as raised, stage("work"):
        raise error
    left = read(folder)
    assert raised.value.code == left["exit_code"] == code
    assert left["status"] == "failed"
    assert message in left["error"]


def test_a_users_mistake_shows_no_traceback_but_a_bug_does(folder, capfd):
    with pytest.raises(SystemExit), stage("work"):
        raise expected("lr", "positive", -1, "Pass 0.1.")
    assert "Traceback" not in capfd.readouterr().err
    with pytest.raises(SystemExit), stage("work"):
        raise ZeroDivisionError
    assert "Traceback" in capfd.readouterr().err


def test_without_a_runner_nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    with stage("work"):
        pass
    assert not list(tmp_path.iterdir())
