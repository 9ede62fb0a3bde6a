"""k-means against scikit-learn with n_init 10: inertia first, then time.

Run: python benchmarks/clustering.py [--starts 10] [--quick] [--output benchmarks/clustering.md]

scikit-learn's ``KMeans(n_init=10)`` is ten k-means++ starts of which the best counts. They are run one by one here
(``--starts``), each after one run of Ferry's k-means with another seed, in one process with the same threads. With
fewer than ten starts the time of ten is ten times the mean, and the inertia is that of the best start so far.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
import warnings
from pathlib import Path

import faiss
import numpy as np
import sklearn
from ferry.clustering import KMeans, append_one_and_normalise, kmeans
from sklearn.cluster import KMeans as Peer
from threadpoolctl import threadpool_limits


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} logical cores)" if names else platform.processor()


def features(n: int, structured: bool, seed: int = 0) -> np.ndarray:
    """ReLU features with 24 latent factors around 7 class centres plus noise, or plain Gaussian noise; unit rows."""
    rng = np.random.default_rng(seed)
    if not structured:
        return append_one_and_normalise(rng.standard_normal((n, 512)))
    latent = rng.standard_normal((7, 24))[rng.integers(0, 7, n)] + rng.standard_normal((n, 24))
    return append_one_and_normalise(
        np.maximum(latent @ rng.standard_normal((24, 512)) + rng.standard_normal((n, 512)), 0)
    )


def check_equality(x: np.ndarray, clusters: int, threads: int) -> float:
    """Plain Lloyd from one start must reach scikit-learn's inertia; returns the relative difference."""
    part = x[:4000]
    start = part[np.random.default_rng(0).choice(len(part), min(clusters, 140), replace=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ten steps need not converge
        peer = Peer(len(start), init=start, n_init=1, max_iter=10, tol=0).fit(part)
    ours = kmeans(part, len(start), 0, iterations=10, init=start, threads=threads)
    difference = abs(ours.inertia / peer.inertia_ - 1)
    if difference > 1e-3:
        raise SystemExit(f"From the same start the inertias differ by {difference:.2%}: the work is not the same.")
    return difference


class Clock:
    """Wall and CPU seconds of a block."""

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu


def compare(x: np.ndarray, clusters: int, starts: int, threads: int) -> list[str]:
    """Runs the pairs and returns the rows of the table."""
    ours, theirs, results, peers = [], [], [], []
    for seed in range(starts):
        with Clock() as clock:
            results.append(kmeans(x, clusters, seed, threads=threads))
        ours.append(clock)
        with Clock() as clock:
            peers.append(Peer(clusters, n_init=1, random_state=seed).fit(x).inertia_)
        theirs.append(clock)
        print(f"start {seed}: {ours[-1].wall:.1f} s, scikit-learn {theirs[-1].wall:.1f} s", flush=True)
    wall, cpu = (10 * statistics.mean(getattr(c, kind) for c in theirs) for kind in ("wall", "cpu"))
    walls, cpus = ([getattr(c, kind) for c in ours] for kind in ("wall", "cpu"))
    how = "measured" if starts == 10 else f"10 x the mean of {starts}"
    return [
        "| | wall s | CPU s | inertia | against the best of scikit-learn |",
        "|---|---|---|---|---|",
        f"| scikit-learn, n_init 10 ({how}) | {wall:.0f} | {cpu:.0f} | {min(peers):.2f} (worst {max(peers):.2f}) | |",
        f"| Ferry, 1 start, 20 steps, median of {starts} seeds | {statistics.median(walls):.2f} | "
        f"{statistics.median(cpus):.2f} | {inertia_range(results)} | {gaps(results, min(peers))} |",
        "",
        f"Ratio of times: **{wall / statistics.median(walls):.0f}** wall (slowest run {wall / max(walls):.0f}), "
        f"{cpu / statistics.median(cpus):.0f} CPU.",
    ]


def inertia_range(results: list[KMeans]) -> str:
    values = [result.inertia for result in results]
    return f"{min(values):.2f} to {max(values):.2f}"


def gaps(results: list[KMeans], best: float) -> str:
    values = [100 * (result.inertia / best - 1) for result in results]
    return f"{min(values):+.2f} % to {max(values):+.2f} %"


def determinism(x: np.ndarray, clusters: int) -> str:
    one, two, again = (kmeans(x, clusters, 0, iterations=5, threads=t) for t in (1, 2, 2))
    same = np.array_equal(two.centroids, again.centroids)
    across = np.array_equal(one.centroids, two.centroids)
    words = {True: "the same bits", False: "DIFFERENT bits"}
    return f"The same seed gives {words[same]} again and {words[across]} with 1 and 2 threads (5 steps)."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=1, help="k-means++ starts of scikit-learn to run, up to 10")
    parser.add_argument("--quick", action="store_true", help="4,000 rows, 140 clusters, ten starts")
    parser.add_argument("--unstructured", action="store_true", help="plain noise in place of feature-like rows")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, help="also write the Markdown to this file")
    arguments = parser.parse_args()
    n, clusters, starts = (4000, 140, 10) if arguments.quick else (28_709, 1000, min(max(arguments.starts, 1), 10))
    x = features(n, not arguments.unstructured)
    with threadpool_limits(arguments.threads):
        difference = check_equality(x, clusters, arguments.threads)
        before = os.getloadavg()[0]
        rows = compare(x, clusters, starts, arguments.threads)
    kind = "plain noise" if arguments.unstructured else "feature-like rows (ReLU, 24 latent factors, noise)"
    lines = [
        "# k-means against scikit-learn",
        "",
        f"{cpu_name()}, {arguments.threads} threads, faiss {faiss.__version__}, scikit-learn {sklearn.__version__}, "
        f"numpy {np.__version__}, Python {platform.python_version()}; load average {before:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after.",
        f"{n:,} x {x.shape[1]}, K = {clusters}, {kind}. Plain Lloyd from one start agrees with scikit-learn's inertia "
        f"to {difference:.1e}. {determinism(x, clusters)}",
        "",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
