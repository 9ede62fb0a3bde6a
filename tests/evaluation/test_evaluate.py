"""Rows, roles, differences, verdicts, alarms and metrics.json."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.evaluation import evaluate, paired_difference, share_alarms
from ferry.evaluation.formats import change

CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


def verdict(labels, make, source, adapted, **others):
    rows = {"source-only": make(labels, source, seed=1)}
    rows |= {name: make(labels, share, seed=3) for name, share in others.items()}
    return evaluate({**rows, "CluP": make(labels, adapted, seed=2)}, labels, CLASSES).verdict


class TestVerdict:
    def test_better_names_both_numbers_and_the_interval(self, labels, make):
        found = verdict(labels, make, 0.5, 0.7)
        assert (found.level, found.use) == ("better", "CluP")
        rows = {"source-only": make(labels, 0.5, seed=1), "CluP": make(labels, 0.7, seed=2)}
        evaluation = evaluate(rows, labels, CLASSES)
        before, after = (evaluation.rows[name].metrics.mean_class_accuracy for name in rows)
        text = found.sentence.replace("\N{NO-BREAK SPACE}", " ")
        assert f"raises mean-class accuracy from {100 * before:.1f} % to {100 * after:.1f} %" in text
        assert "95 % interval +" in text
        assert "on 350 labelled holdout faces" in text

    def test_worse_says_to_keep_the_source(self, labels, make):
        found = verdict(labels, make, 0.7, 0.5)
        assert (found.level, found.use) == ("worse", "source-only")
        assert "lowers" in found.sentence
        assert found.advice.startswith("Keep the source model")

    def test_a_small_gain_is_not_sold_as_one(self, labels, make):
        found = verdict(labels, make, 0.60, 0.62)
        assert (found.level, found.use) == ("unclear", "")
        assert "does not clearly change" in found.sentence

    def test_a_better_baseline_wins_over_a_gain(self, labels, make):
        found = verdict(labels, make, 0.5, 0.65, AdaBN=0.85)
        assert (found.level, found.use) == ("worse", "AdaBN")
        assert "AdaBN alone reaches" in found.sentence

    def test_after_a_loss_a_clearly_better_baseline_is_advised_and_not_the_source(self, labels, make):
        found = verdict(labels, make, 0.6, 0.4, AdaBN=0.85)
        assert (found.level, found.use) == ("worse", "AdaBN")
        assert "AdaBN alone reaches a mean-class accuracy of" in found.sentence
        assert "AdaBN minus source-only: +" in found.sentence
        assert found.advice == "Use AdaBN instead of CluP."
        assert verdict(labels, make, 0.6, 0.4, AdaBN=0.62).use == "source-only"

    def test_a_baseline_that_is_hardly_better_leaves_it_open(self, labels, make):
        found = verdict(labels, make, 0.5, 0.70, AdaBN=0.74)
        assert (found.level, found.use) == ("mixed", "")
        assert "no better than AdaBN" in found.advice

    def test_a_baseline_that_is_hardly_worse_is_named(self, labels, make):
        found = verdict(labels, make, 0.5, 0.72, AdaBN=0.70)
        assert (found.level, found.use) == ("better", "CluP")
        assert "not clearly better than AdaBN" in found.advice

    @pytest.mark.parametrize(
        ("source", "adapted", "level"), [(0.3, 0.9, "better"), (0.6, 0.62, "unclear"), (0.9, 0.7, "worse")]
    )
    def test_the_difference_to_the_baseline_is_told_with_its_interval(self, labels, make, source, adapted, level):
        rows = {"source-only": make(labels, source, seed=1), "AdaBN": make(labels, 0.6, seed=3)}
        found = evaluate({**rows, "CluP": make(labels, adapted, seed=2)}, labels, CLASSES)
        decided = {name: row.logits.argmax(1) for name, row in (rows | {"CluP": make(labels, adapted, seed=2)}).items()}
        wanted = paired_difference(labels, decided["AdaBN"], decided["CluP"], metric="mean_class_accuracy")
        assert (found.rival, set(found.to_rival)) == ("AdaBN", {"CluP"})
        assert found.to_rival["CluP"]["mean_class_accuracy"] == wanted
        assert found.to_json()["differences_to_rival"]["CluP"]["mean_class_accuracy"]["value"] == wanted.value
        assert found.verdict.level == level
        assert f"(CluP minus AdaBN: {change(wanted)})." in found.verdict.sentence

    def test_without_a_third_row_there_is_no_baseline(self, labels, make):
        rows = {"source-only": make(labels, 0.5, seed=1), "AdaBN": make(labels, 0.7, seed=2)}
        found = evaluate(rows, labels, CLASSES)
        assert (found.rival, found.to_rival) == ("", {})
        assert "minus" not in found.verdict.sentence
        three = {**rows, "CluP": rows["AdaBN"]}
        assert (evaluate(three, None, CLASSES).rival, evaluate(three, labels, CLASSES).rival) == ("", "AdaBN")

    def test_a_gain_on_frequent_classes_against_rare_ones_is_mixed(self):
        labels = np.repeat([0, 1, 2], [400, 40, 40])
        before, after = labels.copy(), labels.copy()
        before[:200] = 1
        after[400:460] = 0
        rows = {"source-only": Eye(before, 3), "CluP": Eye(after, 3)}
        found = evaluate(rows, labels, ("a", "b", "c")).verdict
        assert found.level == "mixed"
        assert "lowers mean-class accuracy" in found.sentence
        assert "but raises accuracy" in found.sentence

    def test_a_gain_on_rare_classes_with_less_accuracy_than_the_baseline_is_mixed(self):
        labels = np.repeat([0, 1, 2], [400, 40, 40])
        right = {"source-only": (200, 0, 0), "AdaBN": (400, 10, 10), "CluP": (300, 40, 40)}
        rows = {}
        for name, counts in right.items():
            hit = np.concatenate([np.arange(n) < count for n, count in zip((400, 40, 40), counts, strict=True)])
            rows[name] = Eye(np.where(hit, labels, (labels + 1) % 3), 3)
        found = evaluate(rows, labels, ("a", "b", "c"))
        assert found.to_rival["CluP"]["mean_class_accuracy"].low > 0
        assert (found.verdict.level, found.verdict.use) == ("mixed", "")
        assert (
            f"Its accuracy is below AdaBN's ({change(found.to_rival['CluP']['accuracy'])})." in found.verdict.sentence
        )

    def test_a_loss_in_one_number_alone_is_a_loss(self):
        labels = np.repeat([0, 1, 2], [400, 40, 40])
        before, after = labels.copy(), labels.copy()
        before[:20], after[440:456] = 1, 0  # accuracy +4/480, unclear; mean-class about -12 points, clear
        found = evaluate({"source-only": Eye(before, 3), "CluP": Eye(after, 3)}, labels, ("a", "b", "c"))
        assert not found.differences["CluP"]["accuracy"].clear
        assert (found.verdict.level, found.verdict.use) == ("worse", "source-only")
        assert "lowers mean-class accuracy" in found.verdict.sentence

    def test_a_clear_loss_of_accuracy_is_a_loss_too(self):
        labels = np.repeat([0, 1, 2], [400, 8, 8])
        before, after = labels.copy(), labels.copy()
        before[400], after[:30] = 0, 1
        found = evaluate({"source-only": Eye(before, 3), "CluP": Eye(after, 3)}, labels, ("a", "b", "c"))
        assert not found.differences["CluP"]["mean_class_accuracy"].clear
        assert found.verdict.level == "worse"
        assert "lowers accuracy" in found.verdict.sentence

    def test_equal_models_do_not_change(self, labels, make):
        row = make(labels, 0.5)
        found = evaluate({"a": row, "b": row}, labels, CLASSES).verdict
        assert found.level == "unclear"
        assert "does not change mean-class accuracy" in found.sentence

    def test_one_model_alone_is_described(self, labels, make):
        found = evaluate({"source-only": make(labels, 0.5)}, labels, CLASSES).verdict
        assert "no other model" in found.advice

    def test_without_labels_no_accuracy_is_claimed(self, labels, make):
        rows = {"source-only": make(labels, 0.5, seed=1), "CluP": make(labels, 0.5, seed=2)}
        for none in (None, []):
            evaluation = evaluate(rows, none, CLASSES)
            assert evaluation.verdict.level == "unknown"
            assert "not known" in evaluation.verdict.sentence
            assert evaluation.labelled == 0
            assert evaluation.differences == {}

    def test_a_holdout_of_classes_that_do_not_count_is_told_from_none(self, labels, make):
        rows = {"source-only": make(labels, 0.5, seed=1), "CluP": make(labels, 0.5, seed=2)}
        kept = np.where(labels == 1, 0, labels)
        found = evaluate(rows, kept, CLASSES, scored_classes=["disgust"]).verdict
        assert found.level == "unknown"
        assert found.sentence.startswith("All 350 labelled holdout faces are of classes that do not count, so")


class Eye:
    """Decisions as outputs."""

    def __init__(self, decided, classes=7):
        self.logits, self.features = np.eye(classes)[decided] * 3, None


class TestShareAlarms:
    flat = dict.fromkeys("abcd", 0.25)

    def test_a_vanished_class_is_a_warning(self):
        found = share_alarms(self.flat, {"a": 0.02, "b": 0.33, "c": 0.33, "d": 0.32}, name="CluP")
        assert [alarm.level for alarm in found] == ["warning"]
        assert "CluP hardly decides for a any more" in found[0].text

    def test_nearly_all_in_one_class_is_a_warning(self):
        found = share_alarms(self.flat, {"a": 0.85, "b": 0.05, "c": 0.05, "d": 0.05})
        assert any("collapsed" in alarm.text for alarm in found)

    def test_a_small_move_is_none(self):
        assert share_alarms(self.flat, {"a": 0.2, "b": 0.3, "c": 0.25, "d": 0.25}) == []

    def test_a_move_is_judged_by_the_true_shares_where_they_are_known(self):
        moved = {"a": 0.40, "b": 0.20, "c": 0.20, "d": 0.20}
        assert share_alarms(self.flat, moved)[0].level == "warning"
        assert share_alarms(self.flat, moved, moved)[0].level == "note"
        assert share_alarms(self.flat, moved, self.flat)[0].level == "warning"

    def test_a_class_that_the_target_lacks_may_vanish(self):
        after = {"a": 0.01, "b": 0.33, "c": 0.33, "d": 0.33}
        found = share_alarms(self.flat, after, {"a": 0.0, "b": 1 / 3, "c": 1 / 3, "d": 1 / 3})
        assert [alarm.level for alarm in found] == ["note"]

    def test_unknown_shares_are_no_alarm(self):
        assert share_alarms(dict.fromkeys("ab"), dict.fromkeys("ab")) == []


def test_alarms_name_dead_rare_and_missing_classes(make):
    labels = np.repeat([0, 1, 2], [60, 50, 5])
    after = np.where(labels == 1, 0, labels)
    found = evaluate({"source-only": Eye(labels, 4), "CluP": Eye(after, 4)}, labels, ("a", "b", "c", "d")).alarms
    text = " ".join(alarm.text for alarm in found)
    assert "CluP recognises no image of b; the source model recognises some." in text
    assert "Few holdout images of c (5)" in text
    assert "no image of d" in text
    levels = [alarm.level for alarm in found]
    assert levels == sorted(levels, reverse=True)  # warnings first


def test_dead_classes_that_the_source_recognises_are_told_from_those_it_does_not(make):
    labels = np.repeat([0, 1, 2], 40)
    before, after = np.where(labels == 2, 0, labels), np.zeros(120, int)
    found = evaluate({"source-only": Eye(before, 3), "CluP": Eye(after, 3)}, labels, ("a", "b", "c")).alarms
    assert "CluP recognises no image of b and c; the source model recognises some of b." in [one.text for one in found]


def test_rows_keep_their_order_and_differences_are_against_the_source(labels, make):
    rows = {name: make(labels, share, seed=i) for i, (name, share) in enumerate([("x", 0.5), ("y", 0.6), ("z", 0.7)])}
    found = evaluate(rows, labels, CLASSES, source="y")
    assert (list(found.rows), found.source, found.adapted) == (["x", "y", "z"], "y", "z")
    decided = {name: row.logits.argmax(1) for name, row in rows.items()}
    wanted = paired_difference(labels, decided["y"], decided["x"], metric="mean_class_accuracy")
    assert found.differences["x"]["mean_class_accuracy"] == wanted
    assert set(found.differences) == {"x", "z"}
    assert found.rows["y"].label_free.agreement is None
    assert found.rows["z"].label_free.agreement == np.mean(decided["z"] == decided["y"])


def test_scored_classes_leave_out_the_others_everywhere(labels, make):
    scored = ("anger", "happiness", "neutral", "sadness", "surprise")
    rows = {"source-only": make(labels, 0.5, seed=1), "CluP": make(labels, 0.7, seed=2)}
    found = evaluate(rows, labels, CLASSES, scored_classes=scored)
    n = int(np.isin(labels, [CLASSES.index(name) for name in scored]).sum())
    assert found.labelled == found.differences["CluP"]["accuracy"].n == n < len(labels)
    assert found.rows["CluP"].restricted.classes == scored
    assert found.rows["CluP"].restricted.accuracy >= found.rows["CluP"].metrics.accuracy
    value = found.differences["CluP"]["mean_class_accuracy"].value
    means = [found.rows[name].metrics.mean_class_accuracy for name in rows]
    assert value == pytest.approx(means[1] - means[0])


@pytest.mark.parametrize("n", [0, 1, 350])
def test_metrics_file_is_finite_and_holds_the_entries_of_a_run(tmp_path, labels, make, n):
    labels = labels[:n]
    rows = {"source-only": make(labels, 0.5, seed=1), "CluP": make(labels, 0.7, seed=2)}
    found = evaluate(rows, labels, CLASSES, groups=["x"] * n)
    found.write(tmp_path / "metrics.json")
    text = (tmp_path / "metrics.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    value = json.loads(text)
    assert value["metrics"] == json.loads(json.dumps(found.run_metrics(), allow_nan=False))
    assert set(value["metrics"]) == {"source", "adapted"}
    assert value["metrics"]["adapted"]["n"] == value["n"] == n
    assert value["order"] == ["source-only", "CluP"]
    assert len(value["rows"]["CluP"]["details"]["confusion"]) == 7


class TestRefuses:
    def test_no_row(self):
        with pytest.raises(UserError, match="`rows`"):
            evaluate({}, None, CLASSES)

    def test_an_unknown_role_with_the_closest_name(self, labels, make):
        with pytest.raises(UserError, match=r"`adapted`.*Did you mean 'CluP'"):
            evaluate({"source-only": make(labels, 0.5), "CluP": make(labels, 0.5)}, labels, CLASSES, adapted="Clup")

    def test_rows_of_different_images(self, labels, make):
        with pytest.raises(UserError, match=r"`CluP.logits` to be as many as source-only's \(350\), but got 349"):
            evaluate({"source-only": make(labels, 0.5), "CluP": make(labels[1:], 0.5)}, labels, CLASSES)

    def test_labels_of_other_images(self, labels, make):
        with pytest.raises(UserError, match="`labels`"):
            evaluate({"a": make(labels, 0.5)}, labels[1:], CLASSES)

    def test_nan(self, labels, make):
        row = make(labels, 0.5)
        row.logits[7, 0] = np.nan
        with pytest.raises(UserError, match=r"`CluP.logits` to be finite.*row 7"):
            evaluate({"source-only": make(labels, 0.5), "CluP": row}, labels, CLASSES)
