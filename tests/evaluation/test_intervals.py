"""Intervals against scipy, a bootstrap, published tables, and their coverage in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.evaluation import mcnemar, mean_interval, paired_difference, wilson_interval
from scipy import stats


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 30), (7, 30), (30, 30), (50, 111), (404, 808)])
def test_wilson_equals_scipy(k, n, confidence):
    wanted = stats.binomtest(k, n).proportion_ci(confidence, "wilson")
    assert wilson_interval(k, n, confidence) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_wilson_of_nothing_is_none_and_bad_counts_are_refused():
    assert wilson_interval(0, 0) is None
    with pytest.raises(UserError, match=r"`successes` to be between 0 and total \(2\), but got 3"):
        wilson_interval(3, 2)
    with pytest.raises(UserError, match="`confidence`"):
        wilson_interval(1, 2, 1.0)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (8, 1), (1, 8), (20, 20), (300, 240)])
def test_mcnemar_equals_the_exact_binomial_test(gained, lost):
    wanted = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(wanted, rel=1e-9)


def flags(both, only_before, only_after, neither):
    before = np.repeat([1, 1, 0, 0], [both, only_before, only_after, neither])
    after = np.repeat([1, 0, 1, 0], [both, only_before, only_after, neither])
    return np.ones(len(before), int), before, after


@pytest.mark.parametrize(("table", "wanted"), [((36, 12, 2, 0), (0.0569, 0.3404)), ((53, 0, 1, 0), (-0.0979, 0.0500))])
def test_paired_interval_equals_the_published_one(table, wanted):
    """Newcombe 1998, Statistics in Medicine 17:2635, method 10, where the difference is first minus second."""
    labels, before, after = flags(*table)
    found = paired_difference(labels, after, before)
    assert (found.low, found.high) == pytest.approx(wanted, abs=6e-4)


@pytest.mark.parametrize("table", [(20, 12, 2, 16), (1, 0, 5, 4), (30, 3, 3, 0), (5, 20, 18, 4), (0, 0, 7, 0)])
def test_paired_interval_equals_the_formula_with_scipys_wilson_intervals(table):
    a, b, c, d = table
    n = sum(table)
    one, two = (stats.binomtest(k, n).proportion_ci(0.95, "wilson") for k in (a + c, a + b))
    p1, p2 = (a + c) / n, (a + b) / n
    cross = a * d - b * c
    cross = max(cross - n / 2, 0) if cross > 0 else cross
    product = (a + b) * (c + d) * (a + c) * (b + d)
    phi = cross / np.sqrt(product) if product else 0
    down = np.sqrt((p1 - one.low) ** 2 - 2 * phi * (p1 - one.low) * (two.high - p2) + (two.high - p2) ** 2)
    up = np.sqrt((p2 - two.low) ** 2 - 2 * phi * (p2 - two.low) * (one.high - p1) + (one.high - p1) ** 2)
    found = paired_difference(*flags(*table))
    assert (found.low, found.high) == pytest.approx((p1 - p2 - down, min(1, p1 - p2 + up)), abs=1e-9)


def bootstrap(labels, before, after, classwise, seed=0, samples=4000):
    rng = np.random.default_rng(seed)
    delta = (after == labels).astype(float) - (before == labels)
    parts = [delta[labels == c] for c in np.unique(labels)] if classwise else [delta]
    draws = [rng.choice(part, (samples, len(part))).mean(1) for part in parts]
    return np.quantile(np.mean(draws, axis=0), [0.025, 0.975])


@pytest.mark.parametrize("metric", ["accuracy", "mean_class_accuracy"])
def test_interval_agrees_with_a_paired_bootstrap_on_many_images(metric):
    rng = np.random.default_rng(1)
    labels = rng.choice(5, 3000, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    before = np.where(rng.random(3000) < 0.55, labels, (labels + 1) % 5)
    after = np.where(rng.random(3000) < 0.25, labels, before)
    found = paired_difference(labels, before, after, metric=metric)
    assert (found.low, found.high) == pytest.approx(bootstrap(labels, before, after, metric != "accuracy"), abs=0.006)
    assert found.gained > 0
    assert found.clear


@pytest.mark.parametrize("metric", ["accuracy", "mean_class_accuracy"])
def test_interval_covers_the_truth_as_often_as_it_says(metric):
    rng = np.random.default_rng(2)
    sizes, better, worse = [60, 25, 12], [0.30, 0.10, 0.25], [0.05, 0.10, 0.20]
    labels = np.repeat([0, 1, 2], sizes)
    moves = np.subtract(better, worse)
    truth = moves.mean() if metric != "accuracy" else np.average(moves, weights=sizes)
    covered = 0
    for _ in range(600):
        draw = rng.random(len(labels))
        gain = draw < np.array(better)[labels]
        loss = (draw >= np.array(better)[labels]) & (draw < np.add(better, worse)[labels])
        common = rng.random(len(labels)) < 0.5
        before = np.where(loss | (common & ~gain), labels, 3)
        after = np.where(gain | (common & ~loss), labels, 3)
        found = paired_difference(labels, before, after, metric=metric)
        covered += found.low <= truth <= found.high
    assert 0.925 <= covered / 600 <= 0.99


def test_swapping_the_models_mirrors_the_difference():
    rng = np.random.default_rng(3)
    labels, before, after = rng.integers(0, 3, (3, 80))
    for metric in ("accuracy", "mean_class_accuracy"):
        one = paired_difference(labels, before, after, metric=metric)
        two = paired_difference(labels, after, before, metric=metric)
        assert (one.value, one.low, one.high) == pytest.approx((-two.value, -two.high, -two.low))
        assert one.p_value == two.p_value
        assert one.low <= one.value <= one.high


def test_a_rare_class_never_makes_a_gain_look_sure():
    found = paired_difference([0] * 500 + [1], [0] * 501, [0] * 500 + [1], metric="mean_class_accuracy")
    assert found.value == 0.5
    assert found.low < 0  # one image: a resampling of the same image would have said +0.5 without any doubt


def test_equal_models_differ_by_zero_and_no_image_by_nothing():
    found = paired_difference([0, 1, 1], [0, 0, 1], [0, 0, 1])
    assert (found.value, found.clear, found.p_value) == (0, False, 1)
    assert paired_difference([], [], []) is None


def test_wrong_arguments_are_named():
    with pytest.raises(UserError, match=r"of one length.*2, 2 and 1"):
        paired_difference([0, 1], [0, 1], [0])
    with pytest.raises(UserError, match="`metric`"):
        paired_difference([0], [0], [0], metric="f1")


def test_mean_interval_is_narrower_than_its_parts_and_none_for_none():
    parts = [(0.4, 0.6), (0.3, 0.7)]
    low, high = mean_interval([0.5, 0.5], parts)
    assert (low, high) == pytest.approx((0.5 - np.hypot(0.1, 0.2) / 2, 0.5 + np.hypot(0.1, 0.2) / 2))
    assert mean_interval([], []) is None
