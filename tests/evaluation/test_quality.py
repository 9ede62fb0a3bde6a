"""Quality of pseudo-labels by hand arithmetic and against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.evaluation import PseudoLabelData, pseudo_label_quality, purity_histogram
from ferry.evaluation.alarms import wrong_labels_alarm
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
    wanted = "For this report only, the true label is known of 3 of 4 faces; no training saw it. There 66.7 % of all"
    assert wanted in words
    assert section.parts[0].columns[-2:] == ["Kept and right", "Found among kept"]
    assert "Kept and right: share" in section.parts[0].note
    assert "Found among kept: of the kept faces" in section.parts[0].note
    section = pseudo_labels(PseudoLabelData([0, 1, 1], [1, 1, 0], true_labels=[0, 1, 0]), ["a", "b"])
    assert "is known of all faces; no training saw it. There 66.7 %" in section.intro.replace("\N{NO-BREAK SPACE}", " ")
    section = pseudo_labels(PseudoLabelData([0, 1], [1, 1]), ["a", "b"])
    assert "How many are right is not known" in section.intro
    assert section.parts[0].note == ""


@pytest.mark.parametrize(
    ("right", "checked", "alarmed"), [(9, 20, True), (10, 20, False), (8, 19, False), (0, 20, True)]
)
def test_an_alarm_of_classes_whose_kept_pseudo_labels_are_mostly_wrong(right, checked, alarmed):
    """Ten more of the class are kept whose truth nobody knows, and ten wrong ones are not kept."""
    truth = [0] * right + [1] * (checked - right) + [-1] * 10 + [1] * 10 + [1] * 30
    labels, kept = [0] * (checked + 20) + [1] * 30, [1] * (checked + 10) + [0] * 10 + [1] * 30
    quality = pseudo_label_quality(labels, kept, ["a", "b"], truth)
    assert (quality.per_class["a"].checked, quality.per_class["b"].checked) == (checked, 30)
    found = wrong_labels_alarm(quality)
    assert [alarm.level for alarm in found] == ["warning"] * alarmed
    for alarm in found:
        share = f"{100 * right / checked:.1f}"
        assert f"wrong for a ({share} % of {checked} are right)" in alarm.text.replace("\N{NO-BREAK SPACE}", " ")
    assert wrong_labels_alarm(pseudo_label_quality(labels, kept, ["a", "b"])) == []


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
