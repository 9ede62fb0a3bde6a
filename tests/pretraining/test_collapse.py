"""The collapse watch: real collapses are stopped with their cause, healthy starts are not, a resume changes nothing."""

from __future__ import annotations

import dataclasses
import math
import os
import signal

import numpy as np
import pytest
import torch
from ferry.common.errors import RetryableError, TrainingDiverged
from ferry.pretraining import CollapseWatch, effective_rank, health
from ferry.pretraining.collapse import perplexity
from ferry.training import train
from torch.nn.functional import normalize


def sphere(samples, size, seed=0):
    return normalize(torch.randn(samples, size, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_rank_equals_the_entropy_of_singular_values():
    rows = sphere(40, 12) * torch.linspace(0.1, 2, 12)
    values = np.linalg.svd((rows - rows.mean(0)).double().numpy(), compute_uv=False)
    shares = values / values.sum()
    assert effective_rank(rows).item() == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert effective_rank(rows[:6]).item() <= 5.0 + 1e-6  # fewer rows than columns


@pytest.mark.parametrize("dimensions", [1, 3, 8])
def test_rank_is_the_number_of_equal_dimensions(dimensions):
    axes = torch.eye(16)[:dimensions]
    assert effective_rank(torch.cat([axes, -axes])).item() == pytest.approx(dimensions, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rank_of_equal_rows_is_one(dtype):
    assert effective_rank(sphere(1, 32).to(dtype).expand(20, 32)).item() == 1.0
    assert effective_rank(sphere(1, 32)).item() == 1.0


def test_health_of_a_random_sphere_and_of_a_point():
    codes = torch.full((512, 10), 0.1)
    good = health(sphere(512, 16), codes, sphere(400, 16, 1))
    assert good["spread"].item() == pytest.approx(1.0, abs=0.05)
    assert good["rank"].item() > 14
    assert good["max_code"].item() == pytest.approx(0.1)
    assert good["perplexity"].item() == pytest.approx(10.0)
    assert good["prototype_spread"].item() == pytest.approx(0.95, abs=0.03)
    bad = health(sphere(1, 16).expand(512, 16), codes, sphere(1, 16).expand(400, 16))
    assert bad["spread"].item() == pytest.approx(0.0, abs=1e-6)
    assert bad["prototype_spread"].item() == pytest.approx(0.0, abs=1e-6)


def test_the_largest_entry_of_a_code_is_a_mean_over_images():
    codes = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.2, 0.6], [0.1, 0.5, 0.4]])
    assert health(sphere(3, 4), codes, sphere(3, 4, 1))["max_code"].item() == pytest.approx(0.6)


def test_perplexity_counts_what_is_used_alike():
    assert perplexity(torch.tensor([0.25, 0.25, 0.5, 0.0])).item() == pytest.approx(2**1.5)


HEALTHY = {"loss": 4.3, "max_code": 0.25, "perplexity": 130.0, "rank": 60.0, "spread": 0.95, "prototype_spread": 0.9}
CONSTANT = {"loss": 5.011, "max_code": 0.01, "perplexity": 150.0, "rank": 30.0, "spread": 0.24, "prototype_spread": 0.9}
MERGED = {"loss": 5.011, "max_code": 0.0067, "perplexity": 150.0, "rank": 60.0, "spread": 0.86, "prototype_spread": 0.0}
POINT = {"loss": 5.2, "max_code": 0.4, "perplexity": 150.0, "rank": 1.0, "spread": 0.0, "prototype_spread": 0.9}


def walk(watch, records, start=0, every=20):
    """Shows records to a watch; returns the step of the stop and its message, or None."""
    for number, record in enumerate(records):
        try:
            watch.look({**record, "step": start + every * (number + 1)})
        except TrainingDiverged as error:
            return start + every * (number + 1), str(error)
    return None


@pytest.mark.parametrize(
    ("record", "cause", "advice"),
    [
        (CONSTANT, "almost the same embedding", "preset small"),
        (MERGED, "prototypes have merged", r"freeze_prototypes_steps -1"),
        (POINT, "almost the same embedding", "lower learning rate"),
        ({**MERGED, "prototype_spread": 0.9}, "tell no image from another", "Lower epsilon to 0.03"),
    ],
)
def test_a_collapse_is_stopped_after_the_patience_with_its_cause(record, cause, advice):
    step, message = walk(CollapseWatch(150), [HEALTHY] * 3 + [record] * 20)
    assert step == 80 + 160  # first seen at 80; 150 steps are over at the eighth record after it
    assert cause in message
    assert advice in message
    assert "Expected `" in message
    assert "It lasted for 160 steps." in message


TOGETHER = {**MERGED, "max_code": 0.0067, "perplexity": 90.0, "spread": 0.2, "prototype_spread": 0.03}


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        (TOGETHER, "loss` to fall below ln K = 5.011, but got 5.011 with a spread of the centroids of 0.03"),
        (POINT, "almost the same embedding"),
        ({**HEALTHY, "perplexity": 1.2}, "clusters` to share the images, but got 1.2 of 150 in use"),
    ],
)
def test_a_collapse_of_deepcluster_is_stopped_with_advice_that_it_can_follow(record, cause):
    step, message = walk(CollapseWatch(150, method="deepcluster"), [HEALTHY] * 3 + [record] * 20)
    assert step == 80 + 160
    assert cause in message
    assert "preset small" in message
    assert "epsilon" not in message
    assert "freeze" not in message


def test_flat_predictions_alone_are_no_collapse_of_deepcluster():
    """A long warm-up as measured: predictions of 2.6 times 1/K and a loss above ln K, but centroids apart."""
    warming = {**HEALTHY, "loss": 5.05, "max_code": 2.6 / 150, "spread": 0.6, "prototype_spread": 0.31}
    assert walk(CollapseWatch(150, method="deepcluster"), [warming] * 50) is None
    assert walk(CollapseWatch(150), [warming] * 50) is not None


def test_a_method_brings_the_watch_of_its_kind(room):
    assert room.method("deepcluster").collapse.method == "deepcluster"
    assert room.method("swav").collapse.method == "swav"


def test_a_flat_start_that_recovers_is_not_stopped():
    near_chance = {**HEALTHY, "loss": math.log(150) + 0.3, "max_code": 0.1}
    assert walk(CollapseWatch(150), [MERGED] * 7 + [HEALTHY] + [MERGED] * 7 + [HEALTHY]) is None
    assert walk(CollapseWatch(150), [near_chance] * 100) is None  # above ln K, but with codes that say something


def test_full_use_of_the_prototypes_is_no_sign_and_neither_is_a_low_perplexity():
    assert walk(CollapseWatch(150), [{**HEALTHY, "perplexity": 150.0}] * 50) is None
    assert walk(CollapseWatch(150), [{**HEALTHY, "perplexity": 3.0}] * 50) is None


def test_means_over_an_epoch_do_not_restart_the_patience():
    watch = CollapseWatch(150)
    for step in range(20, 160, 20):
        watch.look({**MERGED, "step": step})
        watch.look({**HEALTHY, "step": step, "seconds": 3.0})
    with pytest.raises(TrainingDiverged):
        for step in range(160, 200, 20):
            watch.look({**MERGED, "step": step})


def test_a_record_without_signs_is_healthy():
    assert walk(CollapseWatch(150), [{"loss": 9.0}] * 50) is None


def test_a_watch_that_is_shown_the_earlier_records_again_stops_at_the_same_step():
    records = [HEALTHY] * 2 + [MERGED] * 20
    whole = walk(CollapseWatch(150), records)
    resumed = CollapseWatch(150)
    assert walk(resumed, records[:7]) is None
    assert walk(resumed, records[7:], start=140) == whole
    same_object = CollapseWatch(150)  # a second call in the same process
    assert walk(same_object, records[:7]) is None
    assert walk(same_object, records) == whole


def collapsing(room):
    """A method whose loss is real but whose prototypes are all one: the second collapse of the log, in miniature."""
    method = room.method(prototypes=6, queue=0)
    method.prototypes.weight.copy_(method.prototypes.weight[:1].expand(6, -1).clone())
    method.collapse = CollapseWatch(6, patience_steps=4)
    return method


def test_merged_prototypes_in_a_real_training_give_ln_k_flat_codes_and_a_stop(room):
    loop = dataclasses.replace(room.settings(epochs=4).loop(), log_every_steps=1)
    with pytest.raises(TrainingDiverged, match=r"ln K = 1\.792, but got 1\.792.*prototypes have merged"):
        train(collapsing(room), room.images(), loop)


def test_equal_images_in_a_real_training_give_rank_one_and_a_stop(room):
    method = room.method(prototypes=6, queue=0, normalise_output=False)
    with torch.no_grad():
        method.network.projector[-1].weight.zero_()
        method.network.projector[-1].weight.requires_grad_(False)
    method.collapse = CollapseWatch(6, patience_steps=4)
    loop = dataclasses.replace(room.settings(epochs=4).loop(), log_every_steps=1)
    with pytest.raises(TrainingDiverged, match=r"effective rank of 1\.0 and a spread of 0\.00.*same embedding"):
        train(method, room.images(), loop)


def test_a_collapse_that_is_interrupted_and_goes_on_stops_at_the_same_step_with_the_same_words(room, tmp_path):
    loop = dataclasses.replace(room.settings(epochs=4).loop(), log_every_steps=1, checkpoint_seconds=999.0)
    with pytest.raises(TrainingDiverged) as whole:
        train(collapsing(room), room.images(), loop)
    first, path = collapsing(room), tmp_path / "c.pt"
    original = first.step

    def step(batch):
        if batch.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(batch)

    first.step = step
    with pytest.raises(RetryableError):
        train(first, room.images(), loop, checkpoint=path)
    with pytest.raises(TrainingDiverged) as resumed:
        train(collapsing(room), room.images(), loop, checkpoint=path)
    assert str(resumed.value).startswith(str(whole.value))
    assert "last good checkpoint is kept" in str(resumed.value)
