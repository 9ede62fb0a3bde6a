"""What people should know about a set of pseudo-labels, as JSON-like numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..clustering import KMeans
from ..faces.pseudo_labels import Columns
from .config import DEFAULT_KEEP, LabellingConfig
from .purity import ClusterPurity

_EDGES = np.linspace(0, 1, 21)


def summarise(
    columns: Columns, clusters: ClusterPurity, found: KMeans, classes: Sequence[str], config: LabellingConfig
) -> dict[str, Any]:
    """Counts what was labelled and kept.

    Args:
        columns: The table.
        clusters: Histogram, majority and raw purity per cluster.
        found: The clustering.
        classes: Class names.
        config: The switches.

    Returns:
        ``images``, ``kept``, ``score``; ``per_class``: by name ``teacher`` (images that the teacher gives the
        class), ``clusters`` (with that majority), ``labelled``, ``kept`` and ``threshold`` (tau_c, the lowest kept
        score, or None); ``lost_classes``: name to reason; ``clusters``: K, the rule that gave it, sizes, inertia,
        iterations; ``keep``: r and its rule; ``purity``: means and a histogram; ``agreement``: share of images whose
        own label, the teacher's, is their cluster's majority; ``mean_confidence``.
    """
    sizes = clusters.histogram.sum(axis=1)
    per_class = {name: _of_class(label, columns, clusters) for label, name in enumerate(classes)}
    filled = sizes > 0
    return {
        "images": len(columns.label),
        "kept": int(columns.kept.sum()),
        "score": config.score,
        "per_class": per_class,
        "lost_classes": {name: _why(row, config) for name, row in per_class.items() if not row["kept"]},
        "clusters": {
            "k": len(sizes),
            "rule": "given" if config.clusters else "default_clusters",
            "sizes": {
                "min": int(sizes[filled].min()),
                "median": float(np.median(sizes[filled])),
                "mean": float(sizes[filled].mean()),
                "max": int(sizes.max()),
            },
            "empty": int((~filled).sum()),
            "inertia": found.inertia,
            "iterations": found.iterations,
            "converged": found.converged,
        },
        "keep": {"r": config.keep or DEFAULT_KEEP, "rule": "given" if config.keep else "default"},
        "purity": {
            "mean_over_images": float(columns.purity.mean(dtype=np.float64)),
            "mean_over_clusters": float(clusters.purity[filled].mean()),
            "min": float(clusters.purity[filled].min()),
            "edges": [round(float(edge), 2) for edge in _EDGES],
            "clusters": _counts(clusters.purity[filled]),
            "images": _counts(columns.purity),
        },
        "agreement": float((clusters.majority[columns.cluster] == columns.teacher).mean()),
        "mean_confidence": float(columns.confidence.mean(dtype=np.float64)),
    }


def _of_class(label: int, columns: Columns, clusters: ClusterPurity) -> dict[str, Any]:
    chosen = columns.kept & (columns.label == label)
    return {
        "teacher": int((columns.teacher == label).sum()),
        "clusters": int((clusters.majority == label).sum()),
        "labelled": int((columns.label == label).sum()),
        "kept": int(chosen.sum()),
        "threshold": float(columns.score[chosen].min()) if chosen.any() else None,
    }


def _why(row: dict[str, Any], config: LabellingConfig) -> str:
    if not row["teacher"]:
        return "the teacher gives it to no image"
    if not row["labelled"]:
        return f"it is the majority of no cluster, though the teacher gives it to {row['teacher']} images"
    switches = f"keep={config.keep or DEFAULT_KEEP}, quota={config.quota}, min_cluster_size={config.min_cluster_size}"
    return f"none of its {row['labelled']} images passes the selection ({switches})"


def _counts(purity: npt.NDArray[np.floating]) -> list[int]:
    # float32 1.0000001 must not fall out of the last bin
    counts: list[int] = np.histogram(np.clip(purity, 0, 1), bins=_EDGES)[0].tolist()
    return counts
