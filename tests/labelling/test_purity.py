"""Cluster purity against a plain loop, by hand, and by invariants."""

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.labelling import cluster_purity, smoothed_purity

TEACHER = np.array([0, 0, 1, 1, 1, 1, 2, 0])
CLUSTERS = np.array([0, 0, 0, 1, 1, 1, 2, 2])


def test_the_worked_example_of_three_clusters():
    found = cluster_purity(CLUSTERS, TEACHER, 3, 3)
    assert found.histogram.tolist() == [[2, 1, 0], [0, 3, 0], [1, 0, 1]]
    assert found.majority.tolist() == [0, 1, 0]
    np.testing.assert_allclose(found.purity, [2 / 3, 1, 1 / 2])


def test_a_plain_loop_finds_the_same():
    rng = np.random.default_rng(0)
    assignments, teacher = rng.integers(0, 40, 500), rng.integers(0, 7, 500)
    found = cluster_purity(assignments, teacher, 40, 7)
    for cluster in range(40):
        counts = [sum(teacher[assignments == cluster] == label) for label in range(7)]
        assert found.histogram[cluster].tolist() == counts
        assert found.majority[cluster] == counts.index(max(counts))
        assert found.purity[cluster] == pytest.approx(max(counts) / sum(counts))
        assert found.purity[cluster] >= 1 / 7


def test_majority_ties_go_to_the_larger_probability_and_else_to_the_first_class():
    probabilities = np.array([[0.4, 0.3, 0.3], [0.1, 0.1, 0.8]] * 2)
    teacher = np.array([0, 2, 0, 2])
    assignments = np.array([0, 0, 1, 1])
    assert cluster_purity(assignments, teacher, 2, 3).majority.tolist() == [0, 0]
    assert cluster_purity(assignments, teacher, 2, 3, probabilities=probabilities).majority.tolist() == [2, 2]
    even = np.full((4, 3), 1 / 3)
    assert cluster_purity(assignments, teacher, 2, 3, probabilities=even).majority.tolist() == [0, 0]


def test_probabilities_never_overrule_a_majority_nor_crown_an_untied_class():
    probabilities = np.array([[0.34, 0.33, 0.33], [0.34, 0.33, 0.33], [0.0, 0.0, 1.0]])
    assert cluster_purity(np.zeros(3, int), np.array([0, 0, 2]), 1, 3, probabilities=probabilities).majority[0] == 0
    # classes 0 and 1 tie; class 2 has the largest sum but no vote
    probabilities = np.array([[0.51, 0.0, 0.49], [0.0, 0.52, 0.48]])
    assert cluster_purity(np.zeros(2, int), np.array([0, 1]), 1, 3, probabilities=probabilities).majority[0] == 1


def test_smoothing_is_the_dirichlet_mean_and_puts_small_clusters_last():
    histogram = np.array([[1, 0, 0, 0, 0, 0, 0], [70, 5, 0, 0, 0, 0, 0]])
    np.testing.assert_allclose(smoothed_purity(histogram, 1.0), [2 / 8, 71 / 82])
    np.testing.assert_allclose(smoothed_purity(histogram, 0.0), [1, 70 / 75])
    found = cluster_purity(np.array([0, 0, 1]), np.array([1, 1, 0]), 2, 2, smoothing=1.0)
    np.testing.assert_allclose(found.purity, [3 / 4, 2 / 3])


def test_empty_clusters_have_no_majority_and_purity_zero():
    for smoothing in (0.0, 1.0):
        found = cluster_purity(np.array([2, 2]), np.array([0, 0]), 4, 2, smoothing=smoothing)
        assert found.majority.tolist() == [-1, -1, 0, -1]
        assert found.purity[[0, 1, 3]].tolist() == [0, 0, 0]
    nothing = cluster_purity(np.zeros(0, int), np.zeros(0, int), 2, 3)
    assert nothing.histogram.shape == (2, 3)


def test_the_order_of_images_does_not_matter():
    rng = np.random.default_rng(1)
    assignments, teacher, order = rng.integers(0, 9, 90), rng.integers(0, 3, 90), rng.permutation(90)
    a, b = cluster_purity(assignments, teacher, 9, 3), cluster_purity(assignments[order], teacher[order], 9, 3)
    np.testing.assert_array_equal(a.histogram, b.histogram)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cluster_purity(np.array([3]), np.array([0]), 3, 2), "`assignments` to be in the range 0 to 2.*3 to 3"),
        (lambda: cluster_purity(np.array([0]), np.array([-1]), 3, 2), "`teacher` to be in the range 0 to 1"),
        (lambda: cluster_purity(np.array([0]), np.array([0, 1]), 3, 2), "`assignments` to be a vector of length 2"),
        (lambda: smoothed_purity(np.ones((1, 2), int), -1.0), "`smoothing` to be 0 or more, but got -1.0"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
