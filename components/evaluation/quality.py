"""How good pseudo-labels are: coverage always, correctness where true labels happen to exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.errors import expected
from .arrays import Booleans, Floats, Integers, check_classes, check_labels, to_numpy

UNKNOWN = -1
"""True label of an image that nobody has labelled; such images count into no share of right ones."""


@dataclass(frozen=True)
class ClassQuality:
    """Pseudo-labels of one class; shares are None where undefined.

    Attributes:
        given: Images that were labelled with the class.
        kept: Those of them that train the target model.
        right: Share of the kept ones that truly are of the class (precision).
        found: Share of the kept images that truly are of the class and carry its label (recall).
        true_kept: Kept images that truly are of the class; None without true labels.
        checked: Kept ones whose true label is known, the images that `right` is a share of.
    """

    given: int
    kept: int
    right: float | None
    found: float | None
    true_kept: int | None
    checked: int


@dataclass(frozen=True)
class LabelQuality:
    """What :func:`pseudo_label_quality` found.

    Attributes:
        n: Images of the target.
        known: Those of them whose true label is known; all shares of right ones are among them.
        kept: Images whose pseudo-label is used.
        accuracy: Share of right pseudo-labels among all images, None without true labels.
        kept_accuracy: The same among kept images.
        kept_mean_class: Mean of ``found`` over the classes with kept images.
        per_class: Every class by name.
        lost_classes: Classes that keep no image: the target model cannot learn them.
    """

    n: int
    known: int
    kept: int
    accuracy: float | None
    kept_accuracy: float | None
    kept_mean_class: float | None
    per_class: dict[str, ClassQuality]
    lost_classes: tuple[str, ...]

    @property
    def coverage(self) -> float | None:
        """Share of images that are kept."""
        return self.kept / self.n if self.n else None

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, all finite."""
        return {
            "n": self.n,
            "known": self.known,
            "kept": self.kept,
            "coverage": self.coverage,
            "accuracy": self.accuracy,
            "kept_accuracy": self.kept_accuracy,
            "kept_mean_class_accuracy": self.kept_mean_class,
            "per_class": {name: dict(vars(item)) for name, item in self.per_class.items()},
            "lost_classes": list(self.lost_classes),
        }


def pseudo_label_quality(labels: Any, kept: Any, classes: Sequence[str], true_labels: Any = None) -> LabelQuality:
    """Returns coverage and, where true labels exist, correctness of pseudo-labels.

    Args:
        labels: Pseudo-label indices [N].
        kept: Whether each is used, bool [N].
        classes: The C class names.
        true_labels: True class indices [N] with -1 where unknown, or None.

    Raises:
        UserError: Lengths differ or an index is out of range.
    """
    names = check_classes(classes)
    given = check_labels(labels, len(names), field="labels")
    mask: Booleans = to_numpy(kept).astype(bool)
    if mask.shape != given.shape:
        raise expected("kept", f"as many as the labels ({len(given)})", list(mask.shape), "Pass one value per image.")
    truth = np.full(len(given), UNKNOWN) if true_labels is None else to_numpy(true_labels)
    known = truth != UNKNOWN
    truth = check_labels(np.where(known, truth, 0), len(names), len(given), "true_labels")
    per_class = {name: _class_quality(given, mask, truth, known, index) for index, name in enumerate(names)}
    found = [item.found for item in per_class.values() if item.found is not None]
    return LabelQuality(
        n=len(given),
        known=int(known.sum()),
        kept=int(mask.sum()),
        accuracy=_share((given == truth)[known]),
        kept_accuracy=_share((given == truth)[known & mask]),
        kept_mean_class=float(np.mean(found)) if found else None,
        per_class=per_class,
        lost_classes=tuple(name for name, item in per_class.items() if item.kept == 0),
    )


def purity_histogram(purity: Any, kept: Any, bins: int = 20) -> tuple[Floats, Integers, Integers]:
    """Returns bin edges over [0, 1] and the counts of all and of kept images; values that are not finite are left out.

    Args:
        purity: Purity of each image's cluster [N].
        kept: Whether its pseudo-label is used, bool [N].
        bins: Number of bins of equal width.
    """
    values, mask = to_numpy(purity).astype(np.float64), to_numpy(kept).astype(bool)
    usable = np.isfinite(values)
    edges = np.linspace(0, 1, bins + 1)
    everything, _ = np.histogram(values[usable], edges)
    used, _ = np.histogram(values[usable & mask], edges)
    return edges, everything, used


def _class_quality(given: Integers, kept: Booleans, truth: Integers, known: Booleans, index: int) -> ClassQuality:
    of_class, truly = given == index, known & (truth == index)
    return ClassQuality(
        given=int(of_class.sum()),
        kept=int((of_class & kept).sum()),
        right=_share(truly[of_class & kept & known]),
        found=_share(of_class[truly & kept]),
        true_kept=int((truly & kept).sum()) if known.any() else None,
        checked=int((of_class & kept & known).sum()),
    )


def _share(values: Booleans) -> float | None:
    return float(values.mean()) if len(values) else None
