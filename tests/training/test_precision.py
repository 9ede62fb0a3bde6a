"""Devices and precision: the rule, what is refused, what is measured."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ferry.common.errors import UserError
from ferry.training import Sampler, devices, measuring, train
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
