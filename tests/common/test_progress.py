import json
import logging

import pytest
from ferry.common import progress as module
from ferry.common.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (3.21, "3.2 s"), (59, "59 s"), (75, "1 min 15 s"), (3600, "1 h 0 min")]
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_short_work_says_nothing(clock, caplog):
    with caplog.at_level(logging.INFO, "ferry"), Progress("decoding", 10) as bar:
        clock.now += 1
        bar.advance(10)
    assert not caplog.records


def test_long_work_logs_rate_and_time_left_and_never_more_often_than_every_ten_seconds(clock, caplog):
    with caplog.at_level(logging.INFO, "ferry"), Progress("decoding", 100) as bar:
        for _ in range(20):
            clock.now += 1
            bar.advance(2)
        lines = [record.message for record in caplog.records]
    assert len(lines) == 2
    assert lines[0] == "decoding: 20/100 images, 2/s, 40 s left"


def test_resumed_work_does_not_count_into_the_rate(clock):
    bar = Progress("training", 100, start=50)
    clock.now += 10
    bar.advance(10)
    assert bar.rate == pytest.approx(1.0)
    assert bar.eta == pytest.approx(40.0)


def test_the_first_step_and_a_slow_minute_are_forgotten_by_the_rate_but_not_by_the_mean(clock):
    bar = Progress("training", 10_000, start=5_000)
    clock.now += 40
    bar.advance(10)
    assert bar.rate == pytest.approx(10 / 40)
    for _ in range(40):
        clock.now += 0.25
        bar.advance(10)
    assert bar.rate == pytest.approx(40.0)
    assert bar.eta == pytest.approx((5_000 - 410) / 40)
    clock.now += 60
    bar.advance(10)
    assert 1 < bar.rate < 410 / 70
    for _ in range(130):
        clock.now += 0.25
        bar.advance(10)
    assert bar.rate == pytest.approx(40.0)
    assert bar.mean_rate == pytest.approx(1720 / (40 + 10 + 60 + 32.5))


def test_steps_longer_than_the_window_have_the_rate_of_ten(clock):
    bar = Progress("training", 100)
    for seconds in (90, 10, 50, 100):
        clock.now += seconds
        bar.advance(5)
    assert bar.rate == pytest.approx(15 / 160)
    for _ in range(10):
        clock.now += 40
        bar.advance(5)
    assert bar.rate == pytest.approx(5 / 40)


def test_steps_at_the_same_instant_have_a_finite_rate_and_few_marks(clock):
    bar = Progress("training", None)
    assert (bar.rate, bar.eta) == (0, None)
    clock.now += 4
    for _ in range(10_000):
        bar.advance(1)
    assert bar.rate == pytest.approx(10_000 / 4)
    for _ in range(100_000):
        clock.now += 0.001
        bar.advance(1)
    assert bar.rate == pytest.approx(1000, rel=0.01)
    assert len(bar._marks) < 100


def test_the_state_file_is_whole_json_and_says_where_the_work_is(clock, tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    monkeypatch.setenv(module.STATE_VARIABLE, str(path))
    with Progress("training", None, unit="steps") as bar:
        clock.now += 3
        bar.advance(6, note="loss 1.2")
        state = json.loads(path.read_text())
    assert state.pop("id")
    assert state == {
        "finished": False,
        "said": [],
        "description": "training",
        "done": 6,
        "total": None,
        "unit": "steps",
        "rate": 2.0,
        "eta_seconds": None,
        "note": "loss 1.2",
    }
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_the_state_file_says_when_the_work_is_finished_and_nothing_of_work_that_was_short(clock, tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    monkeypatch.setenv(module.STATE_VARIABLE, str(path))
    with Progress("decoding", 10) as bar:
        clock.now += 1
        bar.advance(10)
    assert not path.exists()
    with Progress("training", 10) as bar:
        clock.now += 3
        bar.advance(10)
        first = json.loads(path.read_text())
    last = json.loads(path.read_text())
    assert (first["finished"], last["finished"]) == (False, True)
    assert first["id"] == last["id"]


def test_what_the_work_says_is_logged_and_left_for_the_watching_runner(clock, tmp_path, monkeypatch, caplog):
    path = tmp_path / "state.json"
    monkeypatch.setenv(module.STATE_VARIABLE, str(path))
    with caplog.at_level(logging.INFO, "ferry"), Progress("training", 10) as bar:
        bar.say("about 5 min")
        assert json.loads(path.read_text())["said"] == ["about 5 min"]
    assert [record.message for record in caplog.records] == ["training: about 5 min"]


@pytest.mark.parametrize(
    ("rate", "text"), [(1234.5, "1,234/s"), (10.0, "10/s"), (2.0, "2/s"), (0.3671, "0.37/s"), (0, "0/s")]
)
def test_slow_rates_are_not_rounded_to_nothing(rate, text):
    assert module.per_second(rate) == text


def test_a_state_file_that_cannot_be_written_does_not_end_the_work(clock, tmp_path, monkeypatch):
    monkeypatch.setenv(module.STATE_VARIABLE, str(tmp_path / "missing" / "state.json"))
    with Progress("training", 2) as bar:
        clock.now += 3
        bar.advance(2)
    assert bar.done == 2
