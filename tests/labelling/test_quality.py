"""Label quality against scikit-learn and by hand."""

import json

import numpy as np
import pytest
import sklearn.metrics
from ferry.common.errors import UserError
from ferry.labelling import label_quality

CLASSES = ("anger", "fear", "neutral")


def test_scikit_learn_finds_the_same():
    rng = np.random.default_rng(0)
    true, said, kept = rng.integers(0, 3, 200), rng.integers(0, 3, 200), rng.random(200) < 0.4
    found = label_quality(said, kept, true, CLASSES)
    for name, rows in (("all", np.ones(200, bool)), ("kept", kept)):
        part = found[name]
        assert part["confusion"] == sklearn.metrics.confusion_matrix(true[rows], said[rows]).tolist()
        assert part["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(true[rows], said[rows]))
        mean = sklearn.metrics.balanced_accuracy_score(true[rows], said[rows])
        assert part["mean_class_recall"] == pytest.approx(mean)
        precision = sklearn.metrics.precision_score(true[rows], said[rows], average=None)
        assert list(part["precision"].values()) == pytest.approx(precision)


def test_coverage_is_the_kept_share_of_true_classes_and_unknown_labels_are_left_out():
    true = np.array([0, 0, 0, 0, 1, 1, -1, -1])
    said = np.array([0, 0, 1, 2, 1, 1, 0, 2])
    kept = np.array([1, 0, 0, 0, 1, 1, 1, 1], bool)
    found = label_quality(said, kept, true, CLASSES)
    assert found["n"] == 6
    assert found["coverage"] == {"all": 0.5, "per_class": {"anger": 0.25, "fear": 1.0, "neutral": None}}
    assert found["kept"]["recall"] == {"anger": 1.0, "fear": 1.0, "neutral": None}
    assert found["all"]["accuracy"] == pytest.approx(4 / 6)
    assert found["all"]["mean_class_recall"] == pytest.approx(3 / 4)  # neutral has no true image


def test_what_is_undefined_is_none_and_never_nan():
    nothing = label_quality(np.array([0]), np.array([False]), np.array([-1]), CLASSES)
    assert nothing["all"]["accuracy"] is nothing["kept"]["mean_class_recall"] is nothing["coverage"]["all"] is None
    json.dumps(nothing, allow_nan=False)


@pytest.mark.parametrize(
    ("true", "message"),
    [
        (np.array([0, 1, 2]), "`true_labels` to be of length 2 like `kept`, but got 3. Align them by key"),
        (np.array([0, 3]), "`true_labels` to be in the range -1 to 2, but got 'values from 0 to 3'"),
        (np.array([0, -2]), "`true_labels` to be in the range -1 to 2"),
    ],
)
def test_wrong_input_is_named(true, message):
    with pytest.raises(UserError, match=message):
        label_quality(np.array([0, 1]), np.array([True, True]), true, CLASSES)
