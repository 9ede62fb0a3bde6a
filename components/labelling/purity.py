"""Class histogram, majority class and purity of every cluster."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..common.errors import expected


class ClusterPurity(NamedTuple):
    """What the teacher says about every cluster.

    Attributes:
        histogram: int64 ``[K, C]``, images per label of the teacher.
        majority: int64 ``[K]``, the most frequent label; -1 where the cluster is empty.
        purity: float64 ``[K]``, share of the majority label, in ``[1 / C, 1]``; 0 where the cluster is empty.
    """

    histogram: npt.NDArray[np.int64]
    majority: npt.NDArray[np.int64]
    purity: npt.NDArray[np.float64]


def cluster_purity(
    assignments: npt.NDArray[np.integer],
    teacher: npt.NDArray[np.integer],
    n_clusters: int,
    n_classes: int,
    *,
    smoothing: float = 0.0,
    probabilities: npt.NDArray[np.floating] | None = None,
) -> ClusterPurity:
    """Counts the teacher's labels per cluster.

    ``q_kc = |{i in A_k: t_i = c}| / |A_k|``, ``m_k = argmax_c q_kc``, ``p_k = max_c q_kc``.

    Args:
        assignments: Cluster of every image, ``[N]``, in ``[0, n_clusters)``.
        teacher: The teacher's label of every image, ``[N]``, in ``[0, n_classes)``.
        n_clusters: K.
        n_classes: C.
        smoothing: Prior count a of every class: ``p_k = (max_c n_kc + a) / (n_k + a C)``, the posterior mean under a
            symmetric Dirichlet prior, which small clusters cannot win by chance.
        probabilities: The teacher's, ``[N, C]``. Where given, equally frequent labels are decided by their sum
            over the cluster, then by class order; otherwise by class order alone.

    Returns:
        Histogram, majority label and (smoothed) purity per cluster.

    Raises:
        UserError: The arrays differ in length or a value is out of range.

    Source: CluP (Conti et al. 2022), cluster-level pseudo-labelling.
    """
    _check_labels("assignments", assignments, len(teacher), n_clusters)
    _check_labels("teacher", teacher, len(teacher), n_classes)
    pairs = np.asarray(assignments, np.int64) * n_classes + teacher
    histogram = np.bincount(pairs, minlength=n_clusters * n_classes).reshape(n_clusters, n_classes).astype(np.int64)
    sizes, largest = histogram.sum(axis=1), histogram.max(axis=1)
    majority = histogram.argmax(axis=1).astype(np.int64)  # the first class among equals
    if probabilities is not None:
        tied = histogram == largest[:, None]
        undecided = (tied.sum(axis=1) > 1) & (sizes > 0)
        sums = _sums(assignments, probabilities, undecided)
        majority = np.where(undecided, np.where(tied, sums, -np.inf).argmax(axis=1), majority)
    return ClusterPurity(histogram, np.where(sizes > 0, majority, -1), smoothed_purity(histogram, smoothing))


def smoothed_purity(histogram: npt.NDArray[np.int64], smoothing: float) -> npt.NDArray[np.float64]:
    """Returns ``(max_c n_kc + a) / (n_k + a C)`` per row of a ``[K, C]`` histogram; 0 where a cluster is empty.

    Args:
        histogram: Images per cluster and label of the teacher.
        smoothing: Prior count a of every class, 0 or more; 0 is the plain purity.

    Raises:
        UserError: `smoothing` is negative.
    """
    if not 0 <= smoothing < float("inf"):
        raise expected("smoothing", "0 or more", smoothing, "Pass a number such as 1.")
    sizes = histogram.sum(axis=1)
    purity = np.zeros(len(histogram))
    wholes = sizes + smoothing * histogram.shape[1]
    np.divide(histogram.max(axis=1) + smoothing, wholes, out=purity, where=sizes > 0)
    return purity


def _sums(
    assignments: npt.NDArray[np.integer], probabilities: npt.NDArray[np.floating], wanted: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Returns the sum of `probabilities` per cluster ``[K, C]``, zero for clusters that are not wanted."""
    rows = np.flatnonzero(wanted[assignments])
    clusters, chosen = assignments[rows], probabilities[rows]
    columns = [np.bincount(clusters, weights=column, minlength=len(wanted)) for column in chosen.T]
    return np.stack(columns, axis=1)


def _check_labels(name: str, values: npt.NDArray[np.integer], length: int, bound: int) -> None:
    if values.ndim != 1 or len(values) != length:
        raise expected(name, f"a vector of length {length}", f"shape {values.shape}", "Pass one value per image.")
    if len(values) and not (values.min() >= 0 and values.max() < bound):
        got = f"values from {values.min()} to {values.max()}"
        raise expected(name, f"in the range 0 to {bound - 1}", got, "Check that both sides count from 0.")
