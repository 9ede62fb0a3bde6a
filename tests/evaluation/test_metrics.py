"""Metrics against scikit-learn, torchmetrics, hand arithmetic and degenerate input."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from ferry.common.errors import UserError
from ferry.evaluation import classification_metrics, group_metrics, reliability_curve
from sklearn import metrics as reference

CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


def sample(n=400, classes=7, seed=0, temperature=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, n, p=rng.dirichlet(np.full(classes, 3.0)))
    logits = rng.normal(size=(n, classes)) * temperature
    logits[np.arange(n), labels] += rng.normal(1.5, 1.0, n)
    return logits, labels


def softmax(logits):
    return torch.softmax(torch.as_tensor(logits, dtype=torch.float64), 1).numpy()


@pytest.mark.parametrize("seed", range(4))
def test_numbers_equal_scikit_learn(seed):
    logits, labels = sample(seed=seed)
    probabilities, decided = softmax(logits), logits.argmax(1)
    found = classification_metrics(logits, labels, CLASSES, from_logits=True)
    assert found.accuracy == pytest.approx(reference.accuracy_score(labels, decided))
    assert found.mean_class_accuracy == pytest.approx(reference.balanced_accuracy_score(labels, decided))
    assert (found.confusion == reference.confusion_matrix(labels, decided, labels=range(7))).all()
    precision, recall, f1, n = reference.precision_recall_fscore_support(labels, decided, labels=range(7))
    for index, name in enumerate(CLASSES):
        item = found.per_class[name]
        assert (item.precision, item.recall, item.f1, item.n) == pytest.approx(
            (precision[index], recall[index], f1[index], n[index])
        )
    assert found.class_std == pytest.approx(np.std(recall, ddof=0))
    assert found.min_class_accuracy == pytest.approx(recall.min())
    assert found.worst_class == CLASSES[recall.argmin()]
    assert found.nll == pytest.approx(reference.log_loss(labels, probabilities, labels=range(7)))
    one_hot = np.eye(7)[labels]
    assert found.brier == pytest.approx(np.mean(((probabilities - one_hot) ** 2).sum(1)))


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_calibration_error_equals_torchmetrics(classes):
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = sample(700, classes, seed=3)
    probabilities = softmax(logits)
    wanted = multiclass_calibration_error(
        torch.as_tensor(probabilities), torch.as_tensor(labels), num_classes=classes, n_bins=15
    )
    found = classification_metrics(probabilities, labels, CLASSES[:classes], from_logits=False)
    assert found.ece == pytest.approx(float(wanted), abs=1e-6)


def test_calibration_error_by_hand():
    # Bins of 1/2: (0.5, 1] holds 0.9 right, 0.7 wrong, 0.6 right; [0, 0.5] holds 0.4 wrong.
    scores = [[0.9, 0.1, 0.0], [0.7, 0.3, 0.0], [0.6, 0.2, 0.2], [0.4, 0.3, 0.3]]
    curve = reliability_curve(scores, [0, 1, 0, 2], ["a", "b", "c"], from_logits=False, bins=2)
    assert curve.counts == (1, 3)
    assert curve.accuracy == pytest.approx((0, 2 / 3))
    assert curve.confidence == pytest.approx((0.4, 2.2 / 3))
    assert curve.ece == pytest.approx(1 / 4 * 0.4 + 3 / 4 * abs(2.2 / 3 - 2 / 3))


def test_full_confidence_falls_into_the_last_bin_and_an_edge_into_the_lower_one():
    curve = reliability_curve([[1.0, 0.0], [0.5, 0.5]], [0, 1], ["a", "b"], from_logits=False, bins=2)
    assert curve.counts == (1, 1)


def test_tensors_of_low_precision_lists_and_arrays_give_the_same():
    logits, labels = sample(50)
    logits = torch.as_tensor(logits).to(torch.bfloat16)
    first = classification_metrics(logits.requires_grad_(), torch.as_tensor(labels), CLASSES, from_logits=True)
    second = classification_metrics(logits.double().tolist(), labels.tolist(), CLASSES, from_logits=True)
    assert first.to_json() == second.to_json()


def test_a_constant_on_all_logits_changes_nothing_but_a_scale_changes_calibration():
    logits, labels = sample(100)
    plain = classification_metrics(logits, labels, CLASSES, from_logits=True)
    shifted = classification_metrics(logits + 1000, labels, CLASSES, from_logits=True)
    scaled = classification_metrics(logits * 5, labels, CLASSES, from_logits=True)
    assert shifted.nll == pytest.approx(plain.nll)
    assert scaled.accuracy == plain.accuracy
    assert scaled.nll > plain.nll


def test_names_come_from_the_index_order_of_the_data():
    """FER2013's test part has 111 images of disgust and 1,024 of fear: counts must stay with their names."""
    counts = {"anger": 958, "disgust": 111, "fear": 1024, "happiness": 1774, "neutral": 1233, "sadness": 1247,
              "surprise": 831}  # fmt: skip
    right = {
        "anger": 282,
        "disgust": 50,
        "fear": 29,
        "happiness": 1475,
        "neutral": 958,
        "sadness": 433,
        "surprise": 637,
    }
    labels = np.concatenate([np.full(n, i) for i, n in enumerate(counts.values())])
    decided = np.concatenate(
        [np.where(np.arange(n) < right[k], i, (i + 1) % 7) for i, (k, n) in enumerate(counts.items())]
    )
    found = classification_metrics(np.eye(7)[decided], labels, tuple(counts), from_logits=True)
    assert {name: item.n for name, item in found.per_class.items()} == counts
    assert found.per_class["disgust"].recall == pytest.approx(0.4505, abs=5e-5)
    assert found.per_class["fear"].recall == pytest.approx(0.0283, abs=5e-5)
    assert found.accuracy == pytest.approx(0.5383, abs=5e-4)
    order = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
    place = np.array([order.index(name) for name in counts])
    other = classification_metrics(np.eye(7)[place[decided]], place[labels], order, from_logits=True)
    assert {k: v.recall for k, v in other.per_class.items()} == {k: v.recall for k, v in found.per_class.items()}


def test_a_class_without_image_counts_in_no_mean_and_is_named():
    found = classification_metrics(np.eye(3)[[0, 1, 1, 2]], [0, 1, 0, 0], ["a", "b", "c"], from_logits=True)
    assert found.missing_classes == ("c",)
    assert found.mean_class_accuracy == pytest.approx((1 / 3 + 1) / 2)
    assert found.min_class_accuracy == pytest.approx(1 / 3)
    missing = found.per_class["c"]
    assert (missing.n, missing.recall, missing.precision, missing.f1) == (0, None, 0.0, None)


def test_a_class_that_is_never_decided_has_no_precision_and_f1_of_zero():
    item = classification_metrics(np.eye(2)[[0, 0]], [0, 1], ["a", "b"], from_logits=True).per_class["b"]
    assert (item.recall, item.precision, item.f1) == (0.0, None, 0.0)


def test_the_first_class_wins_a_tie():
    found = classification_metrics([[0.0, 3.0, 3.0]], [1], ["a", "b", "c"], from_logits=True)
    assert found.accuracy == 1


def test_no_image_gives_none_everywhere_and_never_nan():
    found = classification_metrics(np.zeros((0, 3)), [], ["a", "b", "c"], from_logits=True)
    value = found.to_json()
    assert value["n"] == 0
    assert {value[key] for key in ("accuracy", "mean_class_accuracy", "class_std", "min_class_accuracy", "ece")} == {
        None
    }
    assert (found.brier, found.nll, found.accuracy_interval, found.worst_class) == (None, None, None, None)
    json.dumps([value, found.details()], allow_nan=False)


def test_one_image_and_one_class_are_fine():
    found = classification_metrics([[2.0]], [0], ["a"], from_logits=True)
    assert (found.accuracy, found.mean_class_accuracy, found.class_std, found.ece, found.n) == (1, 1, 0, 0, 1)


def test_json_has_exactly_the_entries_of_a_run_and_is_finite():
    logits, labels = sample(20, seed=5)
    value = classification_metrics(logits * 1e6, labels, CLASSES, from_logits=True).to_json()
    assert set(value) == {
        "accuracy", "mean_class_accuracy", "class_std", "min_class_accuracy", "per_class", "ece", "n"
    }  # fmt: skip
    assert set(value["per_class"]) == set(CLASSES)
    assert set(value["per_class"]["fear"]) == {"recall", "precision", "f1", "n"}
    json.dumps(value, allow_nan=False)


def test_a_sure_and_wrong_probability_has_a_finite_loss():
    found = classification_metrics([[1.0, 0.0]], [1], ["a", "b"], from_logits=False)
    assert math.isfinite(found.nll)
    assert found.brier == pytest.approx(2)


class TestScoredClasses:
    def test_averages_over_them_with_all_classes_decidable(self):
        scores = np.eye(3)[[0, 2, 1, 2]]
        found = classification_metrics(scores, [0, 0, 1, 2], ["a", "b", "c"], from_logits=True,
                                       scored_classes=["a", "b"])  # fmt: skip
        assert (found.n, found.left_out) == (3, 1)
        assert found.classes == ("a", "b", "c")
        assert found.mean_class_accuracy == pytest.approx((0.5 + 1) / 2)
        assert found.missing_classes == ()

    def test_can_be_the_only_ones_that_are_decided_for(self):
        logits, labels = sample(300, seed=8)
        scored = ("anger", "happiness", "neutral", "sadness", "surprise")
        columns = [CLASSES.index(name) for name in scored]
        keep = np.isin(labels, columns)
        found = classification_metrics(
            logits, labels, CLASSES, from_logits=True, scored_classes=scored[::-1], decide_among="scored"
        )
        decided = np.array(columns)[logits[keep][:, columns].argmax(1)]
        assert found.classes == scored
        assert found.accuracy == pytest.approx(np.mean(decided == labels[keep]))
        assert found.nll == pytest.approx(
            reference.log_loss(labels[keep], softmax(logits[keep][:, columns]), labels=columns)
        )

    def test_share_what_is_left_where_no_probability_remains(self):
        found = classification_metrics(
            [[0.0, 0.0, 1.0]], [0], ["a", "b", "c"], from_logits=False, scored_classes=["a", "b"], decide_among="scored"
        )
        assert found.nll == pytest.approx(math.log(2))

    def test_must_be_known(self):
        with pytest.raises(UserError, match=r"scored_classes.*'angr'.*Did you mean 'anger'"):
            classification_metrics(np.eye(7), range(7), CLASSES, from_logits=True, scored_classes=["angr"])


class TestRefuses:
    def test_nan_and_infinity_and_says_where(self):
        for bad in (np.nan, np.inf):
            logits = np.zeros((4, 2))
            logits[2, 1] = bad
            with pytest.raises(UserError, match=r"`logits` to be finite, but got '1 of 4 rows.*row 2"):
                classification_metrics(logits, [0, 1, 0, 1], ["a", "b"], from_logits=True)

    def test_logits_that_are_called_probabilities(self):
        with pytest.raises(UserError, match=r"`probabilities`.*sum to 1.*from_logits=True"):
            classification_metrics([[2.0, -1.0]], [0], ["a", "b"], from_logits=False)

    def test_outputs_of_another_class_list(self):
        with pytest.raises(UserError, match=r"shape \[N, 2\].*a, b.*\[3, 3\]"):
            classification_metrics(np.eye(3), [0, 1, 2], ["a", "b"], from_logits=True)

    @pytest.mark.parametrize(
        ("labels", "rule"),
        [
            ([0, 2], "between 0 and 1"),
            ([0, -1], "between 0 and 1"),
            ([0], "as many as the outputs"),
            ([0.5, 1.0], "class indices"),
        ],
    )
    def test_labels_that_do_not_fit(self, labels, rule):
        with pytest.raises(UserError, match=rule):
            classification_metrics(np.eye(2), labels, ["a", "b"], from_logits=True)

    @pytest.mark.parametrize("classes", [[], ["a", "a"], ["a", ""], "ab"])
    def test_class_lists_without_distinct_names(self, classes):
        with pytest.raises(UserError, match="`classes`"):
            classification_metrics(np.eye(2), [0, 1], classes, from_logits=True)

    def test_an_unknown_way_to_decide(self):
        with pytest.raises(UserError, match=r"decide_among.*Did you mean 'scored'"):
            classification_metrics(np.eye(2), [0, 1], ["a", "b"], from_logits=True, decide_among="score")


def test_groups_split_the_images_and_nothing_is_lost():
    logits, labels = sample(90, seed=2)
    groups = ["x"] * 30 + [None] * 30 + ["y"] * 29 + [""]
    found = group_metrics(logits, labels, groups, CLASSES, from_logits=True)
    assert {name: item.n for name, item in found.items()} == {"unknown": 31, "x": 30, "y": 29}
    whole = classification_metrics(logits, labels, CLASSES, from_logits=True)
    assert sum(item.accuracy * item.n for item in found.values()) == pytest.approx(whole.accuracy * 90)
    with pytest.raises(UserError, match="groups"):
        group_metrics(logits, labels, groups[:-1], CLASSES, from_logits=True)
