"""Metrics of a classifier on labelled images: pure functions that check their input, then compute.

A number that is not defined (a class without an image, no image at all) is None, never NaN and never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..common.errors import expected, unknown
from .arrays import Floats, Integers, check_classes, check_labels, probabilities_of, to_numpy
from .calibration import Reliability, brier_score, negative_log_likelihood, reliability
from .intervals import Interval, mean_interval, wilson_interval


@dataclass(frozen=True)
class ClassMetrics:
    """One class.

    Attributes:
        n: Images of the class.
        predicted: Images that the model says are of the class.
        correct: Images that are both.
        recall: ``correct / n``, the class accuracy; None for n = 0.
        precision: ``correct / predicted``; None where nothing was predicted.
        f1: ``2 correct / (n + predicted)``; None for n = 0.
        recall_interval: Wilson interval of the recall; None for n = 0.
    """

    n: int
    predicted: int
    correct: int
    recall: float | None
    precision: float | None
    f1: float | None
    recall_interval: Interval | None

    def to_json(self) -> dict[str, Any]:
        """Returns recall, precision, f1 and n."""
        return {"recall": self.recall, "precision": self.precision, "f1": self.f1, "n": self.n}


@dataclass(frozen=True)
class Metrics:
    """What :func:`classification_metrics` found.

    Attributes:
        classes: Class names; the order of the confusion matrix.
        n: Images that were scored.
        left_out: Images that were not, because their class is not among the scored ones.
        missing_classes: Scored classes without an image; they count in no mean.
        accuracy: Share of right decisions.
        accuracy_interval: Its Wilson interval.
        mean_class_accuracy: Mean recall of the scored classes that have images.
        mean_class_interval: Its interval (see :func:`~ferry.evaluation.intervals.mean_interval`).
        class_std: Standard deviation of those recalls, ddof 0.
        min_class_accuracy: The smallest of those recalls.
        worst_class: The class it belongs to; the first one of several.
        per_class: Every class by name.
        confusion: Counts int64 [C, C]; rows are true, columns predicted classes.
        reliability: The reliability curve.
        brier: Brier score, 0 to 2.
        nll: Mean negative log-likelihood in nats.
    """

    classes: tuple[str, ...]
    n: int
    left_out: int
    missing_classes: tuple[str, ...]
    accuracy: float | None
    accuracy_interval: Interval | None
    mean_class_accuracy: float | None
    mean_class_interval: Interval | None
    class_std: float | None
    min_class_accuracy: float | None
    worst_class: str | None
    per_class: Mapping[str, ClassMetrics]
    confusion: Integers
    reliability: Reliability
    brier: float | None
    nll: float | None

    @property
    def ece(self) -> float | None:
        """Expected calibration error with 15 bins of equal width over the top probability."""
        return self.reliability.ece

    def to_json(self) -> dict[str, Any]:
        """Returns the ``metrics`` entry of ``run.json``; all numbers finite."""
        return {
            "accuracy": self.accuracy,
            "mean_class_accuracy": self.mean_class_accuracy,
            "class_std": self.class_std,
            "min_class_accuracy": self.min_class_accuracy,
            "per_class": {name: item.to_json() for name, item in self.per_class.items()},
            "ece": self.ece,
            "n": self.n,
        }

    def details(self) -> dict[str, Any]:
        """Returns what ``to_json`` leaves out: intervals, confusion matrix, Brier score, what is missing."""
        return {
            "classes": list(self.classes),
            "confusion": self.confusion.tolist(),
            "accuracy_interval": self.accuracy_interval,
            "mean_class_interval": self.mean_class_interval,
            "recall_intervals": {name: item.recall_interval for name, item in self.per_class.items()},
            "worst_class": self.worst_class,
            "missing_classes": list(self.missing_classes),
            "left_out": self.left_out,
            "brier": self.brier,
            "nll": self.nll,
        }


def classification_metrics(
    scores: Any,
    labels: Any,
    classes: Sequence[str],
    *,
    from_logits: bool,
    scored_classes: Sequence[str] | None = None,
    decide_among: Literal["all", "scored"] = "all",
    confidence: float = 0.95,
) -> Metrics:
    """Returns accuracy, class-wise metrics, calibration and intervals.

    Decisions are the largest score, the first class of several. Images whose true class is not scored are left out
    and counted.

    Args:
        scores: Logits or probabilities [N, C], array or tensor; N may be 0.
        labels: True class indices [N] into `classes`.
        classes: The C class names in index order, taken from the data or model itself.
        from_logits: Whether `scores` are logits; never guessed.
        scored_classes: Names of the classes that count (a set such as LFW has almost no disgust); default all.
        decide_among: ``all`` lets the model choose among all classes, ``scored`` among the scored ones only: other
            columns are dropped and probabilities rescaled (uniform where nothing is left).
        confidence: Coverage of the intervals.

    Raises:
        UserError: Shapes, names or labels do not fit one another, or a score is NaN or infinite.

    Example:
        >>> metrics = classification_metrics([[2.0, 0.0], [1.0, 0.0]], [0, 1], ["happy", "sad"], from_logits=True)
        >>> metrics.accuracy, metrics.per_class["sad"].recall, metrics.per_class["sad"].precision
        (0.5, 0.0, None)
    """
    names = check_classes(classes)
    probabilities = probabilities_of(scores, names, from_logits=from_logits)
    truth = check_labels(labels, len(names), len(probabilities))
    if decide_among not in ("all", "scored"):
        raise unknown("decide_among", str(decide_among), ["all", "scored"])
    scored = _scored_indices(names, scored_classes)
    counts = np.isin(truth, scored)
    left_out = int(len(truth) - counts.sum())
    probabilities, truth = probabilities[counts], truth[counts]
    if decide_among == "scored":
        probabilities, truth = _restrict(probabilities, scored), np.searchsorted(scored, truth)
        names = tuple(names[index] for index in scored)
        scored = np.arange(len(names))
    return _compute(probabilities, truth, names, scored, left_out, confidence)


def group_metrics(
    scores: Any, labels: Any, groups: Sequence[Any], classes: Sequence[str], *, from_logits: bool, **options: Any
) -> dict[str, Metrics]:
    """Returns the metrics of each group value, sorted by name; images without one are in the group ``unknown``.

    Args:
        scores: Logits or probabilities [N, C].
        labels: True class indices [N].
        groups: One value per image [N]; None and "" mean unknown.
        classes: The C class names.
        from_logits: Whether `scores` are logits.
        **options: Further arguments of :func:`classification_metrics`.

    Raises:
        UserError: As in :func:`classification_metrics`, or `groups` has another length.
    """
    names = np.array(["unknown" if value is None or value == "" else str(value) for value in groups], dtype=object)
    scores, labels = to_numpy(scores), to_numpy(labels)
    if len(names) != len(labels):
        raise expected("groups", f"as many as the labels ({len(labels)})", len(names), "Pass one value per image.")
    return {
        str(name): classification_metrics(
            scores[names == name], labels[names == name], classes, from_logits=from_logits, **options
        )
        for name in sorted(set(names))
    }


def _scored_indices(names: tuple[str, ...], scored_classes: Sequence[str] | None) -> Integers:
    if scored_classes is None:
        return np.arange(len(names))
    wanted = check_classes(scored_classes, "scored_classes")
    for name in wanted:
        if name not in names:
            raise unknown("scored_classes", name, names)
    return np.array([index for index, name in enumerate(names) if name in wanted], dtype=np.int64)


def _restrict(probabilities: Floats, scored: Integers) -> Floats:
    kept = probabilities[:, scored]
    sums = kept.sum(axis=1, keepdims=True)
    return np.where(sums > 0, kept / np.where(sums > 0, sums, 1), 1 / len(scored))


def _compute(
    probabilities: Floats, truth: Integers, names: tuple[str, ...], scored: Integers, left_out: int, confidence: float
) -> Metrics:
    count = len(names)
    decided = probabilities.argmax(axis=1) if len(truth) else truth
    confusion = np.bincount(truth * count + decided, minlength=count * count).reshape(count, count)
    per_class = {name: _class_metrics(confusion, index, confidence) for index, name in enumerate(names)}
    present = [names[index] for index in scored if per_class[names[index]].n]
    recalls = [recall for name in present if (recall := per_class[name].recall) is not None]
    intervals = [bounds for name in present if (bounds := per_class[name].recall_interval) is not None]
    correct, total = int(np.trace(confusion)), len(truth)
    return Metrics(
        classes=names,
        n=total,
        left_out=left_out,
        missing_classes=tuple(names[index] for index in scored if names[index] not in present),
        accuracy=correct / total if total else None,
        accuracy_interval=wilson_interval(correct, total, confidence),
        mean_class_accuracy=float(np.mean(recalls)) if recalls else None,
        mean_class_interval=mean_interval(recalls, intervals),
        class_std=float(np.std(recalls)) if recalls else None,
        min_class_accuracy=min(recalls) if recalls else None,
        worst_class=present[int(np.argmin(recalls))] if recalls else None,
        per_class=per_class,
        confusion=confusion,
        reliability=reliability(probabilities, truth),
        brier=brier_score(probabilities, truth),
        nll=negative_log_likelihood(probabilities, truth),
    )


def _class_metrics(confusion: Integers, index: int, confidence: float) -> ClassMetrics:
    correct, total = int(confusion[index, index]), int(confusion[index].sum())
    predicted = int(confusion[:, index].sum())
    return ClassMetrics(
        n=total,
        predicted=predicted,
        correct=correct,
        recall=correct / total if total else None,
        precision=correct / predicted if predicted else None,
        f1=2 * correct / (total + predicted) if total else None,
        recall_interval=wilson_interval(correct, total, confidence),
    )
