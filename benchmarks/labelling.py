"""Purity, labels and class-wise quotas after k-means: equality with a plain loop first, then time.

Run: OMP_NUM_THREADS=1 python benchmarks/labelling.py [--rounds 50] [--output benchmarks/labelling.md]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ferry.clustering import KMeans
from ferry.faces.pseudo_labels import Columns
from ferry.labelling import LabellingConfig, class_quota, cluster_purity, label_from_clusters
from machine import cpu_name

IMAGES, CLUSTERS, CLASSES = 28_709, 1000, 7


def example(seed: int = 0) -> tuple[np.ndarray, KMeans, list[str]]:
    """Logits that follow the clusters in part, a clustering with uneven sizes, and keys in random order."""
    rng = np.random.default_rng(seed)
    clusters = rng.choice(CLUSTERS, IMAGES, p=rng.dirichlet(np.full(CLUSTERS, 3.0)))
    logits = (rng.standard_normal((CLUSTERS, CLASSES)) * 2)[clusters] + rng.standard_normal((IMAGES, CLASSES)) * 1.5
    distances = rng.random(IMAGES).astype(np.float32)
    found = KMeans(np.zeros((CLUSTERS, 2), np.float32), clusters.astype(np.int64), distances, 0.0, 20, True)
    return logits.astype(np.float32), found, [f"faces/{i:06d}.png" for i in rng.permutation(IMAGES)]


def plain_loop(logits: np.ndarray, found: KMeans, keys: list[str], keep: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels and kept images with one pass per cluster and a full sort per class, as one would write them down."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    confidence = probabilities.max(1).astype(np.float32)
    teacher = logits.argmax(1)
    label, score = np.zeros(len(keys), np.int64), np.zeros(len(keys), np.float32)
    for cluster in range(CLUSTERS):
        rows = [i for i in range(len(keys)) if found.assignments[i] == cluster]
        if not rows:
            continue
        votes = [sum(1 for i in rows if teacher[i] == name) for name in range(CLASSES)]
        sums = probabilities[rows].sum(0)
        winner = max(range(CLASSES), key=lambda name: (votes[name], sums[name], -name))
        label[rows], score[rows] = winner, (votes[winner] + 1) / (len(rows) + CLASSES)
    kept = np.zeros(len(keys), bool)
    for name in range(CLASSES):
        rows = [i for i in range(len(keys)) if label[i] == name]
        rows.sort(key=lambda i: (-score[i], -confidence[i], keys[i]))
        kept[rows[: max(min(1, len(rows)), int(keep * len(rows) + 0.5))]] = True
    return label, kept


def milliseconds(call: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Median wall time, best wall time and median CPU time."""
    walls, cpus = [], []
    for _ in range(rounds + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        cpus.append(1e3 * (time.process_time() - cpu))
        walls.append(1e3 * (time.perf_counter() - wall))
    return statistics.median(walls[1:]), min(walls[1:]), statistics.median(cpus[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--output", type=Path, help="also write the Markdown to this file")
    arguments = parser.parse_args()
    logits, found, keys = example()
    config = LabellingConfig()
    start = time.perf_counter()
    label, kept = plain_loop(logits, found, keys, 0.5)
    loop = time.perf_counter() - start
    columns: Columns = label_from_clusters(logits, found, keys, config).columns
    if not (np.array_equal(columns.label, label) and np.array_equal(columns.kept, kept)):
        raise SystemExit("The plain loop finds other labels: speeds would not compare equal work.")
    steps = {
        "cluster_purity": lambda: cluster_purity(found.assignments, columns.teacher, CLUSTERS, CLASSES),
        "class_quota, ties by confidence and key": lambda: class_quota(
            columns.label, columns.score, 0.5, CLASSES, tie_breakers=[columns.confidence], keys=keys
        ),
        "**all: softmax, purity, labels, quota**": lambda: label_from_clusters(logits, found, keys, config),
    }
    lines = [
        "# Purity and labels",
        "",
        f"{cpu_name()}, 1 thread, numpy {np.__version__}, Python {platform.python_version()}; "
        f"load average {os.getloadavg()[0]:.1f}.",
        f"{IMAGES:,} images, {CLUSTERS} clusters, {CLASSES} classes, {arguments.rounds} rounds. Labels and kept images "
        f"equal those of a plain loop, which takes {loop:.1f} s.",
        "",
        "| step | wall ms, median | wall ms, best | CPU ms, median |",
        "|---|---|---|---|",
    ]
    for name, call in steps.items():
        lines.append(
            f"| {name} | " + " | ".join(f"{value:.2f}" for value in milliseconds(call, arguments.rounds)) + " |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
