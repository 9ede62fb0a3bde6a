"""Seeded k-means, Euclidean and spherical: pseudo-labels and DeepClusterV2 both stand on it.

The loop is here; the one costly step, the two nearest centroids of every row, is a matrix product and a selection.
torch does it by default and faiss on request. ``benchmarks/clustering.md`` has the measurements behind that choice: the
wheel of faiss brings a BLAS of 2021 that takes its slowest code path on newer processors and is four times slower
there; where it knows the processor, it is about a fifth faster. faiss's own ``Clustering`` is not used, because it
subsamples the rows unless it is told not to, splits empty clusters at random, and cannot take a cluster's size into
account, which is worth one to three per cent of inertia where clusters are small. So every row is always used, both
backends start from the same rows, and a cluster that loses its rows is refilled as scikit-learn does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .common.errors import expected, unknown
from .common.progress import Progress, progress

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Search = Callable[[Floats, int], tuple[Floats, Integers]]
"""From centroids and a count to squared distances (dot products where spherical) and indices, nearest first."""

Backend = Literal["torch", "faiss"]
EmptyRule = Literal["farthest", "keep"]

_CHUNK = 1 << 19  # floats of scratch memory per step: 2 MiB, which stay in a processor's second-level cache


@dataclass(frozen=True)
class KMeans:
    """What k-means found.

    Attributes:
        centroids: float32 ``[K, D]``, always finite; unit rows where the clustering is spherical.
        assignments: int64 ``[N]``, the nearest centroid of every row. With duplicate rows a cluster may stay empty.
        distances: float32 ``[N]``, distance to that centroid: Euclidean, or ``1 - cosine`` where spherical.
        inertia: Sum of squared Euclidean distances, or sum of ``1 - cosine`` where spherical.
        iterations: Lloyd steps that were made.
        converged: No assignment changed in the last step.
    """

    centroids: Floats
    assignments: Integers
    distances: Floats
    inertia: float
    iterations: int
    converged: bool


def kmeans(
    x: npt.ArrayLike,
    clusters: int,
    seed: int,
    iterations: int = 20,
    restarts: int = 1,
    spherical: bool = False,
    init: npt.ArrayLike | None = None,
    threads: int | None = None,
    backend: Backend = "torch",
    empty: EmptyRule = "farthest",
    transfers: bool | None = None,
) -> KMeans:
    """Clusters the rows of `x`; all rows take part in every step.

    It starts from `clusters` different rows drawn by `seed` (or from `init`) and stops when no assignment changes.
    The same call gives the same bits on the same machine with the same number of threads; matrix products are the only
    step whose rounding could depend on the number of threads.

    Args:
        x: float32 ``[N, D]``, finite. Rows are scaled to unit length first where `spherical`; an all-zero row stays.
        clusters: Number of clusters K, at most N.
        seed: Fixes the rows to start from, whatever the backend. Restart i depends on ``(seed, i)`` only.
        iterations: Largest number of steps; 0 assigns to the start and no more.
        restarts: Independent starts; the lowest inertia wins, the earlier one at equality.
        spherical: Assign by the largest dot product and scale centroids to unit length (DeepClusterV2).
        init: ``[K, D]`` centroids to start from in place of drawn rows.
        threads: Threads of the backend during this call; None leaves them as they are.
        backend: ``torch`` or ``faiss``. On macOS the wheels of the two crash the process where both are loaded.
        empty: What becomes of a cluster without rows. ``farthest``: it moves to the row that is farthest from its own
            centroid, as in scikit-learn. ``keep``: its centroid stays, as in the DeepClusterV2 reference.
        transfers: Whether cluster sizes count, see :func:`_transferred`. None: yes where Euclidean and without `init`;
            there plain Lloyd is what callers compare with.

    Returns:
        Centroids, assignments, distances and inertia; assignments and inertia belong to the returned centroids.

    Raises:
        UserError: An argument is out of range, `x` is not finite, or N < K.

    Source: Lloyd 1982; spherical: Dhillon and Modha 2001, as DeepClusterV2 (SwAV paper, appendix) uses it.
    """
    rows = _checked_rows(x, "x")
    _check_arguments(rows, clusters, seed, iterations, restarts, init is not None, empty)
    starts = None if init is None else _checked_init(init, clusters, rows.shape[1])
    if transfers and spherical:
        raise expected("transfers", "false where `spherical`", True, "Leave it out: there is no such rule for cosines.")
    sized = transfers if transfers is not None else not spherical and init is None
    shift, rows = _moved(rows, spherical)
    results: list[KMeans] = []
    with _search(rows, spherical, backend, threads) as search, progress("k-means", None, "iterations") as bar:
        bar.total = restarts * (iterations + 1)
        problem = _Problem(rows, search, iterations, spherical, empty, sized, bar)
        for restart in range(restarts):
            first = _draw(rows, clusters, seed, restart) if starts is None else starts - shift
            results.append(_solve(problem, _unit(first) if spherical else first))
    best = min(results, key=lambda result: result.inertia)  # the first one among equals
    return replace(best, centroids=best.centroids + shift)


@dataclass(frozen=True)
class _Problem:
    rows: Floats
    search: Search
    iterations: int
    spherical: bool
    empty: EmptyRule
    transfers: bool
    bar: Progress


def append_one_and_normalise(z: npt.ArrayLike) -> Floats:
    """Returns ``u = [z; 1] / ||[z; 1]||``: rows on the unit sphere that still know the length of `z`.

    Args:
        z: Features, ``[N, D]``, finite.

    Returns:
        float32 ``[N, D + 1]`` with unit rows.

    Raises:
        UserError: `z` is not a finite matrix.

    Source: SHOT (Liang et al. 2020), obtain_label; CluP clusters these rows.
    """
    rows = _checked_rows(z, "features")
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64) + 1.0)
    result = np.empty((rows.shape[0], rows.shape[1] + 1), np.float32)
    np.divide(rows, lengths[:, None], out=result[:, :-1], casting="same_kind")
    result[:, -1] = 1.0 / lengths
    return result


def _checked_rows(x: npt.ArrayLike, name: str) -> Floats:
    rows = np.ascontiguousarray(x, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise expected(name, "a matrix [rows, features]", f"shape {rows.shape}", "Pass one row of features per image.")
    with np.errstate(over="ignore", invalid="ignore"):  # one pass finds NaN, infinity and overflow alike
        bad = np.flatnonzero(~np.isfinite(np.einsum("nd,nd->n", rows, rows)))
    if bad.size:
        got = f"{bad.size} of {len(rows)} rows that are not, first row {bad[0]}"
        rule = "finite, with values whose squares fit into float32"
        raise expected(name, rule, got, "Check the model that made them: its weights or its input may be broken.")
    return rows


def _check_arguments(
    rows: Floats, clusters: int, seed: int, iterations: int, restarts: int, given: bool, empty: str
) -> None:
    if clusters < 1:
        raise expected("clusters", "at least 1", clusters, "Pass the number of clusters.")
    if len(rows) < clusters:
        rule = f"at most the number of rows, {len(rows)}"
        raise expected("clusters", rule, clusters, f"Pass clusters={max(len(rows), 1)} or fewer, or bring more images.")
    if seed < 0:
        raise expected("seed", "0 or more", seed, "Pass a whole number such as 0.")
    if iterations < 0:
        raise expected("iterations", "0 or more", iterations, "Pass a number such as 20.")
    if restarts < 1:
        raise expected("restarts", "at least 1", restarts, "Pass 1 or more.")
    if given and restarts > 1:
        raise expected("restarts", "1 where `init` is given", restarts, "All restarts would be the same; leave it out.")
    if empty not in ("farthest", "keep"):
        raise unknown("empty", empty, ["farthest", "keep"])


def _checked_init(init: npt.ArrayLike, clusters: int, features: int) -> Floats:
    starts = _checked_rows(init, "init")
    if starts.shape != (clusters, features):
        rule = f"of shape ({clusters}, {features}), one row per cluster"
        raise expected("init", rule, starts.shape, "Pass that many rows, or leave `init` out.")
    return starts


def _moved(rows: Floats, spherical: bool) -> tuple[Floats, Floats]:
    """Returns what was subtracted from every row, and the rows to cluster: unit rows where `spherical`.

    Euclidean rows move to their mean, because float32 distances lose their digits far from the origin.
    """
    if spherical:
        return np.zeros(rows.shape[1], np.float32), _unit(rows)
    shift = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    return shift, rows - shift


def _draw(rows: Floats, clusters: int, seed: int, restart: int) -> Floats:
    chosen = np.random.default_rng([seed, restart]).choice(len(rows), clusters, replace=False)
    return rows[chosen]


def _solve(problem: _Problem, centroids: Floats) -> KMeans:
    """Runs one start. With transfers the best step counts: rows that move at once can overshoot."""
    rows, neighbours = problem.rows, 2 if problem.transfers and len(centroids) > 1 else 1
    squares, nearest = problem.search(centroids, neighbours)
    members, converged, step = nearest[:, 0], False, 0
    best, lowest = (centroids, members), float("inf")
    problem.bar.advance()
    while step < problem.iterations and not converged:
        settled = members
        if problem.empty == "farthest":
            settled = _refilled(rows, centroids, members, problem.spherical)
        centroids = _means(rows, settled, centroids, problem.spherical)
        squares, nearest = problem.search(centroids, neighbours)
        before, members = members, nearest[:, 0]
        inertia = float(squares[:, 0].sum(dtype=np.float64))
        if not problem.transfers or inertia < lowest:
            best, lowest = (centroids, members), inertia
        if neighbours == 2:
            members = _transferred(settled, squares, nearest, len(centroids))
        converged = bool(np.array_equal(before, members))
        step += 1
        problem.bar.advance()
    problem.bar.advance(problem.iterations - step)
    centroids, assignments = best[0], np.ascontiguousarray(best[1])
    gaps = _gaps(rows, centroids, assignments, problem.spherical)
    distances = gaps if problem.spherical else np.sqrt(gaps)
    return KMeans(centroids, assignments, distances, float(gaps.sum(dtype=np.float64)), step, converged)


def _transferred(members: Integers, squares: Floats, nearest: Integers, clusters: int) -> Integers:
    """Moves every row to the better one of its two nearest clusters once sizes count; a cluster's only row stays.

    Lloyd's algorithm stops early where clusters are small: a row of a cluster of n pulls the centroid to itself, so
    its own centroid looks nearer than it is. Here a row changes from cluster a to b when that lowers the inertia with
    both centroids following, ``n_b / (n_b + 1) d_b^2 < n_a / (n_a - 1) d_a^2`` (Hartigan's rule, all rows at once). On
    features of 30 rows a cluster this ends 1 to 2 % below the best of ten k-means++ starts of scikit-learn, without
    that costly start.

    Source: Hartigan and Wong 1979; Telgarsky and Vattani 2010.
    """
    counts = np.bincount(members, minlength=clusters).astype(np.float32)
    own = nearest == members[:, None]
    size = counts[nearest]
    weights = np.where(own, size / np.maximum(size - 1, 1), size / (size + 1))
    costs = np.maximum(squares, 0) * weights
    return np.take_along_axis(nearest, costs.argmin(axis=1)[:, None], axis=1)[:, 0]


def _means(rows: Floats, members: Integers, previous: Floats, spherical: bool) -> Floats:
    """Returns the mean (or mean direction) of every cluster; one without rows keeps its previous centroid."""
    from scipy.sparse import csr_matrix

    clusters = len(previous)
    counts = np.bincount(members, minlength=clusters)
    order = np.argsort(members, kind="stable")
    picks = csr_matrix(
        (np.ones(len(rows), np.float32), order, np.concatenate([[0], np.cumsum(counts)])), shape=(clusters, len(rows))
    )
    sums: Floats = picks @ rows
    scale = np.sqrt(np.einsum("kd,kd->k", sums, sums)) if spherical else counts.astype(np.float32)
    # directions that cancel out have a sum of rounding errors: no direction at all
    usable = scale > (1e-6 * counts if spherical else 0)
    result = previous.copy()
    result[usable] = sums[usable] / scale[usable, None]
    return result


def _refilled(rows: Floats, centroids: Floats, assignments: Integers, spherical: bool) -> Integers:
    """Gives every empty cluster the row farthest from its own centroid, never the last row of another cluster."""
    counts = np.bincount(assignments, minlength=len(centroids))
    empty = np.flatnonzero(counts == 0)
    if not empty.size:
        return assignments
    gaps = _gaps(rows, centroids, assignments, spherical)
    result, filled = assignments.copy(), 0
    for row in np.argsort(-gaps, kind="stable"):
        if counts[assignments[row]] > 1:
            counts[assignments[row]] -= 1
            result[row] = empty[filled]
            filled += 1
            if filled == empty.size:
                break
    return result


def _gaps(rows: Floats, centroids: Floats, assignments: Integers, spherical: bool) -> Floats:
    """Returns what k-means minimises, per row: squared distance, or ``1 - cosine``; by subtraction, so exact at 0."""
    result = np.empty(len(rows), np.float32)
    size = max(1, _CHUNK // rows.shape[1])
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        difference = rows[part] - centroids[assignments[part]]
        np.einsum("nd,nd->n", difference, difference, out=result[part])
    if spherical:  # |u - c|^2 = 2 - 2 u.c for unit vectors; for zero vectors the cosine counts as 0
        whole = (np.einsum("nd,nd->n", rows, rows) > 0) & (np.einsum("kd,kd->k", centroids, centroids) > 0)[assignments]
        result = np.where(whole, result / 2, np.float32(1)).astype(np.float32)
    return result


def _unit(rows: Floats) -> Floats:
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    return (rows / np.where(lengths > 0, lengths, 1.0)[:, None]).astype(np.float32)


@contextmanager
def _search(rows: Floats, spherical: bool, backend: Backend, threads: int | None) -> Iterator[Search]:
    """Yields the search for the nearest centroids of every row; threads are as before afterwards."""
    if threads is not None and threads < 1:
        raise expected("threads", "at least 1", threads, "Pass 1 or more, or leave it out.")
    if backend not in ("torch", "faiss"):
        raise unknown("backend", backend, ["torch", "faiss"])
    if backend == "torch":
        import torch

        before, change = torch.get_num_threads(), torch.set_num_threads
        search = _torch_search(rows, spherical)
    else:
        faiss = _faiss()
        before, change = faiss.omp_get_max_threads(), faiss.omp_set_num_threads
        search = _faiss_search(faiss, rows, spherical)
    if threads is not None:
        change(threads)
    try:
        yield search
    finally:
        if threads is not None:
            change(before)


def _torch_search(rows: Floats, spherical: bool) -> Search:
    import torch

    x = torch.from_numpy(rows)
    lengths = (x * x).sum(1, keepdim=True)

    def search(centroids: Floats, count: int) -> tuple[Floats, Integers]:
        c = torch.from_numpy(centroids)
        # the nearest centroid has the largest x.c - |c|^2 / 2, because |x|^2 is the same for all of them
        half = torch.zeros(len(c)) if spherical else (c * c).sum(1) / 2
        values, nearest = torch.empty(len(x), count), torch.empty(len(x), count, dtype=torch.long)
        size = max(1, _CHUNK // len(c))
        for part, *found in zip(x.split(size), values.split(size), nearest.split(size), strict=True):
            torch.topk(torch.addmm(half, part, c.T, beta=-1), count, dim=1, out=tuple(found))
        return (values if spherical else lengths - 2 * values).numpy(), nearest.numpy()

    return search


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise expected("backend", "installed", "faiss", "Run pip install faiss-cpu, or leave it out.") from error
    return faiss


def _faiss_search(faiss: Any, rows: Floats, spherical: bool) -> Search:
    metric = faiss.METRIC_INNER_PRODUCT if spherical else faiss.METRIC_L2

    def search(centroids: Floats, count: int) -> tuple[Floats, Integers]:
        squares, nearest = faiss.knn(rows, centroids, count, metric=metric)
        return squares, nearest

    return search
