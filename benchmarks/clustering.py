"""k-means against scikit-learn with n_init 10 and against faiss's own: inertia first, then time.

Run: OMP_NUM_THREADS=1 python benchmarks/clustering.py [--starts 10] [--quick] [--output benchmarks/clustering.md]

scikit-learn's ``KMeans(n_init=10)`` is ten k-means++ starts of which the best counts. They are run one by one here
(``--starts``), each after one run of Ferry's k-means with another seed, in one process with the same threads. With
fewer than ten starts the time of ten is ten times the mean, and the inertia is that of the best start so far.
``faiss.Kmeans`` makes the same 20 steps on all rows, and Ferry's also runs on faiss's search, both for up to three
seeds. Which kernels the BLAS of faiss uses on a processor decides its time: ``OPENBLAS_CORETYPE=SkylakeX`` in front of
the command (on a processor with AVX-512) changes it, and ``--append`` adds that table to the file.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import sklearn
import torch
from ferry.clustering import append_one_and_normalise, kmeans
from machine import cpu_name
from sklearn.cluster import KMeans as Peer
from threadpoolctl import threadpool_info, threadpool_limits


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


def with_faiss(x: np.ndarray, clusters: int, seed: int) -> float:
    """Twenty steps of faiss's own k-means on all rows, and its inertia with every row at its nearest centroid."""
    peer = faiss.Kmeans(
        x.shape[1], clusters, niter=20, nredo=1, seed=seed, min_points_per_centroid=1, max_points_per_centroid=len(x)
    )
    peer.train(x)
    return float(peer.index.search(x, 1)[0].sum(dtype=np.float64))


def compare(x: np.ndarray, clusters: int, starts: int, threads: int) -> list[str]:
    """Runs the sides in turn and returns the rows of the table."""
    faiss.omp_set_num_threads(threads)
    calls: dict[str, Callable[[int], float]] = {
        "Ferry": lambda seed: kmeans(x, clusters, seed, threads=threads).inertia,
        "scikit-learn": lambda seed: float(Peer(clusters, n_init=1, random_state=seed).fit(x).inertia_),
        "faiss.Kmeans": lambda seed: with_faiss(x, clusters, seed),
        "Ferry on faiss": lambda seed: kmeans(x, clusters, seed, threads=threads, backend="faiss").inertia,
    }
    clocks: dict[str, list[Clock]] = {name: [] for name in calls}
    inertias: dict[str, list[float]] = {name: [] for name in calls}
    for seed in range(starts):
        for name, call in calls.items():
            if "faiss" in name and seed >= 3:
                continue
            with Clock() as clock:
                inertias[name].append(call(seed))
            clocks[name].append(clock)
            print(f"seed {seed}: {name} {clock.cpu:.1f} CPU s, inertia {inertias[name][-1]:.2f}", flush=True)
    best = min(inertias["scikit-learn"])
    wall, cpu = (10 * statistics.mean(getattr(c, kind) for c in clocks["scikit-learn"]) for kind in ("wall", "cpu"))
    how = "measured" if starts == 10 else f"10 x the mean of {starts}"
    lines = [
        "| | wall s | CPU s | inertia | against the best of scikit-learn | CPU time of scikit-learn / this |",
        "|---|---|---|---|---|---|",
        f"| scikit-learn, n_init 10 ({how}) | {wall:.0f} | {cpu:.0f} | {best:.2f} "
        f"(worst start {max(inertias['scikit-learn']):.2f}) | | |",
    ]
    for name in ("Ferry", "Ferry on faiss", "faiss.Kmeans"):
        walls, cpus = ([getattr(c, kind) for c in clocks[name]] for kind in ("wall", "cpu"))
        values = inertias[name]
        lines.append(
            f"| {name}, 1 start, 20 steps, median of {len(values)} seeds | {statistics.median(walls):.2f} | "
            f"{statistics.median(cpus):.2f} | {min(values):.2f} to {max(values):.2f} | {gaps(values, best)} | "
            f"**{cpu / statistics.median(cpus):.0f}** (slowest seed {cpu / max(cpus):.0f}) |"
        )
    return lines


def gaps(inertias: list[float], best: float) -> str:
    values = [100 * (inertia / best - 1) for inertia in inertias]
    return f"{min(values):+.2f} % to {max(values):+.2f} %"


def kernels() -> str:
    """Which code path each BLAS took on this processor."""
    found = {
        ("faiss" if "faiss" in entry["filepath"] else "scipy" if "scipy.libs" in entry["filepath"] else "numpy"): entry
        for entry in threadpool_info()
        if entry["internal_api"] == "openblas"
    }
    return ", ".join(f"{name} {one['version']} {one['architecture']}" for name, one in sorted(found.items()))


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
    parser.add_argument("--append", action="store_true", help="add to that file")
    arguments = parser.parse_args()
    n, clusters, starts = (4000, 140, 10) if arguments.quick else (28_709, 1000, min(max(arguments.starts, 1), 10))
    x = features(n, not arguments.unstructured)
    with threadpool_limits(arguments.threads):
        difference = check_equality(x, clusters, arguments.threads)
        before = os.getloadavg()[0]
        rows = compare(x, clusters, starts, arguments.threads)
    kind = "plain noise" if arguments.unstructured else "feature-like rows (ReLU, 24 latent factors, noise)"
    lines = [
        "## The same with other kernels" if arguments.append else "# k-means against scikit-learn",
        "",
        f"{cpu_name()}, {arguments.threads} thread(s), torch {torch.__version__}, faiss {faiss.__version__}, "
        f"scikit-learn {sklearn.__version__}, numpy {np.__version__}, Python {platform.python_version()}; load average "
        f"{before:.1f} before and {os.getloadavg()[0]:.1f} after. OpenBLAS kernels: {kernels()}"
        + (f" (OPENBLAS_CORETYPE={core})." if (core := os.environ.get("OPENBLAS_CORETYPE")) else "."),
        f"{n:,} x {x.shape[1]}, K = {clusters}, {kind}. Plain Lloyd from one start agrees with scikit-learn's inertia "
        f"to {difference:.1e}. {determinism(x, clusters)}",
        "",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        kept = arguments.output.read_text("utf-8") + "\n" if arguments.append else ""
        arguments.output.write_text(kept + text, "utf-8")


if __name__ == "__main__":
    main()
