"""Quality of pseudo-labels by hand arithmetic and against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.evaluation import PseudoLabelData, pseudo_label_quality, purity_histogram
from ferry.evaluation.record import pseudo_labels
from sklearn.metrics import balanced_accuracy_score, precision_score


def test_counts_and_lost_classes_by_hand():
    found = pseudo_label_quality([0, 0, 0, 1, 1, 0, 0, 2], [1, 1, 0, 1, 0, 0, 0, 0], ["a", "b", "c", "d"])
    assert {name: (item.given, item.kept) for name, item in found.per_class.items()} == {
        "a": (5, 2), "b": (2, 1), "c": (1, 0), "d": (0, 0)
    }  # fmt: skip
    assert found.lost_classes == ("c", "d")
    assert found.coverage == pytest.approx(3 / 8)
    assert (found.accuracy, found.kept_accuracy, found.per_class["a"].right) == (None, None, None)
    json.dumps(found.to_json(), allow_nan=False)


def test_correctness_equals_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 300)
    labels = np.where(rng.random(300) < 0.6, truth, rng.integers(0, 4, 300))
    kept = rng.random(300) < 0.4
    found = pseudo_label_quality(labels, kept, list("abcd"), truth)
    assert found.accuracy == pytest.approx(np.mean(labels == truth))
    assert found.kept_accuracy == pytest.approx(np.mean(labels[kept] == truth[kept]))
    assert found.kept_mean_class == pytest.approx(balanced_accuracy_score(truth[kept], labels[kept]))
    precision = precision_score(truth[kept], labels[kept], average=None)
    assert [item.right for item in found.per_class.values()] == pytest.approx(list(precision))


def test_images_without_a_true_label_are_left_out():
    truth = [0, 0, 0, 0, 1, 1, -1, -1]
    labels = [0, 0, 1, 2, 1, 1, 0, 2]
    kept = [1, 0, 0, 0, 1, 1, 1, 1]
    found = pseudo_label_quality(labels, kept, ["a", "b", "c"], truth)
    assert (found.n, found.known, found.kept) == (8, 6, 5)
    assert found.accuracy == pytest.approx(4 / 6)
    assert (found.kept_accuracy, found.kept_mean_class) == (1.0, 1.0)
    shown = {name: (item.kept, item.right, item.found, item.true_kept) for name, item in found.per_class.items()}
    assert shown == {"a": (2, 1.0, 1.0, 1), "b": (2, 1.0, 1.0, 2), "c": (1, None, None, 0)}
    nobody = pseudo_label_quality(labels, kept, ["a", "b", "c"], [-1] * 8)
    assert nobody == pseudo_label_quality(labels, kept, ["a", "b", "c"])
    assert (nobody.known, nobody.accuracy, nobody.kept_accuracy) == (0, None, None)


def test_the_report_says_of_how_many_faces_the_true_label_is_known():
    section = pseudo_labels(PseudoLabelData([0, 1, 1, 0], [1, 1, 1, 1], true_labels=[0, 1, 0, -1]), ["a", "b"])
    words = section.intro.replace("\N{NO-BREAK SPACE}", " ")
    assert "The true label is known of 3 of 4 faces; there 66.7 % of all pseudo-labels are right" in words
    section = pseudo_labels(PseudoLabelData([0, 1, 1], [1, 1, 0], true_labels=[0, 1, 0]), ["a", "b"])
    assert "is known of all faces; there 66.7 %" in section.intro.replace("\N{NO-BREAK SPACE}", " ")
    section = pseudo_labels(PseudoLabelData([0, 1], [1, 1]), ["a", "b"])
    assert "How many are right is not known" in section.intro


def test_nothing_kept_and_no_image_give_none():
    found = pseudo_label_quality([0, 1], [0, 0], ["a", "b"], [0, 1])
    assert (found.kept_accuracy, found.kept_mean_class, found.accuracy) == (None, None, 1)
    assert pseudo_label_quality([], [], ["a"]).coverage is None


def test_purity_histogram_counts_every_finite_value_once():
    edges, everything, kept = purity_histogram([0.0, 0.5, 1.0, np.nan], [True, False, True, True], bins=2)
    assert list(edges) == [0, 0.5, 1]
    assert (list(everything), list(kept)) == ([1, 2], [1, 1])


def test_lengths_and_indices_must_fit():
    with pytest.raises(UserError, match="`kept`"):
        pseudo_label_quality([0, 1], [1], ["a", "b"])
    with pytest.raises(UserError, match="`true_labels`"):
        pseudo_label_quality([0, 1], [1, 1], ["a", "b"], [0, 2])
    with pytest.raises(UserError, match="`true_labels`"):
        pseudo_label_quality([0, 1], [1, 1], ["a", "b"], [0, -2])
    with pytest.raises(UserError, match="`true_labels`"):
        pseudo_label_quality([0, 1], [1, 1], ["a", "b"], [0])
