"""k-means against scikit-learn and faiss, by invariants, and on degenerate input."""

import sys
import warnings
from itertools import pairwise

import faiss
import numpy as np
import pytest
import sklearn.cluster
import torch
from ferry import clustering
from ferry.clustering import append_one_and_normalise, kmeans
from ferry.common.errors import UserError

BACKENDS = ["torch", "faiss"]


def blobs(n=400, clusters=6, features=8, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, features)) * 20 + offset
    labels = np.arange(n) % clusters
    return (centres[labels] + rng.standard_normal((n, features))).astype(np.float32), labels


def noise(n=1200, features=12, seed=0):
    return np.random.default_rng(seed).standard_normal((n, features)).astype(np.float32)


def same_partition(a, b):
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def drawn(x, clusters, seed=0):
    return x[np.random.default_rng(seed).choice(len(x), clusters, replace=False)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_start_and_steps_as_scikit_learn_give_its_labels_on_separated_blobs(backend):
    x, truth = blobs()
    start = x[[0, 1, 2, 3, 4, 5]]  # one row of every blob
    peer = sklearn.cluster.KMeans(6, init=start, n_init=1, max_iter=10, tol=0).fit(x)
    found = kmeans(x, 6, seed=0, iterations=10, init=start, backend=backend)
    np.testing.assert_array_equal(found.assignments, peer.labels_)
    np.testing.assert_allclose(found.centroids, peer.cluster_centers_, rtol=1e-5, atol=1e-5)
    assert found.inertia == pytest.approx(peer.inertia_, rel=1e-5)
    assert same_partition(found.assignments, truth)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("steps", [1, 3, 40])
def test_same_start_and_steps_as_scikit_learn_give_its_inertia_without_structure(backend, steps):
    x = noise()
    start = drawn(x, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it did not converge, which is the point
        peer = sklearn.cluster.KMeans(40, init=start, n_init=1, max_iter=steps, tol=0).fit(x)
    found = kmeans(x, 40, seed=0, iterations=steps, init=start, backend=backend)
    assert found.inertia == pytest.approx(peer.inertia_, rel=1e-3)
    assert (found.assignments == peer.labels_).mean() > 0.99


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_start_and_steps_as_faiss_give_its_inertia(backend):
    x = noise()
    start = drawn(x, 40)
    peer = faiss.Kmeans(12, 40, niter=5, min_points_per_centroid=1, max_points_per_centroid=10**6)
    peer.train(x, init_centroids=start)
    squares, nearest = peer.index.search(x, 1)
    found = kmeans(x, 40, seed=0, iterations=5, init=start, backend=backend)
    assert found.inertia == pytest.approx(float(squares.sum()), rel=1e-3)
    assert (found.assignments == nearest[:, 0]).mean() > 0.99


@pytest.mark.parametrize("features", [6, 48])
def test_transfers_are_not_worse_than_ten_starts_of_scikit_learn(features):
    x = noise(600, features)
    peer = sklearn.cluster.KMeans(30, n_init=10, random_state=0).fit(x)
    assert kmeans(x, 30, seed=0, iterations=30).inertia <= peer.inertia_ * 1.001


def test_transfers_lower_the_inertia_of_small_clusters_below_lloyds():
    x = noise(600, 24)
    for seed in range(3):
        plain = kmeans(x, 40, seed=seed, iterations=40, transfers=False)
        assert kmeans(x, 40, seed=seed, iterations=40).inertia < 0.99 * plain.inertia


def test_no_single_transfer_helps_where_transfers_converged():
    x = noise(80, 3)
    found = kmeans(x, 6, seed=1, iterations=200)
    assert found.converged
    squares = ((x[:, None] - found.centroids) ** 2).sum(2)
    counts = np.bincount(found.assignments, minlength=6)
    rows = np.arange(len(x))
    own = squares[rows, found.assignments] * counts[found.assignments] / (counts[found.assignments] - 1)
    squares[rows, found.assignments] = np.inf
    nearest_other = squares.argmin(1)
    other = squares[rows, nearest_other] * counts[nearest_other] / (counts[nearest_other] + 1)
    assert (own <= other + 1e-5).all()


@pytest.mark.parametrize("spherical", [False, True])
def test_backends_agree(spherical):
    x = noise()
    a = kmeans(x, 25, seed=3, spherical=spherical, backend="faiss")
    b = kmeans(x, 25, seed=3, spherical=spherical, backend="torch")
    assert a.inertia == pytest.approx(b.inertia, rel=1e-3)
    separated, _ = blobs()
    start = separated[:6]
    a = kmeans(separated, 6, seed=3, spherical=spherical, init=start, backend="faiss")
    b = kmeans(separated, 6, seed=3, spherical=spherical, init=start, backend="torch")
    np.testing.assert_array_equal(a.assignments, b.assignments)
    np.testing.assert_allclose(a.centroids, b.centroids, rtol=1e-5, atol=1e-6)


def test_faiss_loads_on_request_only_because_on_macos_it_would_crash_beside_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # an import would raise
    x, truth = blobs()
    assert same_partition(kmeans(x, 6, seed=0, init=x[:6]).assignments, truth)
    with pytest.raises(UserError, match=r"`backend` to be installed, but got 'faiss'.*pip install faiss-cpu"):
        kmeans(x, 6, seed=0, backend="faiss")


@pytest.mark.parametrize("chunk", [1, 90, 1 << 30])
def test_the_size_of_a_block_changes_nothing(monkeypatch, chunk):
    x = noise(300, 6)
    whole = kmeans(x, 30, seed=0)
    monkeypatch.setattr(clustering, "_CHUNK", chunk)
    blocks = kmeans(x, 30, seed=0)
    np.testing.assert_array_equal(blocks.assignments, whole.assignments)
    np.testing.assert_allclose(blocks.centroids, whole.centroids, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_seed_fixes_every_bit_also_across_thread_counts(backend):
    x = noise(3000, 33)
    first = kmeans(x, 60, seed=5, backend=backend, threads=1)
    for threads in (1, 2):
        again = kmeans(x, 60, seed=5, backend=backend, threads=threads)
        np.testing.assert_array_equal(first.assignments, again.assignments)
        np.testing.assert_array_equal(first.centroids, again.centroids)
        assert first.inertia == again.inertia
    assert not np.array_equal(first.centroids, kmeans(x, 60, seed=6, backend=backend).centroids)


def test_threads_are_as_before_afterwards():
    faiss_before, torch_before = faiss.omp_get_max_threads(), torch.get_num_threads()
    for backend in BACKENDS:
        kmeans(noise(50), 5, seed=0, threads=3, backend=backend)
    assert (faiss.omp_get_max_threads(), torch.get_num_threads()) == (faiss_before, torch_before)


def test_restarts_keep_the_lowest_inertia_and_extend_the_same_sequence():
    x = noise(300, 2)
    inertias = [kmeans(x, 20, seed=0, iterations=5, restarts=count).inertia for count in (1, 2, 4, 8)]
    assert inertias == sorted(inertias, reverse=True)
    assert inertias[-1] < inertias[0]


def test_everything_returned_belongs_together():
    x = noise()
    found = kmeans(x, 30, seed=0)
    squares = ((x[:, None].astype(np.float64) - found.centroids) ** 2).sum(2)
    np.testing.assert_array_equal(found.assignments, squares.argmin(1))
    np.testing.assert_allclose(found.distances, np.sqrt(squares.min(1)), rtol=1e-4)
    assert found.inertia == pytest.approx(squares.min(1).sum(), rel=1e-5)
    assert (found.centroids.dtype, found.assignments.dtype, found.distances.dtype) == (
        np.float32,
        np.int64,
        np.float32,
    )


def test_more_steps_never_raise_the_inertia():
    x = noise()
    for transfers in (False, True):
        inertias = [kmeans(x, 30, 0, iterations=i, transfers=transfers).inertia for i in (1, 2, 4, 8, 16)]
        assert all(b <= a * (1 + 1e-6) for a, b in pairwise(inertias))


def test_no_step_assigns_to_the_given_centroids():
    x = noise(50)
    found = kmeans(x, 3, seed=0, iterations=0, init=x[:3])
    np.testing.assert_allclose(found.centroids, x[:3], atol=1e-6)
    np.testing.assert_array_equal(found.assignments[:3], [0, 1, 2])


def test_spherical_matches_a_plain_loop():
    x = noise(300, 6)
    start = x[:10]
    u, c = x / np.linalg.norm(x, axis=1, keepdims=True), start / np.linalg.norm(start, axis=1, keepdims=True)
    for _ in range(5):
        nearest = (u @ c.T).argmax(1)
        c = np.stack([u[nearest == k].sum(0) for k in range(10)])
        c /= np.linalg.norm(c, axis=1, keepdims=True)
    found = kmeans(x, 10, seed=0, iterations=5, spherical=True, init=start)
    np.testing.assert_allclose(found.centroids, c, atol=1e-5)
    np.testing.assert_array_equal(found.assignments, (u @ c.T).argmax(1))
    np.testing.assert_allclose(found.distances, 1 - (u @ c.T).max(1), atol=1e-5)


def test_spherical_ignores_the_length_of_rows():
    x = noise(200, 6)
    scaled = x * np.random.default_rng(1).uniform(0.1, 9, (200, 1)).astype(np.float32)
    a, b = kmeans(x, 8, seed=0, spherical=True), kmeans(scaled, 8, seed=0, spherical=True)
    np.testing.assert_array_equal(a.assignments, b.assignments)
    np.testing.assert_allclose(np.linalg.norm(a.centroids, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_offset_far_from_the_origin_costs_no_digits(backend):
    x, truth = blobs(offset=3000.0)
    start = x[:6]
    assert same_partition(kmeans(x, 6, seed=0, init=start, backend=backend).assignments, truth)
    shifted = kmeans(noise() + 4096, 30, seed=0, backend=backend)
    assert shifted.inertia == pytest.approx(kmeans(noise(), 30, seed=0, backend=backend).inertia, rel=5e-3)


def test_an_empty_cluster_moves_to_the_farthest_row():
    x = np.array([[0.0], [0.1], [0.2], [10.0]], np.float32)
    start = np.array([[0.1], [99.0]], np.float32)  # no row is nearest to 99
    assert kmeans(x, 2, seed=0, iterations=3, init=start).assignments.tolist() == [0, 0, 0, 1]
    kept = kmeans(x, 2, seed=0, iterations=3, init=start, empty="keep")
    assert kept.assignments.tolist() == [0, 0, 0, 0]
    assert kept.centroids[1, 0] == pytest.approx(99)


def test_refilling_an_empty_cluster_never_empties_another():
    x = np.array([[0.0], [0.1], [0.2], [10.0]], np.float32)
    start = np.array([[0.15], [12.0], [99.0]], np.float32)  # the farthest row, 10, is alone in its cluster
    found = kmeans(x, 3, seed=0, iterations=1, init=start)
    np.testing.assert_allclose(found.centroids[:, 0], [0.15, 10, 0], atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_rows_give_finite_centroids(backend, spherical, value):
    found = kmeans(np.full((40, 5), value), 7, seed=0, spherical=spherical, backend=backend)
    assert np.isfinite(found.centroids).all()
    assert np.isfinite(found.distances).all()
    assert not spherical or value == 0 or found.inertia == pytest.approx(0, abs=1e-5)


def test_duplicates_share_a_cluster():
    x = np.repeat(noise(10, 4), 5, axis=0)
    found = kmeans(x, 10, seed=0, iterations=30, restarts=5)
    assert (found.assignments.reshape(10, 5) == found.assignments.reshape(10, 5)[:, :1]).all()
    assert np.isfinite(found.centroids).all()


def test_opposite_rows_have_no_direction_and_no_nan():
    x = np.array([[1, 0], [-1, 0], [1, 0], [-1, 0]], np.float32)
    assert np.isfinite(kmeans(x, 1, seed=0, spherical=True).centroids).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_cluster_is_the_mean_and_as_many_clusters_as_rows_are_the_rows(backend):
    x = noise(60)
    one = kmeans(x, 1, seed=0, backend=backend)
    np.testing.assert_allclose(one.centroids[0], x.mean(0), atol=1e-5)
    assert one.inertia == pytest.approx(((x - x.mean(0)) ** 2).sum(), rel=1e-5)
    all_ = kmeans(x, 60, seed=0, backend=backend)
    assert sorted(all_.assignments.tolist()) == list(range(60))
    assert all_.inertia == pytest.approx(0, abs=1e-6)


def test_append_one_and_normalise_is_the_formula_and_keeps_the_length():
    z = noise(20, 5)
    u = append_one_and_normalise(z)
    np.testing.assert_allclose(np.linalg.norm(u, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(u[:, :-1] / u[:, -1:], z, rtol=1e-5)
    np.testing.assert_allclose(append_one_and_normalise([[3.0, 0.0]]), [[3 / 10**0.5, 0, 1 / 10**0.5]], rtol=1e-6)
    assert append_one_and_normalise(np.zeros((2, 3))).tolist() == [[0, 0, 0, 1]] * 2
    assert u.dtype == np.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kmeans(noise(5), 9, 0), "`clusters` to be at most the number of rows, 5, but got 9. Pass clusters=5"),
        (lambda: kmeans(noise(5), 0, 0), "`clusters` to be at least 1, but got 0"),
        (lambda: kmeans(np.zeros((0, 3)), 1, 0), "at most the number of rows, 0, but got 1"),
        (lambda: kmeans(np.zeros(4), 1, 0), r"`x` to be a matrix .* but got 'shape \(4,\)'"),
        (lambda: kmeans(np.array([[0.0], [np.nan]]), 1, 0), "`x` to be finite.*1 of 2 rows.*first row 1"),
        (lambda: kmeans(np.array([[np.inf], [0]]), 1, 0), "`x` to be finite.*first row 0"),
        (lambda: kmeans(np.array([[1e30], [0]]), 1, 0), "whose squares fit into float32"),
        (lambda: kmeans(noise(5), 2, -1), "`seed` to be 0 or more, but got -1"),
        (lambda: kmeans(noise(5), 2, 0, iterations=-1), "`iterations` to be 0 or more"),
        (lambda: kmeans(noise(5), 2, 0, restarts=0), "`restarts` to be at least 1"),
        (lambda: kmeans(noise(5), 2, 0, restarts=2, init=noise(2)), "`restarts` to be 1 where `init` is given"),
        (lambda: kmeans(noise(5), 2, 0, init=noise(3)), r"`init` to be of shape \(2, 12\).*\(3, 12\)"),
        (lambda: kmeans(noise(5), 2, 0, threads=0), "`threads` to be at least 1"),
        (lambda: kmeans(noise(5), 2, 0, backend="fais"), "`backend` to be one of torch, faiss.*'faiss'"),
        (lambda: kmeans(noise(5), 2, 0, empty="kep"), "`empty` to be one of.*Did you mean 'keep'"),
        (lambda: kmeans(noise(5), 2, 0, spherical=True, transfers=True), "`transfers` to be false where `spherical`"),
        (lambda: append_one_and_normalise([[np.nan]]), "`features` to be finite"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert error.value.exit_code == 2
