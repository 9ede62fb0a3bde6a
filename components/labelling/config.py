"""How pseudo-labels are made: the switches, their defaults, and the one rule for what needs target labels elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..common.errors import expected, unknown

Score = Literal["purity", "confidence"]
Quota = Literal["floor", "round_at_least_one"]
Ties = Literal["source_confidence", "distance", "order"]
MajorityTies = Literal["probability", "first_class"]
View = Literal["plain", "flip", "augmented"]

DEFAULT_KEEP = 0.5
"""Fraction of every pseudo-class that is kept, r, where none is given; see :func:`default_clusters` for the reasons."""

IMAGES_PER_CLUSTER = 75
FEWEST_CLUSTERS = 30
CLUSTERS_PER_CLASS = 4
MOST_CLUSTERS = 1000


def default_clusters(n: int, n_classes: int) -> int:
    """Returns the number of clusters K for `n` images, by a rule that looks at no label and is the same for all data.

    ``K = N / 75, at least max(30, 4 C), at most 1000, and never more than N / 2``; with it goes ``r = 0.5``.

    Why. The CluP authors publish K and r per scenario (K 250 or 1000, r 0.1 to 0.3, 29 to 280 images a cluster) and do
    not say how they chose them; without target labels nobody can choose them so, hence one rule. 75 images a cluster is
    the middle of the published range (on a log scale it lies near 90), is enough for a purity to be known to about 6
    points, and is what gave gains on real faces of 1,143 to 11,086 images. Fewer than 30 clusters, or 4 a class, leave
    rare classes the majority of none. Above 1000 clusters cost grows and no evidence exists. With fewer than two images
    a cluster, purity says nothing. r = 0.5 gave more accuracy than r = 0.2 in every purity run that started from the
    source encoder: a stricter cut does not find better labels (56.9 against 54.3 % correct on one real target), only
    fewer of them.

    Args:
        n: Number of target images.
        n_classes: Number of classes.

    Returns:
        K, at least 1.
    """
    wanted = max(round(n / IMAGES_PER_CLUSTER), FEWEST_CLUSTERS, CLUSTERS_PER_CLASS * n_classes)
    return max(1, min(wanted, MOST_CLUSTERS, n // 2))


@dataclass(frozen=True)
class LabellingConfig:
    """Switches of pseudo-labelling. The defaults are the recommended ones; see also :meth:`as_released`.

    Attributes:
        score: ``purity``: every image gets the majority label of its cluster, ranked by the cluster's purity.
            ``confidence``: every image keeps the teacher's own label, ranked by its largest probability;
            clusters are then only reported.
        clusters: K; None is the rule of :func:`default_clusters`.
        keep: r, the fraction of every pseudo-class that is kept, in (0, 1]; None is 0.5.
        iterations: Largest number of steps of k-means.
        restarts: Independent starts of k-means; the lowest inertia wins.
        transfers: Whether k-means takes the sizes of clusters into account; false is plain Lloyd.
        seed: Fixes k-means, the only random part.
        quota: ``floor``: floor(r n_c) images of class c, which can be none. ``round_at_least_one``: the nearest whole
            number, and one where the class has any image, so that rounding alone loses no class.
        ties: Which images come first among equal scores, which purity makes the rule and not the exception.
            ``source_confidence``: larger confidence of the teacher. ``distance``: nearer to the centroid.
            Both fall back on the key. ``order``: earlier row.
        majority_ties: Which class wins among equally frequent ones in a cluster. ``probability``: the one with the
            larger sum of the teacher's probabilities over the cluster, because the sum uses what the hard labels
            threw away and favours no class; then class order. ``first_class``: class order, which favours "anger"
            everywhere.
        smoothing: Prior count a of every class in the ranking score ``(n_km + a) / (n_k + a C)``. With 0, clusters of
            one or two images are "pure" and always come first. The raw purity is kept in its own column.
        min_cluster_size: Images in smaller clusters are labelled but never kept.
        drop_outliers: Images whose own label, the teacher's, is not the cluster's are labelled but never kept.
        view: What the teacher looks at, see :func:`ferry.labelling.teacher_outputs`. ``plain``: the image as it is.
            ``flip``: the mean of the image and its mirror image. ``augmented``: one random view with the strong
            turns, shifts and colours of training; the released code labels these.

    `smoothing`, `majority_ties`, `min_cluster_size` and `drop_outliers` act on ``score="purity"`` only.

    Raises:
        UserError: A value is out of range or two contradict each other.
    """

    score: Score = "purity"
    clusters: int | None = None
    keep: float | None = None
    iterations: int = 20
    restarts: int = 1
    transfers: bool = True
    seed: int = 0
    quota: Quota = "round_at_least_one"
    ties: Ties = "source_confidence"
    majority_ties: MajorityTies = "probability"
    smoothing: float = 1.0
    min_cluster_size: int = 1
    drop_outliers: bool = False
    view: View = "plain"

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise unknown(name, str(getattr(self, name)), words)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise expected(name, f"at least {least}", value, f"Pass {max(least, 1)} or leave it out.")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise expected("keep", "above 0 and at most 1", self.keep, "Pass a fraction such as 0.5.")
        if self.drop_outliers and self.score == "confidence":
            fix = "Pass score=purity, or leave drop_outliers out: with confidence no image differs from its own label."
            raise expected("drop_outliers", "false where score is confidence", True, fix)

    @classmethod
    def clean(cls, **changes: Any) -> LabellingConfig:
        """Returns the recommended switches, which are the defaults, with `changes`."""
        return cls(**changes)

    @classmethod
    def as_released(cls, **changes: Any) -> LabellingConfig:
        """Returns the switches of the code that the CluP authors released, with `changes`.

        K 1000 and r 0.1 are that code's defaults; its README passes other values per scenario. The released code's
        ranking of equal scores depends on the library version; here it is the order of the rows. Its k-means starts
        with k-means++; here the ten starts are drawn rows.
        """
        released: dict[str, Any] = {
            "clusters": 1000,
            "keep": 0.1,
            "iterations": 300,
            "restarts": 10,
            "transfers": False,
            "quota": "floor",
            "ties": "order",
            "majority_ties": "first_class",
            "smoothing": 0.0,
            "view": "augmented",
        }
        return cls(**(released | changes))


_WORDS = {
    "score": get_args(Score),
    "quota": get_args(Quota),
    "ties": get_args(Ties),
    "majority_ties": get_args(MajorityTies),
    "view": get_args(View),
}
PRESETS: dict[str, Callable[..., LabellingConfig]] = {
    "clean": LabellingConfig.clean,
    "released": LabellingConfig.as_released,
}
"""The recommended switches, and those of the authors' code."""
_LEAST = {"clusters": 1, "iterations": 1, "restarts": 1, "seed": 0, "smoothing": 0, "min_cluster_size": 1}
