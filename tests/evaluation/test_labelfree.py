"""Label-free signals against torch, scipy and known extremes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from ferry.common.errors import UserError
from ferry.evaluation import (
    agreement,
    effective_rank,
    label_free_metrics,
    predicted_shares,
    soft_neighbourhood_density,
)
from ferry.evaluation.labelfree import entropy
from scipy import stats


def test_entropy_equals_scipy_and_takes_zeros():
    rows = np.array([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.7, 0.2, 0.1]])
    assert entropy(rows) == pytest.approx(stats.entropy(rows, axis=1))


@pytest.mark.parametrize("n", [2, 40, 700])  # 700 rows need two blocks
def test_neighbourhood_density_equals_a_direct_computation(n):
    points = torch.softmax(torch.randn(n, 7, generator=torch.Generator().manual_seed(n), dtype=torch.float64), 1)
    unit = torch.nn.functional.normalize(points)
    cosines = (unit @ unit.T / 0.05).fill_diagonal_(-torch.inf)
    likely = torch.softmax(cosines, 1)
    wanted = torch.special.entr(likely).sum(1).mean()
    assert soft_neighbourhood_density(points) == pytest.approx(float(wanted))


def test_neighbourhood_density_is_highest_where_all_points_are_one():
    same, apart = np.ones((50, 3)), np.eye(50)
    assert soft_neighbourhood_density(same) == pytest.approx(math.log(49))
    assert soft_neighbourhood_density(apart) == pytest.approx(math.log(49))  # all are equally far as well
    two = np.repeat(np.eye(2), 25, axis=0)
    assert soft_neighbourhood_density(two) == pytest.approx(math.log(24), abs=1e-6)


def test_neighbourhood_density_of_too_few_rows_is_none_and_zero_rows_are_fine():
    assert soft_neighbourhood_density(np.zeros((1, 3))) is None
    assert soft_neighbourhood_density(np.zeros((0, 3))) is None
    assert soft_neighbourhood_density(np.zeros((5, 3))) == pytest.approx(math.log(4))
    with pytest.raises(UserError, match="`temperature`"):
        soft_neighbourhood_density(np.eye(3), temperature=0)


def test_many_rows_are_thinned_the_same_way_every_time():
    points = np.random.default_rng(0).random((300, 4))
    first, again = (soft_neighbourhood_density(points, max_points=100, seed=3) for _ in range(2))
    assert first == again
    assert first != soft_neighbourhood_density(points, max_points=100, seed=4)


@pytest.mark.parametrize("shape", [(60, 8), (8, 60)])
def test_effective_rank_equals_the_entropy_of_singular_values(shape):
    features = np.random.default_rng(0).normal(size=shape)
    values = np.linalg.svd(features, compute_uv=False)
    assert effective_rank(features) == pytest.approx(np.exp(stats.entropy(values)))
    assert effective_rank(torch.as_tensor(features) * 7) == pytest.approx(effective_rank(features))


def test_effective_rank_counts_directions():
    assert effective_rank(np.eye(5)) == pytest.approx(5)
    assert effective_rank(np.outer(np.arange(1, 9), [1.0, 2, 3])) == pytest.approx(1, abs=1e-4)
    assert effective_rank(np.zeros((4, 3))) == 0
    assert effective_rank(np.zeros((0, 3))) is None


def test_shares_and_agreement():
    assert predicted_shares([0, 0, 1, 2], ["a", "b", "c", "d"]) == {
        "a": 0.5, "b": 0.25, "c": 0.25, "d": 0.0
    }  # fmt: skip
    assert predicted_shares([], ["a"]) == {"a": None}
    assert agreement([0, 1, 1, 2], [0, 1, 2, 2]) == 0.75
    assert agreement([], []) is None
    with pytest.raises(UserError, match="as many decisions"):
        agreement([0], [0, 1])


def test_all_signals_together_are_finite_json_for_any_count_of_images():
    for n in (0, 1, 2, 30):
        logits = np.random.default_rng(n).normal(size=(n, 3)) * 100
        found = label_free_metrics(
            logits, ["a", "b", "c"], from_logits=True, features=logits, reference=logits.argmax(1) if n else []
        )
        json.dumps(found.to_json(), allow_nan=False)
        assert found.n == n
        assert found.agreement == (1 if n else None)


def test_nan_features_are_refused():
    with pytest.raises(UserError, match=r"`features` to be finite"):
        effective_rank([[1.0, np.nan]])
