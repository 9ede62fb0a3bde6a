"""How good pseudo-labels are, where true labels exist: for the evaluation side, never for adaptation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..common.errors import expected

UNKNOWN = -1
"""True label of an image that nobody has labelled; such images are left out."""


def label_quality(
    labels: npt.NDArray[np.integer],
    kept: npt.NDArray[np.bool_],
    true_labels: npt.NDArray[np.integer],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Compares pseudo-labels with true labels.

    Args:
        labels: Pseudo-labels, ``[N]``, in ``[0, C)``.
        kept: Whether the image is trained on, ``[N]``.
        true_labels: True labels in the same order, ``[N]``, in ``[0, C)``, or -1 where unknown.
        classes: The C class names in order.

    Returns:
        ``n`` (images with a true label), ``all`` and ``kept``, each with ``n``, ``accuracy``, ``mean_class_recall``
        (mean over the classes that occur among its true labels), ``recall`` and ``precision`` per class name, and
        ``confusion`` (lists, rows are true classes, columns pseudo-labels); and ``coverage``: the kept share, ``all``
        and per true class name. What is not defined is None, never NaN.

    Raises:
        UserError: The arrays do not fit together.
    """
    bounds = (("labels", labels, 0), ("true_labels", true_labels, UNKNOWN))
    for name, values, low in bounds:
        if len(values) != len(kept):
            raise expected(name, f"of length {len(kept)} like `kept`", len(values), "Align them by key first.")
        if len(values) and not (values.min() >= low and values.max() < len(classes)):
            got = f"values from {values.min()} to {values.max()}"
            raise expected(name, f"in the range {low} to {len(classes) - 1}", got, "Check the order of the classes.")
    known = np.asarray(true_labels) != UNKNOWN
    labels, kept, true_labels = np.asarray(labels)[known], np.asarray(kept, bool)[known], np.asarray(true_labels)[known]
    everything = _confusion(true_labels, labels, len(classes))
    chosen = _confusion(true_labels[kept], labels[kept], len(classes))
    covered = _ratios(chosen.sum(axis=1), everything.sum(axis=1))
    return {
        "n": len(labels),
        "all": _report(everything, classes),
        "kept": _report(chosen, classes),
        "coverage": {
            "all": _ratio(int(chosen.sum()), int(everything.sum())),
            "per_class": dict(zip(classes, covered, strict=True)),
        },
    }


def _confusion(true: npt.NDArray[np.integer], said: npt.NDArray[np.integer], n: int) -> npt.NDArray[np.int64]:
    return np.bincount(true.astype(np.int64) * n + said, minlength=n * n).reshape(n, n).astype(np.int64)


def _report(confusion: npt.NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    right = confusion.diagonal()
    recall = _ratios(right, confusion.sum(axis=1))
    precision = _ratios(right, confusion.sum(axis=0))
    present = [value for value in recall if value is not None]
    return {
        "n": int(confusion.sum()),
        "accuracy": _ratio(int(right.sum()), int(confusion.sum())),
        "mean_class_recall": sum(present) / len(present) if present else None,
        "recall": dict(zip(classes, recall, strict=True)),
        "precision": dict(zip(classes, precision, strict=True)),
        "confusion": confusion.tolist(),
    }


def _ratios(parts: npt.NDArray[np.int64], wholes: npt.NDArray[np.int64]) -> list[float | None]:
    return [_ratio(int(part), int(whole)) for part, whole in zip(parts, wholes, strict=True)]


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
