"""Killed at any moment and started again equals uninterrupted, bit for bit."""

import json
import os
import runpy
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ferry.common.errors import RetryableError, TrainingDiverged, UserError
from ferry.training import train
from ferry.training.checkpoint import Checkpoint
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


def failing_save(monkeypatch, at):
    """Lets the checkpoint number `at` (from 1) find a full disk; returns the steps of those before it."""
    real, saved = Checkpoint.save, []

    def save(self, state):
        if len(saved) == at - 1:
            raise RetryableError("Expected `disk` to be large enough")
        real(self, state)
        saved.append(state["step"])

    monkeypatch.setattr(Checkpoint, "save", save)
    return saved


def test_after_a_full_disk_the_same_call_goes_on_with_the_same_method(tmp_path, monkeypatch):
    path, method, whole = tmp_path / "c.pt", toy.Toy(), toy.once(None)
    with monkeypatch.context() as patch:
        saved = failing_save(patch, at=4)
        with pytest.raises(RetryableError, match="`disk`"):
            train(method, toy.toy_pixels(), toy.settings(), checkpoint=path)
    result = train(method, toy.toy_pixels(), toy.settings(), checkpoint=path)
    assert result.resumed_from == saved[-1]
    assert toy.outcome(method, result)["state"] == whole["state"]
    assert toy.once(path)["state"] == whole["state"]  # and the checkpoint still belongs to its first weights


class Poisoned(toy.Toy):
    """Its weights break after a step, as those of a training in low precision may."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def after_step(self, batch):
        super().after_step(batch)
        if batch.step == self.at:
            self.head.weight.fill_(float("nan"))


def test_after_a_divergence_another_precision_goes_on_with_the_same_method(tmp_path):
    path, method = tmp_path / "c.pt", Poisoned(at=5)
    with pytest.raises(TrainingDiverged, match=r"last good checkpoint is kept"):
        train(method, toy.toy_pixels(), toy.settings(precision="bf16"), checkpoint=path)
    method.at = None
    result = train(method, toy.toy_pixels(), toy.settings(precision="fp32"), checkpoint=path)
    assert (result.precision, result.resumed_from, result.steps) == ("fp32", 5, 12)
    assert all(parameter.isfinite().all() for parameter in method.parameters())


def half_trained(path, monkeypatch):
    method = toy.Toy()
    with monkeypatch.context() as patch:
        failing_save(patch, at=4)
        with pytest.raises(RetryableError):
            train(method, toy.toy_pixels(), toy.settings(), checkpoint=path)
    return method


def test_a_half_trained_method_that_was_given_other_weights_is_refused(tmp_path, monkeypatch):
    method = half_trained(tmp_path / "c.pt", monkeypatch)
    with torch.no_grad():
        method.head.weight[0] *= 1.5
    with pytest.raises(UserError, match="first weights"):
        train(method, toy.toy_pixels(), toy.settings(), checkpoint=tmp_path / "c.pt")


@pytest.mark.parametrize("name", ["training", "second"])
def test_a_half_trained_method_is_of_one_training_only(tmp_path, monkeypatch, name):
    method, other = half_trained(tmp_path / "c.pt", monkeypatch), tmp_path / "other.pt"
    train(toy.Toy(), toy.toy_pixels(), toy.settings(), checkpoint=other, name=name)
    with pytest.raises(UserError, match="first weights"):
        train(method, toy.toy_pixels(), toy.settings(), checkpoint=other, name=name)


@pytest.mark.parametrize("change", ["name", "file"])
def test_a_half_trained_method_begins_another_training_with_the_weights_that_it_has(tmp_path, monkeypatch, change):
    method = half_trained(tmp_path / "c.pt", monkeypatch)
    given = {"checkpoint": tmp_path / "other.pt", "name": "second" if change == "name" else "training"}
    weights = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    assert train(method, toy.toy_pixels(), toy.settings(), **given).resumed_from is None
    with pytest.raises(UserError, match="first weights"):
        train(toy.Toy(), toy.toy_pixels(), toy.settings(), **given)
    again = toy.Toy()
    again.load_state_dict(weights)
    assert train(again, toy.toy_pixels(), toy.settings(), **given).resumed_from == 12


def test_a_half_trained_method_whose_checkpoint_is_gone_says_what_it_starts_with(tmp_path, monkeypatch, caplog):
    method = half_trained(tmp_path / "c.pt", monkeypatch)
    for file in list(tmp_path.iterdir()):
        file.unlink()
    train(method, toy.toy_pixels(), toy.settings(), checkpoint=tmp_path / "c.pt")
    assert "starting with the weights that an earlier call left" in caplog.text
    assert train(method, toy.toy_pixels(), toy.settings(), checkpoint=tmp_path / "c.pt").resumed_from == 12
    with pytest.raises(UserError, match="first weights"):
        toy.once(tmp_path / "c.pt")


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


def test_a_training_that_goes_on_says_once_where(tmp_path, caplog):
    path = tmp_path / "c.pt"
    with caplog.at_level("INFO", "ferry"):
        with pytest.raises(RetryableError):
            train(stopping_at(signal.SIGTERM, 3), toy.toy_pixels(), toy.settings(), checkpoint=path)
        assert "continuing" not in caplog.text
        result = train(toy.Toy(), toy.toy_pixels(), toy.settings(), checkpoint=path)
    assert caplog.text.count("continuing") == 1
    assert f"training: continuing at step 4 of {result.steps}" in caplog.text


def test_seconds_of_all_calls_are_counted(tmp_path):
    path = tmp_path / "c.pt"
    with pytest.raises(RetryableError):
        train(stopping_at(signal.SIGTERM, 3), toy.toy_pixels(), toy.settings(), checkpoint=path)
    first = train(toy.Toy(), toy.toy_pixels(), toy.settings(), checkpoint=path)
    again = train(toy.Toy(), toy.toy_pixels(), toy.settings(), checkpoint=path)
    assert first.seconds > 0
    assert again.seconds == pytest.approx(first.seconds, abs=0.5)
