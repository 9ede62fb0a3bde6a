"""From the teacher's outputs to pseudo-labels: cluster, count, rank, keep."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..clustering import KMeans, append_one_and_normalise, kmeans
from ..common.errors import expected
from ..faces.pseudo_labels import Columns, PseudoLabels
from .config import DEFAULT_KEEP, LabellingConfig, default_clusters
from .purity import ClusterPurity, cluster_purity, smoothed_purity
from .quota import class_quota
from .summary import summarise

logger = logging.getLogger("ferry")


@dataclass(frozen=True)
class LabelledClusters:
    """Pseudo-labels as arrays, with what the clusters said."""

    columns: Columns
    clusters: ClusterPurity


def pseudo_labels(
    logits: npt.ArrayLike,
    features: npt.ArrayLike,
    keys: Sequence[str],
    classes: Sequence[str],
    config: LabellingConfig | None = None,
) -> PseudoLabels:
    """Makes pseudo-labels from what a teacher says about unlabelled images.

    k-means on ``[z; 1] / ||[z; 1]||``; the majority of the teacher's labels in each cluster becomes the label of its
    images, the cluster's (smoothed) purity their score; the best fraction r of every pseudo-class is kept. Labels are
    made once. The images are taken in the order of their keys (unless ``ties="order"``), so the same images get the
    same labels in whatever order they come. The teacher is the source model, or one made from it as AdaBN is.

    Args:
        logits: Outputs of the teacher in evaluation mode, ``[N, C]``; see :func:`ferry.labelling.teacher_outputs`.
        features: What its head sees, ``[N, D]``; logits serve where a model shows nothing else.
        keys: Unique key of every image, in the same order.
        classes: The C class names in the order of the logits.
        config: The switches; None is the recommended ones.

    Returns:
        Labels in the order of `keys`, with a summary.

    Raises:
        UserError: The inputs do not fit together, are not finite, or no image would be kept.

    Source: CluP (Conti et al. 2022), stage 1; switches of the released code by :meth:`LabellingConfig.as_released`.
    """
    config = config or LabellingConfig()
    names = tuple(classes)
    scores, rows = _checked(logits, features, keys, names)
    n_clusters = config.clusters or default_clusters(len(rows), len(names))
    order = np.arange(len(keys))
    if config.ties != "order":
        order = np.array(sorted(range(len(keys)), key=lambda row: keys[row]), np.int64)
    found = kmeans(
        append_one_and_normalise(rows[order]),
        n_clusters,
        config.seed,
        config.iterations,
        config.restarts,
        transfers=config.transfers,
    )
    sorted_keys = [keys[row] for row in order.tolist()]
    labelled = label_from_clusters(scores[order], found, sorted_keys, config)
    if not labelled.columns.kept.any():
        fix = "Pass a larger fraction, quota=round_at_least_one, or bring more images."
        raise expected("keep", "large enough to keep at least one image", config.keep or DEFAULT_KEEP, fix)
    summary = summarise(labelled.columns, labelled.clusters, found, names, config)
    for name, why in summary["lost_classes"].items():
        logger.warning("No image keeps the pseudo-label %r: %s. Training on these labels unlearns it.", name, why)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return PseudoLabels(tuple(keys), labelled.columns.take(back), names, summary, asdict(config))


def label_from_clusters(
    logits: npt.NDArray[np.floating], found: KMeans, keys: Sequence[str], config: LabellingConfig
) -> LabelledClusters:
    """Labels, ranks and selects images whose clusters are known.

    Args:
        logits: ``[N, C]``, finite.
        found: The clustering of the same N images.
        keys: Their keys; the last word among equal scores.
        config: The switches.

    Returns:
        The columns of the table, and histogram, majority and raw purity per cluster.
    """
    n_clusters, n_classes = len(found.centroids), logits.shape[1]
    probabilities = _softmax(logits)
    teacher = logits.argmax(axis=1).astype(np.int64)
    confidence = probabilities.max(axis=1).astype(np.float32)
    clusters = cluster_purity(
        found.assignments,
        teacher,
        n_clusters,
        n_classes,
        probabilities=probabilities if config.majority_ties == "probability" else None,
    )
    raw = clusters.purity.astype(np.float32)[found.assignments]
    if config.score == "purity":
        label = clusters.majority[found.assignments]
        sizes = clusters.histogram.sum(axis=1)
        score = smoothed_purity(clusters.histogram, config.smoothing).astype(np.float32)[found.assignments]
        eligible = (sizes >= config.min_cluster_size)[found.assignments]
        if config.drop_outliers:
            eligible &= label == teacher
    else:
        label, score, eligible = teacher, confidence, np.ones(len(teacher), bool)
    kept = class_quota(
        label,
        score,
        config.keep or DEFAULT_KEEP,
        n_classes,
        quota=config.quota,
        tie_breakers={"source_confidence": [confidence], "distance": [-found.distances], "order": []}[config.ties],
        keys=None if config.ties == "order" else keys,
        eligible=eligible,
    )
    distances = found.distances.astype(np.float32)
    columns = Columns(label, score, found.assignments, raw, confidence, distances, kept, teacher)
    return LabelledClusters(columns, clusters)


def _softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    columns = np.ascontiguousarray(logits.T, np.float64)  # [C, N]: reductions over few classes run along memory
    columns -= columns.max(axis=0)
    np.exp(columns, out=columns)
    columns /= columns.sum(axis=0)
    return columns.T


def _checked(
    logits: npt.ArrayLike, features: npt.ArrayLike, keys: Sequence[str], classes: tuple[str, ...]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    if not len(keys):
        raise expected("keys", "at least one image", "none", "Check the path and the split of the target faces.")
    if len(set(keys)) != len(keys):
        raise expected("keys", "unique", f"{len(keys) - len(set(keys))} repeated ones", "Give every image its own key.")
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise expected("classes", "at least two different names", list(classes), "Pass the source model's classes.")
    checked: list[npt.NDArray[np.float32]] = []
    for name, given in (("logits", logits), ("features", features)):
        values: npt.NDArray[Any] = np.asarray(given)
        if values.ndim != 2 or len(values) != len(keys) or values.shape[1] == 0:
            rule = f"a matrix with one row for each of {len(keys)} keys"
            raise expected(name, rule, f"shape {values.shape}", "Pass the outputs for exactly these images, in order.")
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            got = f"{bad.size} of {len(keys)} rows with NaN or infinity, first key {keys[int(bad[0])]!r}"
            raise expected(name, "finite", got, "The source model is broken or its input scaling is wrong; check both.")
        checked.append(np.ascontiguousarray(values, np.float32))
    if checked[0].shape[1] != len(classes):
        rule = f"of {len(classes)} columns, one per class"
        raise expected("logits", rule, checked[0].shape[1], "Pass the class names of this very source model.")
    return checked[0], checked[1]
