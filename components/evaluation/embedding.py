"""Two-dimensional pictures of features: PCA to 50 dimensions, then t-SNE; PCA alone for few images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.errors import expected
from .arrays import Floats, Integers, check_finite

_COMPONENTS = 50
_ENOUGH_FOR_TSNE = 30
_ITERATIONS = 500


@dataclass(frozen=True)
class Embedding:
    """Points in a plane.

    Attributes:
        points: float64 [M, 2].
        indices: Rows of the features that the points stand for, int64 [M], ascending.
        method: ``t-SNE`` or ``PCA``.
    """

    points: Floats
    indices: Integers
    method: str


def embed(features: Any, max_points: int = 1000, seed: int = 0) -> Embedding | None:
    """Places images in a plane so that images with similar features are near one another.

    Args:
        features: Features [N, D].
        max_points: At most so many images, drawn by `seed` from N alone, hence the same ones for every model;
            2,000 take about 9 s of one core.
        seed: Draws the images and starts t-SNE.

    Returns:
        The points; None for fewer than three images or for features that are the same for all of them.

    Raises:
        UserError: A value is NaN or infinite, or `max_points` is below 3.

    Source: van der Maaten & Hinton, Visualizing Data using t-SNE, JMLR 2008.
    """
    rows = check_finite(features, "features")
    if max_points < 3:
        raise expected("max_points", "at least 3", max_points, "Pass a number such as 1000.")
    indices = np.arange(len(rows))
    if len(rows) > max_points:
        indices = np.sort(np.random.default_rng(seed).choice(len(rows), max_points, replace=False))
    rows = rows[indices]
    if len(rows) < 3 or np.allclose(rows, rows[:1], rtol=1e-9, atol=1e-12):
        return None
    from sklearn.decomposition import PCA

    components = min(_COMPONENTS, *rows.shape)
    reduced = PCA(components, svd_solver="full").fit_transform(rows)
    spread = float(reduced[:, 0].std())
    reduced = reduced / spread  # t-SNE's steps assume no particular scale, but its tolerances do
    if len(rows) < _ENOUGH_FOR_TSNE or components < 2:
        return Embedding(_plane(reduced), indices, "PCA")
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(rows) - 1) / 3)
    tsne = TSNE(2, init="pca", perplexity=perplexity, random_state=seed, n_jobs=1)
    steps = "max_iter" if "max_iter" in tsne.get_params() else "n_iter"  # its name before scikit-learn 1.5
    tsne.set_params(**{steps: _ITERATIONS})
    return Embedding(np.asarray(tsne.fit_transform(reduced), dtype=np.float64), indices, "t-SNE")


def _plane(points: Floats) -> Floats:
    if points.shape[1] >= 2:
        return np.asarray(points[:, :2], dtype=np.float64)
    return np.column_stack([points[:, 0], np.zeros(len(points))])
