"""Intervals for proportions, for their means and for paired differences, so that no report oversells.

All are closed forms: no seed, same result everywhere. They describe the choice of holdout images alone, neither
the randomness of training nor images that depend on one another (several of one person).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from ..common.errors import expected
from .arrays import Booleans, Integers, to_numpy

Interval = tuple[float, float]


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> Interval | None:
    """Returns Wilson's score interval of a proportion, or None for no trial.

    Args:
        successes: Number of successes, 0 to `total`.
        total: Number of trials.
        confidence: Coverage, between 0 and 1.

    Raises:
        UserError: A count or the confidence is out of range.

    Source: E. B. Wilson (1927), without continuity correction. Never wider than [0, 1], never of width 0.

    Example:
        >>> [round(bound, 3) for bound in wilson_interval(8, 10)]
        [0.49, 0.943]
    """
    z = _quantile(confidence)
    if not 0 <= successes <= total:
        raise expected("successes", f"between 0 and total ({total})", successes, "Check the counts.")
    if total == 0:
        return None
    share = successes / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == total else min(1.0, middle + half)
    return low, high


def mean_interval(estimates: Sequence[float], intervals: Sequence[Interval]) -> Interval | None:
    """Returns the interval of the mean of independent estimates from the interval of each, or None for none.

    The distances to the bounds add in squares ("method of variance estimates recovery", Zou & Donner 2008,
    Statistics in Medicine 27:1693), so that a class with a single image still widens the interval of the mean.

    Args:
        estimates: One value per part, for instance the recall of each class.
        intervals: (low, high) around each value, all of one confidence.
    """
    if not estimates:
        return None
    count, mean = len(estimates), sum(estimates) / len(estimates)
    pairs = list(zip(estimates, intervals, strict=True))
    below = math.sqrt(sum((value - low) ** 2 for value, (low, _) in pairs)) / count
    above = math.sqrt(sum((high - value) ** 2 for value, (_, high) in pairs)) / count
    return mean - below, mean + above


@dataclass(frozen=True)
class Difference:
    """A paired difference ``after - before`` of two models on the same images.

    Attributes:
        metric: ``accuracy`` or ``mean_class_accuracy``.
        value: The difference, in [-1, 1].
        low: Lower end of the interval.
        high: Upper end of the interval.
        confidence: Coverage of the interval.
        n: Number of images.
        gained: Images that only `after` gets right.
        lost: Images that only `before` gets right.
        p_value: McNemar's exact two-sided p (of accuracy, whatever the metric).
    """

    metric: str
    value: float
    low: float
    high: float
    confidence: float
    n: int
    gained: int
    lost: int
    p_value: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, all finite."""
        return {"value": self.value, "low": self.low, "high": self.high, "confidence": self.confidence, "n": self.n,
                "gained": self.gained, "lost": self.lost, "p_value": self.p_value}  # fmt: skip


def paired_difference(
    labels: Any, before: Any, after: Any, *, metric: str = "accuracy", confidence: float = 0.95
) -> Difference | None:
    """Compares two models' decisions on the same labelled images.

    Accuracy gets Newcombe's score interval for paired proportions (Newcombe 1998, Statistics in Medicine 17:2635,
    method 10). Mean-class accuracy gets the same per class, put together by :func:`mean_interval`; classes without
    an image are left out.

    Args:
        labels: True class indices [N].
        before: Predicted class indices [N] of the model to compare with.
        after: Predicted class indices [N] of the model in question.
        metric: ``accuracy`` or ``mean_class_accuracy``.
        confidence: Coverage, between 0 and 1.

    Returns:
        The difference, or None for no image.

    Raises:
        UserError: Lengths differ, the metric is unknown or the confidence is out of range.
    """
    if metric not in ("accuracy", "mean_class_accuracy"):
        raise expected("metric", "accuracy or mean_class_accuracy", metric, "Choose one of those.")
    truth, first, second = (to_numpy(item).astype(np.int64).ravel() for item in (labels, before, after))
    if not len(truth) == len(first) == len(second):
        lengths = f"{len(truth)}, {len(first)} and {len(second)}"
        raise expected("labels, before, after", "of one length", lengths, "Compare models on the same images.")
    _quantile(confidence)
    if not len(truth):
        return None
    was, now = first == truth, second == truth
    if metric == "accuracy":
        value, (low, high) = _paired(was, now, confidence)
    else:
        value, (low, high) = _paired_by_class(truth, was, now, confidence)
    gained, lost = int((now & ~was).sum()), int((was & ~now).sum())
    return Difference(metric, value, low, high, confidence, len(truth), gained, lost, mcnemar(gained, lost))


def mcnemar(gained: int, lost: int) -> float:
    """Returns the exact two-sided p-value of McNemar's test: a fair coin over the images that changed sides.

    Example:
        >>> round(mcnemar(8, 1), 4)
        0.0391
    """
    changed = gained + lost
    if changed == 0:
        return 1.0
    half = changed * math.log(2)
    logs = [
        math.lgamma(changed + 1) - math.lgamma(k + 1) - math.lgamma(changed - k + 1) - half
        for k in range(min(gained, lost) + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(value) for value in logs))


def _paired_by_class(truth: Integers, was: Booleans, now: Booleans, confidence: float) -> tuple[float, Interval]:
    parts = [_paired(was[truth == index], now[truth == index], confidence) for index in np.unique(truth)]
    values = [value for value, _ in parts]
    interval = mean_interval(values, [bounds for _, bounds in parts]) or (0.0, 0.0)
    return sum(values) / len(values), interval


def _paired(was: Booleans, now: Booleans, confidence: float) -> tuple[float, Interval]:
    total = len(was)
    first, second = int(was.sum()), int(now.sum())
    low_1, high_1 = wilson_interval(first, total, confidence) or (0.0, 1.0)
    low_2, high_2 = wilson_interval(second, total, confidence) or (0.0, 1.0)
    share_1, share_2 = first / total, second / total
    phi = _correlation(int((was & now).sum()), first, second, total)
    down, up = share_2 - low_2, high_1 - share_1
    below = math.sqrt(max(0.0, down**2 - 2 * phi * down * up + up**2))
    down, up = share_1 - low_1, high_2 - share_2
    above = math.sqrt(max(0.0, down**2 - 2 * phi * down * up + up**2))
    value = share_2 - share_1
    return value, (max(-1.0, value - below), min(1.0, value + above))


def _correlation(both: int, first: int, second: int, total: int) -> float:
    """Phi of the 2x2 table of right and wrong, with Newcombe's continuity correction of its numerator."""
    product = first * (total - first) * second * (total - second)
    if product == 0:
        return 0.0
    cross = both * total - first * second
    if cross > total / 2:
        cross_corrected = cross - total / 2
    else:
        cross_corrected = min(float(cross), 0.0)
    return cross_corrected / math.sqrt(product)


def _quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise expected("confidence", "between 0 and 1", confidence, "Pass a number such as 0.95.")
    return NormalDist().inv_cdf(0.5 + confidence / 2)
