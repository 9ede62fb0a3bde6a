"""What people see of a run, in logs and on terminals: lines per stage, what it says itself, rate and time left."""

from __future__ import annotations

import io
import json
import logging
import os
import sys

import pytest
from ferry.common import progress as progress_module
from ferry.pipelines.runner import watch as module
from ferry.pipelines.runner.watch import Watch, silent


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "stages").mkdir()
    monkeypatch.setenv(progress_module.STATE_VARIABLE, str(tmp_path / "progress.json"))
    return tmp_path


@pytest.fixture
def lines():
    return []


@pytest.fixture
def watch(place, clock, lines):
    with Watch(place / "stages", place / "progress.json", lines.append) as watch:
        yield watch


def leave(place, name, status, **values):
    record = {"name": name, "status": status, "started": 5.0, "ended": 75.0, "warnings": [], "pid": os.getpid()}
    record.update(values)
    (place / "stages" / f"{name}.json").write_text(json.dumps(record))


def test_every_stage_has_a_line_when_it_begins_and_when_it_ends_and_its_warnings_are_notes(watch, place, lines):
    leave(place, "train", "running")
    watch.look()
    watch.look()
    leave(place, "train", "done", warnings=["few faces"])
    watch.look()
    leave(place, "evaluate", "failed")
    watch.look()
    assert lines == ["  train ...", "  train: done in 1 min 10 s", "    note: few faces", "  evaluate: failed"]


def test_a_damaged_record_is_passed_over(watch, place, lines):
    (place / "stages" / "train.json").write_text("{")
    watch.look()
    assert lines == []


def test_in_a_log_there_is_a_line_with_rate_and_time_left_every_fifteen_seconds(watch, place, clock, lines):
    leave(place, "train", "running")
    watch.look()
    with progress_module.Progress("training", 1000) as bar:
        for _ in range(40):
            clock.now += 1
            bar.advance(1, "loss 1.5")
            watch.look()
    shown = [line for line in lines if "left" in line]
    assert len(shown) == 2
    assert shown[0] == "    training: 15/1,000 images, 1/s, 16 min 25 s left, loss 1.5"


def test_in_a_log_a_stage_that_does_not_count_says_for_how_long_it_has_been_at_work(watch, place, clock, lines):
    clock.now += 16
    watch.look()
    clock.now += 14
    leave(place, "register", "running")
    watch.look()
    clock.now += 14
    watch.look()
    clock.now += 6
    watch.look()
    assert lines == ["    starting: 16 s so far", "  register ...", "    register: 20 s so far"]


def test_between_stages_it_says_what_the_run_is_waiting_for(watch, place, clock, lines):
    for status, work in (("done", "starting the next stage"), ("failed", "ending the run")):
        leave(place, status, status)
        watch.look()
        clock.now += 16
        watch.look()
        assert lines[-1] == f"    {work}: 16 s so far"


def test_what_will_be_paid_is_said_once_and_at_once(watch, place, clock, lines, caplog):
    leave(place, "train", "running")
    with caplog.at_level(logging.INFO, "ferry"), progress_module.Progress("training", 1000) as bar:
        clock.now += 3
        bar.advance(10)
        bar.say("about 5 min for 990 images")
        for _ in range(5):
            watch.look()
            clock.now += 1
            bar.advance(10)
        bar.say("slower than expected")
    leave(place, "train", "done")  # before the next look: the last sentence is not lost with the stage
    watch.look()
    leave(place, "tune", "running")
    with progress_module.Progress("tuning", 1000) as bar:
        bar.say("about 5 min for 990 images")
        watch.look()
    assert lines == [
        "  train ...",
        "    training: about 5 min for 990 images",
        "    training: slower than expected",
        "  train: done in 1 min 10 s",
        "  tune ...",
        "    tuning: about 5 min for 990 images",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard error a terminal; called within the test, because pytest puts its own stream there before."""

    def make():
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "140")
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return make


def test_on_a_terminal_a_bar_shows_rate_and_time_left(terminal, watch, place, clock):
    screen = terminal()
    leave(place, "train", "running")
    watch.look()
    state = {
        "id": f"{os.getpid()}-1",
        "finished": False,
        "said": [],
        "description": "training",
        "done": 50,
        "total": 100,
    }
    state.update(unit="images", rate=0.25, eta_seconds=200.0, note="loss 1.5")
    (place / "progress.json").write_text(json.dumps(state))
    watch.look()
    watch.__exit__(None, None, None)
    assert "50 images, 0.25/s, 3 min 20 s left, loss 1.5" in screen.getvalue()


def test_on_a_terminal_a_stage_that_does_not_count_shows_its_time_after_two_seconds(terminal, watch, place, clock):
    screen = terminal()
    leave(place, "evaluate", "running")
    watch.look()
    clock.now += 1
    watch.look()
    assert screen.getvalue() == ""
    clock.now += 2
    watch.look()
    watch.__exit__(None, None, None)
    assert "evaluate" in screen.getvalue()
    assert "3.0 s so far" in screen.getvalue()


def test_work_that_is_finished_gives_way_to_what_the_stage_does_next(terminal, watch, place, clock):
    screen = terminal()
    leave(place, "evaluate", "running")
    watch.look()
    state = {
        "id": f"{os.getpid()}-1",
        "finished": True,
        "said": [],
        "description": "predicting",
        "done": 100,
        "total": 100,
    }
    state.update(unit="images", rate=25, eta_seconds=0.0, note="")
    (place / "progress.json").write_text(json.dumps(state))
    clock.now += 5
    watch.look()
    watch.__exit__(None, None, None)
    assert "predicting" not in screen.getvalue()
    assert "5.0 s so far" in screen.getvalue()


def test_what_an_earlier_stage_has_left_is_not_taken_for_progress(watch, place, clock, lines):
    with progress_module.Progress("training", 10) as bar:
        clock.now += 3
        bar.advance(3)
        leave(place, "evaluate", "running", pid=os.getpid() + 1)
        watch.look()
        clock.now += 20
        watch.look()
    assert lines == ["  evaluate ...", "    evaluate: 20 s so far"]


def test_who_asked_for_silence_sees_no_bar_either(terminal, place, clock):
    screen = terminal()
    with Watch(place / "stages", place / "progress.json", silent) as watch:
        leave(place, "train", "running")
        watch.look()
        clock.now += 60
        watch.look()
    assert screen.getvalue() == ""
