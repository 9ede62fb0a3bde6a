"""Signals that need no labels: what a run can say about itself on a target that nobody has labelled.

None of them is an accuracy. They show whether decisions collapsed, moved or became surer; a model can be sure and
wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.errors import expected
from .arrays import Floats, Integers, check_classes, check_finite, check_labels, probabilities_of

MAX_POINTS = 2000
"""Neighbourhoods and ranks are taken over at most so many images, drawn with a fixed seed."""

_BLOCK = 512


@dataclass(frozen=True)
class LabelFree:
    """Label-free signals of one model on one set of images; None where undefined.

    Attributes:
        n: Number of images.
        mean_entropy: Mean entropy of the predicted distributions in nats, 0 (sure) to ln C.
        mean_confidence: Mean top probability.
        neighbourhood_density: Soft neighbourhood density of the predicted distributions.
        shares: Share of each class among the decisions.
        classes_used: Classes that were decided for at least once.
        feature_rank: Effective rank of the features (RankMe).
        agreement: Share of images decided as the source model decides; None for the source model itself.
    """

    n: int
    mean_entropy: float | None
    mean_confidence: float | None
    neighbourhood_density: float | None
    shares: dict[str, float | None]
    classes_used: int
    feature_rank: float | None
    agreement: float | None

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, all finite."""
        return dict(vars(self))


def label_free_metrics(
    scores: Any,
    classes: Sequence[str],
    *,
    from_logits: bool,
    features: Any = None,
    reference: Any = None,
    seed: int = 0,
) -> LabelFree:
    """Returns all label-free signals of one model.

    Args:
        scores: Logits or probabilities [N, C].
        classes: The C class names.
        from_logits: Whether `scores` are logits; never guessed.
        features: Features [N, D] or None.
        reference: Class indices [N] that another model (the source) decided for, or None.
        seed: Draws the images where N is above ``MAX_POINTS``.

    Raises:
        UserError: Inputs do not fit one another, or a value is NaN or infinite.
    """
    names = check_classes(classes)
    probabilities = probabilities_of(scores, names, from_logits=from_logits)
    total = len(probabilities)
    decided = probabilities.argmax(axis=1) if total else np.zeros(0, dtype=np.int64)
    return LabelFree(
        n=total,
        mean_entropy=float(entropy(probabilities).mean()) if total else None,
        mean_confidence=float(probabilities.max(axis=1).mean()) if total else None,
        neighbourhood_density=soft_neighbourhood_density(probabilities, seed=seed),
        shares=predicted_shares(decided, names),
        classes_used=len(np.unique(decided)),
        feature_rank=None if features is None else effective_rank(features, seed=seed),
        agreement=None if reference is None else agreement(decided, reference),
    )


def entropy(probabilities: Floats) -> Floats:
    """Returns the entropy of each row of [N, C] in nats, with 0 ln 0 = 0."""
    logs = np.log(np.where(probabilities > 0, probabilities, 1))
    return np.asarray(-(probabilities * logs).sum(axis=1), dtype=np.float64)


def soft_neighbourhood_density(
    points: Any, temperature: float = 0.05, max_points: int = MAX_POINTS, seed: int = 0
) -> float | None:
    """Returns the soft neighbourhood density: high where every image has many close neighbours.

    Rows are scaled to length 1; each image's cosines to all others, divided by `temperature`, go through a softmax,
    and the mean entropy of these distributions is returned, in nats: at most ln(N - 1).

    Args:
        points: Predicted distributions (as in the source) or features [N, D].
        temperature: Divides the cosines; must be positive.
        max_points: More rows than this are thinned out, because the work grows with the square.
        seed: Draws the rows that stay.

    Returns:
        The density, or None for fewer than two rows.

    Raises:
        UserError: A value is NaN or infinite, or the temperature is not positive.

    Source: Saito et al., Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood
    Density, ICCV 2021, section 3.2.
    """
    if temperature <= 0:
        raise expected("temperature", "positive", temperature, "Pass a number such as 0.05.")
    rows = _thin(check_finite(points, "points"), max_points, seed)
    if len(rows) < 2:
        return None
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(norms > 0, norms, 1)
    total = 0.0
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK] @ rows.T / temperature
        own = np.arange(len(block))
        block[own, start + own] = -np.inf
        powers = np.exp(block - block.max(axis=1, keepdims=True))
        total += float(entropy(powers / powers.sum(axis=1, keepdims=True)).sum())
    return total / len(rows)


def effective_rank(features: Any, max_points: int = MAX_POINTS, seed: int = 0) -> float | None:
    """Returns the effective rank of features: how many directions they really use, 1 to min(N, D).

    Args:
        features: Features [N, D].
        max_points: More rows than this are thinned out.
        seed: Draws the rows that stay.

    Returns:
        The exponential of the entropy of the normalised singular values; 0 for all-zero features, None for no row.

    Raises:
        UserError: A value is NaN or infinite.

    Source: Roy & Vetterli, The effective rank, EUSIPCO 2007; used without labels by Garrido et al., RankMe,
    ICML 2023, equation 1. Features are not centred, as there.
    """
    rows = _thin(check_finite(features, "features"), max_points, seed)
    if not rows.size:
        return None
    small = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows  # same spectrum as an SVD, far cheaper
    values = np.sqrt(np.clip(np.linalg.eigvalsh(small), 0, None))
    if values.sum() <= 0:
        return 0.0
    return math.exp(float(entropy((values / values.sum())[None])[0]))


def predicted_shares(decisions: Any, classes: Sequence[str]) -> dict[str, float | None]:
    """Returns the share of each class among class indices [N]; None for all where N = 0."""
    names = check_classes(classes)
    indices = check_labels(decisions, len(names), field="decisions")
    counts = np.bincount(indices, minlength=len(names))
    return {name: float(counts[i] / len(indices)) if len(indices) else None for i, name in enumerate(names)}


def agreement(first: Any, second: Any) -> float | None:
    """Returns the share of images on which two models decide alike, or None for no image.

    Raises:
        UserError: The models decided about different numbers of images.
    """
    a: Integers = np.asarray(first).ravel()
    b: Integers = np.asarray(second).ravel()
    if len(a) != len(b):
        raise expected("second", f"as many decisions as the first ({len(a)})", len(b), "Use the same images.")
    return float((a == b).mean()) if len(a) else None


def _thin(rows: Floats, max_points: int, seed: int) -> Floats:
    if len(rows) <= max_points:
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), max_points, replace=False)
    return rows[np.sort(chosen)]
