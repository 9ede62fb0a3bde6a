"""Whether a model's confidence can be believed: reliability curve, ECE, Brier score, negative log-likelihood.

All take class probabilities float64 [N, C] and labels int64 [N] and return None, never NaN, for no image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.errors import expected
from .arrays import Floats, Integers, check_labels, probabilities_of

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """A reliability curve: images in bins of equal width of the top probability.

    Attributes:
        edges: Bin edges, ``bins + 1`` values from 0 to 1. A bin holds ``low < confidence <= high``.
        counts: Images per bin.
        confidence: Mean top probability per bin, None where the bin is empty.
        accuracy: Share of right decisions per bin, None where the bin is empty.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]

    @property
    def ece(self) -> float | None:
        """Expected calibration error: mean distance of confidence and accuracy, bins weighted by images."""
        total = sum(self.counts)
        if total == 0:
            return None
        rows = zip(self.counts, self.confidence, self.accuracy, strict=True)
        return sum(n * abs(c - a) for n, c, a in rows if c is not None and a is not None) / total


def reliability_curve(
    scores: Any, labels: Any, classes: Sequence[str], *, from_logits: bool, bins: int = BINS
) -> Reliability:
    """Returns the top-label reliability curve.

    Args:
        scores: Logits or probabilities [N, C].
        labels: True class indices [N].
        classes: The C class names.
        from_logits: Whether `scores` are logits; never guessed.
        bins: Number of bins of equal width.

    Raises:
        UserError: Inputs do not fit one another, or a value is NaN or infinite.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2, equations 2 to 5.
    """
    probabilities = probabilities_of(scores, classes, from_logits=from_logits)
    truth = check_labels(labels, len(classes), len(probabilities))
    if bins < 1:
        raise expected("bins", "at least 1", bins, "Pass a number such as 15.")
    return reliability(probabilities, truth, bins)


def reliability(probabilities: Floats, labels: Integers, bins: int = BINS) -> Reliability:
    """Returns the reliability curve of checked arrays; see :func:`reliability_curve`."""
    edges = np.linspace(0, 1, bins + 1)
    top = probabilities.max(axis=1) if len(probabilities) else np.zeros(0)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64) if len(probabilities) else np.zeros(0)
    place = np.clip(np.searchsorted(edges, top, side="left") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    return Reliability(
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
        confidence=_bin_means(top, place, counts),
        accuracy=_bin_means(right, place, counts),
    )


def brier_score(probabilities: Floats, labels: Integers) -> float | None:
    """Returns the mean squared distance of probabilities and one-hot labels, summed over classes: 0 to 2.

    Source: Brier (1950), Verification of forecasts expressed in terms of probability, equation 2.
    """
    if not len(labels):
        return None
    true = probabilities[np.arange(len(labels)), labels]
    return float(np.mean((probabilities**2).sum(axis=1) - 2 * true + 1))


def negative_log_likelihood(probabilities: Floats, labels: Integers) -> float | None:
    """Returns the mean of ``-ln p(label)`` in nats; p is held above 2.2e-16, so that the value is finite."""
    if not len(labels):
        return None
    true = probabilities[np.arange(len(labels)), labels]
    return float(np.mean(-np.log(np.clip(true, np.finfo(np.float64).eps, 1.0))))


def _bin_means(values: Floats, place: Integers, counts: Integers) -> tuple[float | None, ...]:
    sums = np.bincount(place, weights=values, minlength=len(counts))
    return tuple(float(total / count) if count else None for total, count in zip(sums, counts, strict=True))
