"""Class-wise quotas against sorting, by hand, and by invariants."""

import math

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.labelling import class_quota


def cases(n=300, classes=5, levels=8, seed=0):
    rng = np.random.default_rng(seed)
    keys = [f"k{i:04d}" for i in rng.permutation(n)]
    scores, confidences = (rng.integers(0, levels, n).astype(np.float32) for _ in range(2))
    return rng.integers(0, classes, n), scores, confidences, keys


def sorted_out(labels, scores, confidences, keys, keep):
    kept = np.zeros(len(labels), bool)
    for label in set(labels.tolist()):
        rows = [i for i in range(len(labels)) if labels[i] == label]
        rows.sort(key=lambda i: (-scores[i], -confidences[i], keys[i]))
        kept[rows[: math.floor(keep * len(rows) + 1e-9)]] = True
    return kept


@pytest.mark.parametrize("keep", [0.01, 0.1, 0.29, 0.5, 0.77, 1.0])
def test_it_is_the_top_of_the_sorted_class(keep):
    for seed in range(5):
        labels, scores, confidences, keys = cases(seed=seed, levels=3)
        kept = class_quota(labels, scores, keep, 5, tie_breakers=[confidences], keys=keys)
        np.testing.assert_array_equal(kept, sorted_out(labels, scores, confidences, keys, keep))


def test_the_worked_example_of_three_clusters():
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 0])
    scores = np.array([2 / 3] * 3 + [1.0] * 3 + [1 / 2] * 2)
    kept = class_quota(labels, scores, 0.5, 3)
    assert kept.sum() == 3
    assert kept[:3].sum() == 2
    assert kept[3:6].sum() == 1
    assert kept.tolist() == [True, True, False, True, False, False, False, False]  # equal scores: position


def test_the_count_is_exact_and_grows_with_keep():
    labels, scores, confidences, keys = cases()
    before = np.zeros(len(labels), bool)
    for keep in np.linspace(0.02, 1, 50):
        kept = class_quota(labels, scores, keep, 5, tie_breakers=[confidences], keys=keys)
        counts = np.bincount(labels[kept], minlength=5)
        assert counts.tolist() == [math.floor(keep * n + 1e-9) for n in np.bincount(labels)]
        assert (kept | ~before).all()  # what was kept stays kept
        before = kept


def test_the_order_of_images_does_not_matter():
    labels, scores, confidences, keys = cases(levels=2)
    order = np.random.default_rng(9).permutation(len(labels))
    kept = class_quota(labels, scores, 0.3, 5, tie_breakers=[confidences], keys=keys)
    moved = class_quota(
        labels[order], scores[order], 0.3, 5, tie_breakers=[confidences[order]], keys=[keys[i] for i in order]
    )
    np.testing.assert_array_equal(kept[order], moved)


def test_ties_are_decided_by_the_breaker_then_the_key():
    labels, scores = np.zeros(4, int), np.ones(4)
    keys = ["d", "c", "b", "a"]
    breaker = np.array([0.1, 0.9, 0.5, 0.5])
    assert class_quota(labels, scores, 0.5, 1, tie_breakers=[breaker], keys=keys).tolist() == [False, True, False, True]
    assert class_quota(labels, scores, 0.5, 1, keys=keys).tolist() == [False, False, True, True]
    assert class_quota(labels, scores, 0.5, 1).tolist() == [True, True, False, False]


def test_floor_can_lose_a_class_and_rounding_with_one_cannot():
    labels = np.array([0] * 10 + [1] * 4 + [2])
    scores = np.linspace(0, 1, 15)
    floor = class_quota(labels, scores, 0.15, 4)
    assert np.bincount(labels[floor], minlength=4).tolist() == [1, 0, 0, 0]
    rounded = class_quota(labels, scores, 0.15, 4, quota="round_at_least_one")
    assert np.bincount(labels[rounded], minlength=4).tolist() == [2, 1, 1, 0]  # 1.5 goes up; an empty class stays so


def test_a_fraction_means_its_decimal_value():
    for keep, n, count in ((0.29, 100, 29), (0.57, 100, 57), (0.1, 30, 3), (0.7, 10, 7)):
        assert class_quota(np.zeros(n, int), np.arange(n), keep, 1).sum() == count


def test_what_is_not_eligible_counts_but_is_passed_over():
    labels, scores = np.zeros(10, int), np.arange(10)
    eligible = np.arange(10) < 6
    assert np.flatnonzero(class_quota(labels, scores, 0.4, 1, eligible=eligible)).tolist() == [2, 3, 4, 5]
    assert class_quota(labels, scores, 0.9, 1, eligible=eligible).sum() == 6
    assert not class_quota(labels, scores, 0.9, 1, eligible=np.zeros(10, bool)).any()


def test_no_image_keeps_none():
    assert class_quota(np.zeros(0, int), np.zeros(0), 0.5, 3).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: class_quota(np.zeros(2, int), np.zeros(2), 0.0, 1), "`keep` to be above 0 and at most 1, but got 0.0"),
        (lambda: class_quota(np.zeros(2, int), np.zeros(2), 1.5, 1), "`keep` to be above 0 and at most 1, but got 1.5"),
        (lambda: class_quota(np.zeros(2, int), np.zeros(3), 0.5, 1), "`scores` to be 2 finite values, but got '3 val"),
        (lambda: class_quota(np.zeros(1, int), np.array([np.nan]), 0.5, 1), "`scores` to be.*1 not finite"),
        (
            lambda: class_quota(np.zeros(1, int), np.zeros(1), 0.5, 1, tie_breakers=[np.array([np.inf])]),
            r"`tie_breakers\[0\]` to be 1 finite",
        ),
        (lambda: class_quota(np.zeros(1, int), np.zeros(1), 0.5, 1, quota="flor"), "`quota`.*Did you mean 'floor'"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
