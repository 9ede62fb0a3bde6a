"""The class-wise percentile: which images of every pseudo-class are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..common.errors import expected, unknown

_ROUNDING = 1e-9  # 0.29 * 100 is 28.999999999999996 in floating point, and means 29


def class_quota(
    labels: npt.NDArray[np.integer],
    scores: npt.NDArray[np.floating],
    keep: float,
    n_classes: int,
    *,
    quota: str = "floor",
    tie_breakers: Sequence[npt.NDArray[np.floating]] = (),
    keys: Sequence[str] | None = None,
    eligible: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.bool_]:
    """Keeps the best-scored fraction of every class.

    Of the ``n_c`` images of class c it keeps the ``floor(r n_c)`` with the largest score, so the proportions of the
    classes stay as they are: it is a quota, not a balancing step. The order is total: score (larger first), each tie
    breaker (larger first), then key (smaller first), or position where there are no keys.

    Args:
        labels: Pseudo-label of every image, ``[N]``, in ``[0, n_classes)``.
        scores: Score of every image, ``[N]``, finite.
        keep: r, in ``(0, 1]``.
        n_classes: C.
        quota: ``floor``, or ``round_at_least_one``: the nearest whole number, halves up, and at least one.
        tie_breakers: Further scores, ``[N]`` each, that order images of equal score.
        keys: Unique names that order what is equal in all scores; only those at the cut are looked at.
        eligible: Images that may be kept; the others count into ``n_c`` but are passed over.

    Returns:
        bool ``[N]``.

    Raises:
        UserError: A value is out of range.

    Source: CluP (Conti et al. 2022), class-wise percentile threshold.
    """
    if not 0 < keep <= 1:
        raise expected("keep", "above 0 and at most 1", keep, "Pass a fraction such as 0.5.")
    if quota not in ("floor", "round_at_least_one"):
        raise unknown("quota", quota, ["floor", "round_at_least_one"])
    for name, values in (("scores", scores), *((f"tie_breakers[{i}]", t) for i, t in enumerate(tie_breakers))):
        if len(values) != len(labels) or not np.isfinite(values).all():
            got = f"{len(values)} values, {int((~np.isfinite(values)).sum())} not finite"
            raise expected(name, f"{len(labels)} finite values", got, "Pass one number per image.")
    kept = np.zeros(len(labels), bool)
    for label in range(n_classes):
        members = np.flatnonzero(labels == label)
        count = _count(len(members), keep, quota)
        if eligible is not None:
            members = members[eligible[members]]
        kept[_best(members, count, (scores, *tie_breakers), keys)] = True
    return kept


def _count(size: int, keep: float, quota: str) -> int:
    if quota == "floor":
        return math.floor(keep * size + _ROUNDING)
    return max(min(1, size), math.floor(keep * size + 0.5 + _ROUNDING))


def _best(
    members: npt.NDArray[np.intp],
    count: int,
    criteria: Sequence[npt.NDArray[np.floating]],
    keys: Sequence[str] | None,
) -> npt.NDArray[np.intp]:
    """Returns the first `count` of `members` in lexicographic order; linear, as only rows tied at the cut go deeper."""
    if count <= 0 or not len(members):
        return members[:0]
    if count >= len(members):
        return members
    if not criteria:
        ordered = members if keys is None else np.array(sorted(members, key=keys.__getitem__), members.dtype)
        return ordered[:count]
    values = criteria[0][members]
    cut = np.partition(values, len(values) - count)[len(values) - count]
    above, tied = members[values > cut], members[values == cut]
    return np.concatenate([above, _best(tied, count - len(above), criteria[1:], keys)])
