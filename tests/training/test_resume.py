"""Killed at any moment and started again equals uninterrupted, bit for bit."""

import json
import os
import runpy
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from ferry.common.errors import RetryableError
from ferry.training import train
from ferry.training.interruption import Interruption

SCRIPT = Path(__file__).with_name("toy.py")
toy = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
QUICK = ["step 5", "start 2", "half_written"]
ALL = [*QUICK, "step 0", "step 11", "after 3", "after 7", "start 0"]
ALL += ["linked", "before_rename", "after_rename", "every step"]


def check(answers, place, whole="uninterrupted"):
    answer = answers[place]
    assert set(answer["killed"]) == {signal.SIGKILL}, answer.get("first")
    assert answer["value"]["state"] == answers[whole]["value"]["state"]
    assert answer["value"]["history"] == answers[whole]["value"]["history"]


def test_killed_and_resumed_equals_uninterrupted(preloaded):
    answers = json.loads(preloaded.run(SCRIPT, "drill", *QUICK))
    for place in QUICK:
        check(answers, place)
    assert answers["step 5"]["value"]["resumed_from"] == 5
    assert answers["start 2"]["value"]["resumed_from"] == 8


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted_everywhere(preloaded):
    answers = json.loads(preloaded.run(SCRIPT, "drill", *ALL, "adamw", "lars"))
    for place in ALL:
        check(answers, place)
    assert len(answers["every step"]["killed"]) == 12
    for optimiser in ("adamw", "lars"):
        check(answers, f"{optimiser} killed", f"{optimiser} whole")


@pytest.mark.slow
def test_killed_from_outside_at_random_moments(preloaded):
    answers = json.loads(preloaded.run(SCRIPT, "drill", "outside"))
    check(answers, "outside", "outside whole")
    assert len(answers["outside"]["killed"]) >= 2
    assert answers["outside"]["value"]["resumed_from"] > 0


def test_a_finished_training_returns_at_once_with_its_history(tmp_path, monkeypatch):
    first = toy.once(tmp_path / "c.pt")

    def refuse(*given):
        raise AssertionError("a finished training has no steps")

    monkeypatch.setattr(toy.Toy, "step", refuse)
    again = toy.once(tmp_path / "c.pt")
    assert again["resumed_from"] == again["steps"] == 12
    assert (again["state"], again["history"]) == (first["state"], first["history"])


def stopping_at(number, step, name="Toy"):
    """A toy that gets a signal in a step."""

    class Stopping(toy.Toy):
        def step(self, batch):
            if batch.step == step:
                os.kill(os.getpid(), number)
            return super().step(batch)

    Stopping.__name__ = name
    return Stopping()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_writes_and_can_go_on(tmp_path, number):
    path = tmp_path / "c.pt"
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(RetryableError, match=r"run the same command again to continue") as caught:
        train(stopping_at(number, 6), toy.toy_pixels(), toy.settings(checkpoint_seconds=999.0), checkpoint=path)
    assert caught.value.exit_code == 75
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers
    whole, again = toy.once(None), toy.once(path)
    assert again["resumed_from"] == 7
    assert (again["state"], again["history"]) == (whole["state"], whole["history"])


def test_the_same_call_goes_on_with_the_method_that_it_has_trained_so_far(tmp_path):
    path, method = tmp_path / "c.pt", stopping_at(signal.SIGTERM, 6)
    with pytest.raises(RetryableError):
        train(method, toy.toy_pixels(), toy.settings(), checkpoint=path)
    result = train(method, toy.toy_pixels(), toy.settings(), checkpoint=path)
    again = train(method, toy.toy_pixels(), toy.settings(), checkpoint=path)
    whole = toy.once(None)
    assert (result.resumed_from, again.resumed_from) == (7, 12)
    assert toy.outcome(method, again)["state"] == whole["state"]
    assert toy.once(path)["state"] == whole["state"]  # and still belongs to its first weights


def test_a_signal_in_the_last_step_does_not_spoil_the_finish(tmp_path):
    method = stopping_at(signal.SIGTERM, 11)
    result = train(method, toy.toy_pixels(), toy.settings(), checkpoint=tmp_path / "c.pt")
    assert result.steps == 12
    assert toy.outcome(method, result)["state"] == toy.once(None)["state"]


def test_without_a_checkpoint_an_interruption_says_that_nothing_was_kept():
    with pytest.raises(RetryableError, match="no checkpoint and starts again"):
        train(stopping_at(signal.SIGTERM, 1), toy.toy_pixels(), toy.settings())


def test_the_second_ctrl_c_interrupts_at_once():
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_of_the_main_thread_training_works_without_handlers():
    results = []
    thread = threading.Thread(target=lambda: results.append(toy.once(None)))
    thread.start()
    thread.join()
    assert results[0]["state"] == toy.once(None)["state"]


def test_watch_sees_earlier_records_again(tmp_path):
    class Remembering(toy.Toy):
        def __init__(self, limit):
            super().__init__()
            self.seen, self.limit = [], limit

        def watch(self, record):
            self.seen.append({name: value for name, value in record.items() if name not in toy.TIMES})
            if len(self.seen) == self.limit:
                os.kill(os.getpid(), signal.SIGTERM)

    path = tmp_path / "c.pt"
    whole, first, second = Remembering(0), Remembering(4), Remembering(0)
    train(whole, toy.toy_pixels(), toy.settings())
    with pytest.raises(RetryableError):
        train(first, toy.toy_pixels(), toy.settings(), checkpoint=path)
    train(second, toy.toy_pixels(), toy.settings(), checkpoint=path)
    assert second.seen == whole.seen


def test_another_precision_can_go_on_from_the_last_good_checkpoint(tmp_path, caplog):
    path = tmp_path / "c.pt"
    with pytest.raises(RetryableError):
        train(stopping_at(signal.SIGTERM, 3), toy.toy_pixels(), toy.settings(precision="bf16"), checkpoint=path)
    result = train(toy.Toy(), toy.toy_pixels(), toy.settings(precision="fp32"), checkpoint=path)
    assert (result.precision, result.resumed_from) == ("fp32", 4)
    assert "going on in fp32, begun in bf16" in caplog.text


def test_seconds_of_all_calls_are_counted(tmp_path):
    path = tmp_path / "c.pt"
    with pytest.raises(RetryableError):
        train(stopping_at(signal.SIGTERM, 3), toy.toy_pixels(), toy.settings(), checkpoint=path)
    first = train(toy.Toy(), toy.toy_pixels(), toy.settings(), checkpoint=path)
    again = train(toy.Toy(), toy.toy_pixels(), toy.settings(), checkpoint=path)
    assert first.seconds > 0
    assert again.seconds == pytest.approx(first.seconds, abs=0.5)
