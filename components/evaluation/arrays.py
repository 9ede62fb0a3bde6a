"""The data boundary of evaluation: whatever comes in is checked once and becomes a plain numpy array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..common.errors import expected

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

_SUM_TOLERANCE = 1e-3


def to_numpy(value: Any) -> npt.NDArray[Any]:
    """Returns a numpy array of a tensor (any device, any float type), an array or a nested list."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.double() if value.is_floating_point() else value
    return np.asarray(value)


def check_classes(classes: Sequence[str], field: str = "classes") -> tuple[str, ...]:
    """Returns the class names as a tuple.

    Raises:
        UserError: There is none, one is not a non-empty text, or one occurs twice.
    """
    names = tuple(classes) if not isinstance(classes, str) else ()
    if not names or any(not isinstance(name, str) or not name for name in names):
        raise expected(field, "one or more non-empty names", classes, "Pass the class names in index order.")
    if len(set(names)) != len(names):
        raise expected(field, "names that occur once", names, "Rename the classes that share a name.")
    return names


def check_scores(scores: Any, classes: Sequence[str], field: str) -> Floats:
    """Returns logits or probabilities as float64 [N, C].

    Args:
        scores: Array or tensor [N, C]; N may be 0.
        classes: The C class names, in the order of the columns.
        field: The argument's name, for messages.

    Raises:
        UserError: The shape does not fit the classes, or a value is NaN or infinite.
    """
    array = to_numpy(scores)
    if array.ndim != 2 or array.shape[1] != len(classes):
        rule = f"an array of shape [N, {len(classes)}], a column for each of {', '.join(classes)}"
        raise expected(field, rule, f"shape {list(array.shape)}", "Pass the model's outputs and its own class names.")
    return check_finite(array, field)


def check_finite(values: Any, field: str) -> Floats:
    """Returns a two-dimensional array as float64.

    Raises:
        UserError: It has another number of dimensions, or a value is NaN or infinite.
    """
    array = to_numpy(values)
    if array.ndim != 2:
        raise expected(field, "an array of two dimensions", f"shape {list(array.shape)}", "Pass one row per image.")
    array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        got = f"{bad.size} of {len(array)} rows with NaN or infinity, the first is row {bad[0]}"
        raise expected(field, "finite", got, "The model or its input is broken; look at its training log.")
    return array


def check_labels(labels: Any, classes: int, count: int | None = None, field: str = "labels") -> Integers:
    """Returns labels as int64 [N].

    Args:
        labels: Whole numbers in ``[0, classes)``.
        classes: Number of classes.
        count: The expected N, or None for any.
        field: The argument's name, for messages.

    Raises:
        UserError: Labels are not whole numbers, out of range, or of another count.
    """
    array = to_numpy(labels)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        got = f"{array.dtype} of shape {list(array.shape)}"
        raise expected(field, "a list of class indices", got, "Pass whole numbers, one per image.")
    if count is not None and len(array) != count:
        raise expected(field, f"as many as the outputs ({count})", len(array), "Pass labels and outputs of one split.")
    array = array.astype(np.int64)
    wrong = np.flatnonzero((array < 0) | (array >= classes))
    if wrong.size:
        got = f"{array[wrong[0]]} in row {wrong[0]}"
        raise expected(field, f"between 0 and {classes - 1}", got, "Map the labels into the model's classes by name.")
    return array


def probabilities_of(scores: Any, classes: Sequence[str], *, from_logits: bool) -> Floats:
    """Returns class probabilities, float64 [N, C], of logits or probabilities.

    Nothing is guessed from the values: `from_logits` says what `scores` are.

    Raises:
        UserError: As in :func:`check_scores`; or rows that were said to be probabilities are none.
    """
    field = "logits" if from_logits else "probabilities"
    array = check_scores(scores, classes, field)
    if from_logits:
        return softmax(array)
    sums = array.sum(axis=1)
    wrong = np.flatnonzero((array < 0).any(axis=1) | (np.abs(sums - 1) > _SUM_TOLERANCE))
    if wrong.size:
        got = f"row {wrong[0]} with sum {sums[wrong[0]]:.4g} and minimum {array[wrong[0]].min():.4g}"
        raise expected(field, "rows of values >= 0 that sum to 1", got, "Pass from_logits=True for raw outputs.")
    return np.asarray(array / sums[:, None], dtype=np.float64) if array.size else array


def softmax(logits: Floats) -> Floats:
    """Returns the softmax of [N, C] over the last axis, stable for large values."""
    if not logits.size:
        return logits
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float64)
