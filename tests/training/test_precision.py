"""Devices and precision: the rule, what is refused, what is measured."""

import os
import runpy
import signal
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ferry.common.errors import RetryableError, TrainingDiverged, UserError
from ferry.training import Method, Sampler, devices, engine, measuring, train
from ferry.training.batches import Pixels

toy = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("toy.py"))))
CPU = torch.device("cpu")


@pytest.mark.parametrize(("matrix_unit", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_a_fixed_rule(monkeypatch, matrix_unit, expected):
    monkeypatch.setattr(devices, "has_matrix_unit", lambda: matrix_unit)
    result = train(toy.Toy(), toy.toy_pixels(), toy.settings(precision="auto", epochs=1))
    assert result.precision == expected
    assert devices.channels_last_rule(CPU, expected) is matrix_unit


def test_bf16_runs_the_network_in_bf16_and_keeps_the_weights_in_fp32():
    seen = []
    method = toy.Toy()
    method.net[0].register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    train(method, toy.toy_pixels(), toy.settings(precision="bf16", epochs=1))
    steps = [dtype for dtype in seen if dtype == torch.bfloat16]
    assert len(steps) == 4
    assert {parameter.dtype for parameter in method.parameters()} == {torch.float32}


def test_bf16_ends_near_fp32():
    ends = []
    for precision in ("fp32", "bf16"):
        method = toy.Toy(dropout=0.0)
        result = train(method, toy.toy_pixels(), toy.settings(precision=precision, epochs=1, learning_rate=0.01))
        ends.append(result.history[-1]["loss"])
    assert ends[1] == pytest.approx(ends[0], rel=0.05)
    assert ends[1] != ends[0]


@pytest.mark.parametrize("channels_last", [True, False])
def test_channels_last_sets_the_format_of_filters(channels_last):
    wide = toy.Toy()
    wide.net[0] = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 1), torch.nn.Conv2d(3, 6, 3, padding=1))
    train(wide, toy.toy_pixels(), toy.settings(epochs=1, channels_last=channels_last))
    weight = wide.net[0][1].weight
    assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last


def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(UserError, match=r"`precision`.*fp32, bf16 on cpu.*got 'fp16'.*precision=auto"):
        train(toy.Toy(), toy.toy_pixels(), toy.settings(precision="fp16"))


@pytest.mark.parametrize("word", ["gpu", "cuda:99", "meta"])
def test_devices_that_are_not_there_are_refused(word):
    with pytest.raises(UserError, match=r"`device`.*device=auto"):
        train(toy.Toy(), toy.toy_pixels(), toy.settings(device=word))


def test_measuring_takes_the_fastest_says_the_figures_and_leaves_the_method_alone(monkeypatch, caplog):
    method = toy.Toy()
    before = toy.bytes_of(method)
    rates = {"fp32": 100.0, "bf16": 250.0}
    real = measuring._rate

    def rate(method, pixels, sampler, config, device, precision):
        assert real(method, pixels, sampler, config, device, precision) > 0
        return rates[precision]

    monkeypatch.setattr(measuring, "_rate", rate)
    images = toy.toy_pixels()
    config = toy.settings(precision="measure")
    sampler, source = Sampler(len(images), 16, 0), Pixels(images, CPU)
    with caplog.at_level("INFO", logger="ferry"):
        assert measuring.fastest_precision(method, source, sampler, config, CPU) == "bf16"
    assert "fp32 100, bf16 250" in caplog.text
    assert toy.bytes_of(method) == before


def test_a_training_that_goes_on_keeps_the_measured_precision(tmp_path, monkeypatch):
    choices = iter(["bf16", "fp32"])
    monkeypatch.setitem(train.__globals__, "fastest_precision", lambda *given: next(choices))
    config = toy.settings(precision="measure", epochs=1)
    first = train(toy.Toy(), toy.toy_pixels(), config, checkpoint=tmp_path / "c.pt")
    again = train(toy.Toy(), toy.toy_pixels(), config, checkpoint=tmp_path / "c.pt")
    assert (first.precision, again.precision) == ("bf16", "bf16")


class Line(Method):
    """Linear regression whose gradient can be spoiled while its loss stays finite."""

    def __init__(self, spoiled=(), value=float("nan"), factor=1.0, stop=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.5, -0.25, 1.0]]))
        self.spoiled, self.value, self.factor, self.stop = spoiled, value, factor, stop

    def step(self, batch):
        if batch.step == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        inputs = batch.pixels.flatten(1)[:, :3].float() / 255
        with torch.autocast("cpu", enabled=False):
            answers = inputs @ self.weight.T
            if batch.step in self.spoiled:
                answers.register_hook(lambda gradient: gradient * self.value)
            return {"loss": self.factor * (answers - 0.5).square().mean()}


@pytest.fixture
def half(monkeypatch):
    """Lets a CPU train in fp16, with the scaler that a GPU would have."""
    monkeypatch.setattr(devices, "possible_precisions", lambda device: ("fp32", "bf16", "fp16"))


def half_settings(**changes):
    return toy.settings(**{"precision": "fp16", "learning_rate": 0.02, "checkpoint_seconds": 999.0, **changes})


def trained_line(settings, checkpoint=None, **changes):
    method = Line(**changes)
    return method, train(method, toy.toy_pixels(), settings, checkpoint=checkpoint)


@pytest.mark.parametrize("clip", [0.0, 0.02])
@pytest.mark.usefixtures("half")
def test_fp16_scales_the_loss_and_takes_the_scale_back_before_clipping_and_stepping(clip, monkeypatch):
    whole, _ = trained_line(toy.settings(learning_rate=0.02, clip_gradient_norm=clip))
    scales, scale = [], torch.amp.GradScaler.scale
    monkeypatch.setattr(
        torch.amp.GradScaler, "scale", lambda self, loss: scales.append(self.get_scale()) or scale(self, loss)
    )
    half, result = trained_line(half_settings(clip_gradient_norm=clip))
    assert scales == [2.0**16] * result.steps
    torch.testing.assert_close(half.weight, whole.weight, rtol=1e-6, atol=1e-7)  # a power of two loses nothing
    assert not torch.equal(half.weight, Line().weight)
    assert all(record["skipped"] == 0 for record in result.history)


@pytest.mark.usefixtures("half")
def test_fp16_runs_the_network_in_fp16_and_keeps_the_weights_in_fp32():
    seen = []
    method = toy.Toy()
    method.net[0].register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    train(method, toy.toy_pixels(), half_settings(epochs=1))
    assert seen.count(torch.float16) == 4
    assert {parameter.dtype for parameter in method.parameters()} == {torch.float32}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.usefixtures("half")
def test_fp16_skips_a_step_without_a_finite_gradient_and_counts_it(value, monkeypatch):
    seen, real = [], engine.Engine.step

    def step(self, number, *rest):
        outcome = real(self, number, *rest)
        seen.append((self.method.weight.detach().clone(), self.scaler.get_scale(), self.skipped))
        return outcome

    monkeypatch.setattr(engine.Engine, "step", step)
    _, result = trained_line(half_settings(log_every_steps=1), spoiled=(2, 3, 6), value=value)
    same = [torch.equal(one[0], other[0]) for one, other in pairwise(seen)]
    assert [number + 1 for number, equal in enumerate(same) if equal] == [2, 3, 6]
    assert [scale for _, scale, _ in seen] == [2.0**power for power in [16] * 2 + [15] + [14] * 3 + [13] * 6]
    assert [skipped for *_, skipped in seen] == [0, 0, 1, 2, 0, 0, 1, 0, 0, 0, 0, 0]
    skipped = [record["skipped"] for record in result.history if record["kind"] == "step"]
    assert skipped == [float(step in (2, 3, 6)) for step in range(12)]
    sizes, epoch = np.array([16, 16, 16, 2]), next(one for one in result.history if one["kind"] == "epoch")
    assert epoch["skipped"] == pytest.approx(sizes[2:].sum() / sizes.sum())


@pytest.mark.usefixtures("half")
def test_a_gradient_that_is_never_finite_in_fp16_stops_a_training_whose_loss_is(tmp_path):
    settings = half_settings(epochs=20, checkpoint_seconds=0.0)
    with pytest.raises(TrainingDiverged) as caught:
        trained_line(settings, tmp_path / "c.pt", spoiled=range(30, 99))
    message = str(caught.value)
    for part in ("`gradient` to be finite", "for 17 steps", "loss scale 0.5", "step 47 of 80", "precision=fp32"):
        assert part in message
    kept, _ = trained_line(half_settings(epochs=20, precision="fp32"), tmp_path / "c.pt")
    assert torch.isfinite(kept.weight).all()


@pytest.mark.usefixtures("half")
def test_a_scale_that_has_grown_does_not_put_off_the_end(monkeypatch):
    monkeypatch.setattr(engine, "_MOST_SKIPPED", 5)
    with pytest.raises(TrainingDiverged, match=r"for 5 steps.*loss scale 2048.*step 35 of 80"):
        trained_line(half_settings(epochs=20), spoiled=range(30, 99))


@pytest.mark.usefixtures("half")
def test_a_short_training_in_fp16_that_skipped_all_its_steps_is_no_success():
    with pytest.raises(TrainingDiverged, match=r"for 4 steps.*step 4 of 4"):
        trained_line(half_settings(epochs=1), spoiled=range(4))
    trained_line(half_settings(epochs=1), spoiled=range(3))


@pytest.mark.usefixtures("half")
def test_a_loss_that_overflows_at_first_trains_once_the_scale_is_small_enough():
    method, result = trained_line(half_settings(epochs=20, learning_rate=1e-36, momentum=0.0), factor=3e34)
    assert 0 < result.history[-1]["loss"] < float("inf")
    assert result.history[0]["skipped"] == 1
    assert result.history[-1]["skipped"] == 0
    assert not torch.equal(method.weight, Line().weight)


@pytest.mark.usefixtures("half")
def test_a_training_in_fp16_resumes_with_its_scale_and_its_count_of_skipped_steps(tmp_path):
    spoiled = (3, 5, 6, 7)
    whole, history = trained_line(half_settings(), tmp_path / "whole.pt", spoiled=spoiled)
    with pytest.raises(RetryableError):
        trained_line(half_settings(), tmp_path / "c.pt", spoiled=spoiled, stop=6)
    kept = torch.load(tmp_path / "c.pt", weights_only=True)
    assert (kept["scaler"]["scale"], kept["skipped"]) == (2.0**13, 2)
    again, resumed = trained_line(half_settings(), tmp_path / "c.pt", spoiled=spoiled)
    assert resumed.resumed_from == 7
    assert torch.equal(again.weight, whole.weight)
    assert toy.timeless(resumed.history) == toy.timeless(history.history)
    ends = [torch.load(tmp_path / name, weights_only=True)["scaler"] for name in ("c.pt", "whole.pt")]
    assert ends[0] == ends[1]
    assert ends[0]["scale"] == 2.0**12


@pytest.mark.usefixtures("half")
def test_skipped_steps_before_and_after_an_interruption_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_MOST_SKIPPED", 4)
    with pytest.raises(RetryableError):
        trained_line(half_settings(), tmp_path / "c.pt", spoiled=range(5, 9), stop=6)
    with pytest.raises(TrainingDiverged, match=r"for 4 steps.*step 9 of 12"):
        trained_line(half_settings(), tmp_path / "c.pt", spoiled=range(5, 9))


@pytest.mark.usefixtures("half")
def test_fp16_can_go_on_from_fp32(tmp_path):
    with pytest.raises(RetryableError):
        trained_line(half_settings(precision="fp32"), tmp_path / "c.pt", stop=6)
    _, result = trained_line(half_settings(), tmp_path / "c.pt")
    assert (result.precision, result.resumed_from) == ("fp16", 7)
    assert result.history[-1]["skipped"] == 0


@pytest.mark.parametrize("broken", [0, 1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_all_weights_are_looked_at_before_a_checkpoint_is_written(tmp_path, broken, value):
    class Spoiled(toy.Toy):
        def after_step(self, batch):
            if batch.step == 3:
                chosen = list(self.parameters())[[0, 3, -3][broken]]
                chosen.view(-1)[-1] = value

    with pytest.raises(TrainingDiverged, match="`weights` to be finite after step 4 of 12"):
        train(Spoiled(), toy.toy_pixels(), toy.settings(), checkpoint=tmp_path / "c.pt")
