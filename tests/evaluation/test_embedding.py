"""Embeddings: separated stay separated, same seed same picture, few or constant images are no error."""

from __future__ import annotations

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.evaluation.embedding import embed
from sklearn.metrics import silhouette_score


def blobs(n, d=20, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    return rng.normal(size=(n, d)) + 12 * np.eye(3, d)[labels], labels


def test_groups_stay_apart_and_the_seed_fixes_the_picture():
    features, labels = blobs(60)
    first, again = embed(features, seed=1), embed(features, seed=1)
    assert first.method == "t-SNE"
    assert silhouette_score(first.points, labels) > 0.6
    assert (again.points == first.points).all()


def test_few_images_take_pca_which_keeps_distances():
    features = np.column_stack([np.arange(10.0), np.zeros(10), np.arange(10.0) ** 2])
    found = embed(features)
    assert found.method == "PCA"
    wanted = np.linalg.norm(features[:, None] - features[None], axis=2)
    got = np.linalg.norm(found.points[:, None] - found.points[None], axis=2)
    assert got * (wanted[0, 1] / got[0, 1]) == pytest.approx(wanted)


def test_the_same_images_are_drawn_for_every_model():
    one, two = embed(blobs(60)[0], max_points=20, seed=4), embed(blobs(60, d=5, seed=9)[0], max_points=20, seed=4)
    assert (one.indices == two.indices).all()
    assert len(one.points) == 20
    assert (np.diff(one.indices) > 0).all()


@pytest.mark.parametrize("features", [np.zeros((0, 4)), np.ones((2, 4)), np.full((50, 4), 3.3), np.zeros((40, 1))])
def test_nothing_to_draw_is_none(features):
    assert embed(features) is None


def test_one_dimension_is_drawn_on_a_line():
    assert (embed(np.arange(8.0)[:, None]).points[:, 1] == 0).all()


def test_wrong_arguments_are_named():
    with pytest.raises(UserError, match="`max_points`"):
        embed(np.eye(5), max_points=2)
    with pytest.raises(UserError, match="`features` to be finite"):
        embed(np.full((4, 2), np.nan))
