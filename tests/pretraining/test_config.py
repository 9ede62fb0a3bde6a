"""Settings of pretraining: presets, rules, and errors that say what to do."""

from __future__ import annotations

import doctest
import importlib
import itertools
import math
from dataclasses import replace

import pytest
from ferry.common.errors import UserError
from ferry.pretraining import FOREVER, PretrainingConfig, preset, resolve, suggest_prototypes
from ferry.pretraining.config import chance_loss


@pytest.mark.parametrize("name", ["config", "modules", "swav", "deepcluster", "collapse", "crops", "pretraining"])
def test_examples_in_the_documentation_are_true(name):
    found = doctest.testmod(importlib.import_module(f"ferry.pretraining.{name}"))
    assert found.failed == 0
    assert found.attempted >= (6 if name == "config" else 0)


def test_the_published_presets_have_the_published_values():
    swav = preset("swav", "published")
    assert (swav.prototypes, swav.projector_hidden, swav.projector_output) == (3000, 2048, 128)
    assert (swav.temperature, swav.epsilon, swav.sinkhorn_iterations) == (0.1, 0.05, 3)
    assert (swav.queue, swav.freeze_prototypes_steps, swav.crops) == (3840, 5005, (2, 6))
    assert (swav.optimiser, swav.learning_rate, swav.final_learning_rate) == ("lars", 0.6, 0.0006)
    assert (swav.weight_decay, swav.batch_size, swav.normalise_output) == (1e-6, 256, False)
    deep = preset("deepcluster", "published")
    assert (deep.heads, deep.prototypes, deep.crops, deep.precision, deep.queue) == (3, 3000, (2, 4), "fp32", 0)


def test_the_small_preset_has_what_kept_small_sets_from_collapsing():
    small = preset("swav", "small")
    assert (small.epsilon, small.freeze_prototypes_steps, small.normalise_output) == (0.03, FOREVER, True)
    assert small.views == "small"


def test_what_a_form_leaves_open_keeps_the_presets_value():
    given = {"epochs": 0, "batch_size": 0, "prototypes": 0, "learning_rate": 0.0, "init": "", "precision": "auto"}
    assert preset("deepcluster", "published", **given) == preset("deepcluster", "published")
    assert preset("swav", "published", epochs=None) == preset("swav", "published")


def test_zero_and_false_are_values_where_they_can_be_meant():
    changed = preset("swav", "small", queue=0, normalise_output=False, weight_decay=0.0, seed=0, momentum=0.0)
    assert (changed.queue, changed.normalise_output, changed.weight_decay, changed.momentum) == (0, False, 0.0, 0.0)
    assert preset("swav", "published", freeze_prototypes_steps=0).freeze_prototypes_steps == 0


def test_a_shorter_training_keeps_the_share_of_its_warm_up():
    assert preset("deepcluster", "published", epochs=40).warmup_epochs == pytest.approx(1.0)
    assert preset("deepcluster", "published", epochs="5").warmup_epochs < 5
    assert preset("deepcluster", "published", epochs=40, warmup_epochs=3.0).warmup_epochs == 3.0


def test_text_from_a_command_line_is_converted():
    changed = preset("swav", "small", epochs="7", learning_rate="0.3", crops="2,6", normalise_output="false")
    assert (changed.epochs, changed.learning_rate, changed.crops, changed.normalise_output) == (7, 0.3, (2, 6), False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preset("swaw", "small"), r"`pretraining` to be one of swav, deepcluster.*'swaw'.*Did you mean 'swav'"),
        (lambda: preset("swav", "smal"), r"`pretraining_preset`.*'smal'.*Did you mean 'small'"),
        (lambda: preset("swav", "small", prototype=10), r"`pretraining_prototype`.*Did you mean 'prototypes'"),
        (lambda: preset("swav", "small", epochs="ten"), r"`pretraining_epochs` to be a whole number, but got 'ten'"),
        (lambda: preset("swav", "small", epochs=-1), r"`pretraining_epochs` to be at least 1, but got -1"),
        (lambda: preset("swav", "small", optimiser="adamw"), r"`pretraining_optimiser`.*'adamw'"),
        (lambda: preset("swav", "small", precision="bf15"), r"`pretraining_precision`.*Did you mean 'bf16'"),
        (lambda: preset("swav", "small", epsilon=0.0), r"`pretraining_epsilon` to be positive, but got 0\.0"),
        (lambda: PretrainingConfig(temperature=math.nan), r"`pretraining_temperature` to be positive"),
        (lambda: PretrainingConfig(batch_size=1), r"`pretraining_batch_size` to be at least 2, but got 1"),
        (lambda: PretrainingConfig(queue=-1), r"`pretraining_queue` to be zero or more, but got -1"),
        (lambda: PretrainingConfig(seed=-1), r"`pretraining_seed` to be zero or more"),
        (lambda: PretrainingConfig(freeze_prototypes_steps=-2), r"zero or more, or -1 for ever, but got -2"),
        (lambda: PretrainingConfig(crops=(1, 2)), r"`pretraining_crops` to be two numbers: at least two large"),
        (lambda: PretrainingConfig(momentum=1.0), r"`momentum`.*part of the pretraining's settings"),
    ],
)
def test_wrong_settings_are_named_with_value_and_advice(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16", "measure"])
def test_every_precision_of_the_loop_can_be_asked_for(precision):
    assert PretrainingConfig(precision=precision).loop().precision == precision


GRID = {
    "images": (2, 9, 64, 500, 5_000, 30_000, 300_000),
    "classes": (2, 7),
    "batch_size": (2, 16, 128, 256),
    "queue": (0, 96, 1920),
}


def test_suggested_prototypes_grow_with_everything_and_stay_in_range():
    for name, values in GRID.items():
        others = {key: value for key, value in GRID.items() if key != name}
        for combination in itertools.product(*others.values()):
            fixed = dict(zip(others, combination, strict=True))
            counts = [suggest_prototypes(**{**fixed, name: value}) for value in values]
            assert counts == sorted(counts), (name, fixed)
    for combination in itertools.product(*GRID.values()):
        case = dict(zip(GRID, combination, strict=True))
        count = suggest_prototypes(**case)
        assert 2 <= count <= 3000
        assert count == 2 or 2 * count <= min(case["images"], case["batch_size"] + case["queue"])


def test_what_is_suggested_is_accepted_without_a_warning():
    for images, batch, queue in itertools.product((64, 500, 11_000), (16, 64), (0, 640)):
        config = PretrainingConfig(batch_size=batch, queue=queue, queue_start_steps=0)
        done, warnings = resolve(config, images, 7)
        assert warnings == []
        again, warnings = resolve(done, images, 7)
        assert (again, warnings) == (done, [])


def test_the_rule_fills_in_prototypes_and_fits_the_queue():
    done, _ = resolve(PretrainingConfig(batch_size=128, queue=1920), 11_086, 7)
    assert (done.prototypes, done.queue) == (140, 1920)
    assert resolve(PretrainingConfig(batch_size=100, queue=1920), 11_086, 7)[0].queue == 1900
    assert resolve(PretrainingConfig(batch_size=128, queue=1920, queue_start_steps=0), 700, 7)[0].queue == 640
    assert resolve(PretrainingConfig(batch_size=128, queue=50), 11_086, 7)[0].queue == 50
    deep, _ = resolve(PretrainingConfig(method="deepcluster"), 11_086, 7)
    assert (deep.queue, deep.prototypes) == (0, 140)


def test_a_queue_that_would_never_start_is_left_out_and_said():
    done, warnings = resolve(PretrainingConfig(batch_size=128, epochs=2, queue=1920, queue_start_steps=200), 1_300, 7)
    assert done.queue == 0
    assert "start at step 200, but the training has 20 steps" in warnings[0]
    assert "pretraining_epochs of at least 21 would use it" in warnings[0]
    assert resolve(replace(done, epochs=21, queue=1280), 1_300, 7)[0].queue == 1280
    assert resolve(replace(done, epochs=20, queue=1280), 1_300, 7)[0].queue == 0
    full_too_late = PretrainingConfig(batch_size=128, epochs=1, queue=1280, queue_start_steps=0)
    assert resolve(full_too_late, 1_300, 7)[0].queue == 0


def test_more_prototypes_than_points_are_refused_with_a_number_that_fits():
    config = PretrainingConfig(prototypes=5000, batch_size=256, queue=3840, queue_start_steps=0)
    with pytest.raises(
        UserError, match=r"`pretraining_prototypes` to be at most batch plus queue, 256 \+ 3840, but got"
    ):
        resolve(config, 28_709, 7)
    with pytest.raises(UserError, match=r"Pass 380, or raise the batch size or the queue"):
        resolve(config, 28_709, 7)
    late = PretrainingConfig(prototypes=500, batch_size=128, epochs=1, queue=1920, queue_start_steps=200)
    with pytest.raises(
        UserError, match=r"Pass 60, or raise the batch size or the queue.*pretraining_epochs of at least"
    ):
        resolve(late, 4_000, 7)


def test_few_points_for_the_prototypes_give_a_warning():
    config = PretrainingConfig(prototypes=1200, batch_size=128, queue=1920)
    assert "less than twice the number of prototypes (1200)" in resolve(config, 28_709, 7)[1][0]
    deep = PretrainingConfig(method="deepcluster", prototypes=400, batch_size=32)
    assert "400 prototypes for 500 images" in resolve(deep, 500, 7)[1][0]


@pytest.mark.parametrize("method", ["swav", "deepcluster"])
def test_too_few_images_are_refused(method):
    with pytest.raises(
        UserError, match=r"`target` to be at least 128 images.*'20 images'.*lower pretraining_batch_size"
    ):
        resolve(PretrainingConfig(method=method), 20, 7)
    with pytest.raises(UserError, match=r"`pretraining_prototypes` to be at most the number of images, 20, but got 30"):
        resolve(PretrainingConfig(method=method, batch_size=8, prototypes=30), 20, 7)


def test_chance_loss_is_ln_k():
    assert chance_loss(3000) == pytest.approx(8.006, abs=1e-3)
