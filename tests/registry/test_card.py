from __future__ import annotations

import dataclasses
import json

import pytest
from ferry.common.errors import UserError
from ferry.faces import EXPRESSIONS
from ferry.networks import load_info
from ferry.registry import make_card, read_card

from .conftest import LABELS, SOURCE, TARGET, make_evaluation, make_model


def card_of(model, evaluation):
    return make_card("faces", load_info(model), json.loads((evaluation / "metrics.json").read_text()))


def test_a_card_says_what_the_model_is_for_and_what_is_prohibited(model, evaluation):
    text = card_of(model, evaluation).to_markdown()
    assert "does not predict what a person feels" in text
    assert "Article 5(1)(f)" in text
    assert "work or in education" in text
    for part in ("## Intended use", "## Prohibited use", "## Data", "## Results", "## Limits", "## Lineage"):
        assert part in text
    for digest in (TARGET, SOURCE, LABELS):
        assert digest in text


def test_numbers_of_the_card_are_those_of_the_evaluation(model, evaluation):
    found = json.loads((evaluation / "metrics.json").read_text())
    card = card_of(model, evaluation)
    assert list(card.results) == ["source-only", "AdaBN", "CluP"]
    metrics = found["rows"]["CluP"]["metrics"]
    assert card.results["CluP"]["mean_class_accuracy"] == metrics["mean_class_accuracy"]
    assert {name: row["recall"] for name, row in card.per_class.items()} == {
        name: row["recall"] for name, row in metrics["per_class"].items()
    }
    low, high = found["rows"]["CluP"]["details"]["mean_class_interval"]
    expected = f"{100 * metrics['mean_class_accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    assert expected in card.to_markdown()
    assert found["verdict"]["sentence"] in card.to_markdown()


def test_a_complete_card_misses_nothing_and_survives_a_round_trip(model, evaluation, tmp_path):
    card = card_of(model, evaluation)
    assert card.missing() == []
    card.write(tmp_path)
    assert read_card(tmp_path) == card
    assert (tmp_path / "card.md").read_text() == card.to_markdown()


def test_without_a_holdout_the_card_says_that_accuracy_is_not_known(model, tmp_path):
    card = card_of(model, make_evaluation(tmp_path / "e", labelled=False))
    assert not card.measured
    assert [row["accuracy_measured"] for row in card.results.values()] == [False, False, False]
    assert card.per_class == {}
    assert "Accuracy was not measured" in card.to_markdown()
    assert "accuracy in the target domain is not known" in card.to_markdown()
    assert any("neither accuracy nor calibration" in line for line in card.limits)
    assert not any("ECE" in line for line in card.limits)
    assert card.missing() == []


def test_without_a_holdout_the_card_has_the_signals_that_need_no_labels(model, tmp_path):
    evaluation = make_evaluation(tmp_path / "e", labelled=False)
    found = json.loads((evaluation / "metrics.json").read_text())
    card = card_of(model, evaluation)
    for name, row in found["rows"].items():
        assert card.results[name]["label_free"] == row["label_free"]
    signals = found["rows"]["CluP"]["label_free"]
    lines = card.to_markdown().splitlines()
    line = next(line for line in lines if line.startswith("| CluP |"))
    assert f"| {100 * signals['mean_confidence']:.1f} % | {signals['mean_entropy']:.3f} |" in line
    assert f"| {100 * signals['agreement']:.1f} % | 140 |" in line
    line = next(line for line in lines if line.startswith("| fear |"))
    shares = [100 * found["rows"][name]["label_free"]["shares"]["fear"] for name in found["order"]]
    assert line == "| fear | " + " | ".join(f"{share:.1f} %" for share in shares) + " |"
    assert not any(line.startswith("| class | recall") for line in lines)
    card.write(tmp_path)
    assert read_card(tmp_path) == card


def test_an_evaluation_without_labels_and_signals_makes_no_results(model, evaluation):
    found = json.loads((evaluation / "metrics.json").read_text())
    nothing = {"metrics": {name: {"n": 0, "accuracy": None} for name in found["metrics"]}, "images": 140}
    for given in (nothing, {}):
        card = make_card("faces", load_info(model), given)
        assert card.missing() == ["results"]
        assert "Accuracy was not measured" in card.to_markdown()


def test_groups_appear_where_they_are_known_and_their_absence_is_a_limit(model, evaluation, tmp_path):
    without = card_of(model, evaluation)
    assert without.groups == {}
    assert any("no groups were given" in line for line in without.limits)
    card = card_of(model, make_evaluation(tmp_path / "g", groups=True))
    assert set(card.groups) == {"older", "younger"}
    assert card.groups["older"]["n"] + card.groups["younger"]["n"] == 140
    assert "| younger |" in card.to_markdown()
    assert not any("no groups were given" in line for line in card.limits)


def test_tables_keep_their_columns_whatever_a_group_is_called(model, tmp_path):
    card = card_of(model, make_evaluation(tmp_path / "g", groups=True))
    odd = dataclasses.replace(card, groups={"a|b\nc": card.groups["older"]})
    line = next(line for line in odd.to_markdown().splitlines() if "a\\|b c" in line)
    assert line.replace("\\|", "").count("|") == 6


def test_a_table_has_no_blank_line_inside(model, evaluation):
    lines = card_of(model, evaluation).to_markdown().splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("| class |"))
    assert all(line.startswith("|") for line in lines[head : head + 9])
    assert lines[head + 9] == ""


@pytest.mark.parametrize(
    "field",
    ["summary", "method", "classes", "intended_use", "prohibited_use", "limits", "data", "results", "per_class"],
)
def test_an_empty_field_is_missing(model, evaluation, field):
    card = card_of(model, evaluation)
    assert dataclasses.replace(card, **{field: type(getattr(card, field))()}).missing() == [field]


def test_blank_text_is_missing_too(model, evaluation):
    card = card_of(model, evaluation)
    blank = dataclasses.replace(card, summary=" \n", prohibited_use=("", " "), data={**card.data, "adapted to": " "})
    assert blank.missing() == ["summary", "prohibited_use", "data.adapted to"]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"data": {"evaluated on": "140 faces"}}, ["data.adapted to"]),
        ({"data": {"adapted to": "faces", "note": "old"}}, ["data.evaluated on"]),
        ({"data": {"trained on": " ", "evaluated on": "140 faces"}}, ["data.trained on"]),
        ({"per_class": {"a": {}}}, [f"per_class.{name}" for name in EXPRESSIONS]),
        ({"results": {"CluP": {}}}, [f"results.CluP.{key}" for key in ("accuracy", "mean_class_accuracy", "n")]),
        ({"results": {"CluP": None}}, ["results.CluP"]),
        (
            {"results": {"CluP": {"accuracy": None, "mean_class_accuracy": 0.5, "n": 0}}},
            ["results.CluP.accuracy", "results.CluP.n"],
        ),
        (
            {"results": {"CluP": {"accuracy": "good", "mean_class_accuracy": True, "n": 9}}},
            ["results.CluP.accuracy", "results.CluP.mean_class_accuracy"],
        ),
    ],
)
def test_what_says_nothing_is_missing(model, evaluation, changes, missing):
    assert dataclasses.replace(card_of(model, evaluation), **changes).missing() == missing


@pytest.mark.parametrize(
    ("row", "missing"),
    [
        ({"n": 3, "precision": 0.5}, ["per_class.fear"]),
        ({"recall": 0.5}, ["per_class.fear"]),
        ({"n": 0, "recall": None}, []),
        ({"n": 3, "recall": 0.0}, []),
    ],
)
def test_a_class_has_a_count_and_where_there_are_faces_a_recall(model, evaluation, row, missing):
    card = card_of(model, evaluation)
    assert dataclasses.replace(card, per_class={**card.per_class, "fear": row}).missing() == missing
    rest = {name: values for name, values in card.per_class.items() if name != "fear"}
    assert dataclasses.replace(card, per_class=rest).missing() == ["per_class.fear"]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"accuracy_measured": True}, ["accuracy", "mean_class_accuracy", "n", "per_class"]),
        ({"accuracy_measured": None}, ["accuracy", "mean_class_accuracy", "n", "per_class"]),
        ({"label_free": {}}, ["label_free"]),
        ({"label_free": "none"}, ["label_free"]),
        ({"mean_confidence": None}, ["label_free.mean_confidence"]),
        ({"shares": {}}, ["label_free.shares"]),
        ({"shares": {"anger": None}}, ["label_free.shares"]),
        ({"n": 0}, ["label_free.n"]),
        ({"mean_entropy": 0.0, "feature_rank": None, "agreement": None}, []),
    ],
)
def test_without_a_holdout_the_card_must_say_so_and_bring_signals(model, tmp_path, changes, missing):
    card = card_of(model, make_evaluation(tmp_path / "e", labelled=False))
    row = dict(card.results["CluP"])
    signals = {name: value for name, value in changes.items() if name not in ("accuracy_measured", "label_free")}
    row["label_free"] = {**row["label_free"], **signals}
    row.update({name: value for name, value in changes.items() if name not in signals})
    found = dataclasses.replace(card, results={**card.results, "CluP": row}).missing()
    assert found == [name if name == "per_class" else f"results.CluP.{name}" for name in missing]


def test_a_field_that_is_not_in_the_file_is_missing_and_not_filled_in(model, evaluation, tmp_path):
    card_of(model, evaluation).write(tmp_path)
    values = json.loads((tmp_path / "card.json").read_text())
    del values["prohibited_use"], values["limits"]
    (tmp_path / "card.json").write_text(json.dumps(values))
    assert read_card(tmp_path).missing() == ["prohibited_use", "limits"]


def test_a_model_of_unknown_target_has_an_incomplete_card(evaluation, tmp_path):
    card = card_of(make_model(tmp_path / "m", source=SOURCE), evaluation)
    assert card.missing() == ["data.adapted to"]


def test_the_data_are_counted_where_the_evaluation_knows_them(model, evaluation):
    found = json.loads((evaluation / "metrics.json").read_text())
    kept = dict.fromkeys(found["classes"], 30) | {"disgust": 0, "neutral": 1200}
    card = make_card("faces", load_info(model), {**found, "target": {"images": 2700, "kept": kept}})
    assert card.data["adapted to"] == f"2,700 unlabelled faces with the digest {TARGET}"
    assert card.data["pseudo-labels trained on"].startswith("1,350 (anger 30, disgust 0, ")
    assert "neutral 1,200" in card.to_markdown()
    assert card.data["evaluated on"] == "140 labelled faces"
    assert card.missing() == []


def test_a_method_without_pseudo_labels_has_a_complete_card(model, evaluation):
    found = json.loads((evaluation / "metrics.json").read_text())
    card = make_card("faces", load_info(model), {**found, "target": {"images": 2700}})
    assert card.data["adapted to"] == f"2,700 unlabelled faces with the digest {TARGET}"
    assert "pseudo-labels trained on" not in card.data
    assert card.missing() == []


def test_what_has_no_number_is_said_in_words(model, evaluation):
    card = card_of(model, evaluation)
    never = {**card.per_class["fear"], "precision": None}
    empty = {**card.per_class["fear"], "recall": None, "recall_interval": None, "precision": None, "n": 0}
    text = dataclasses.replace(card, per_class={**card.per_class, "fear": never, "disgust": empty}).to_markdown()
    assert "| disgust | no face | never decided | 0 |" in text
    assert f"| never decided | {never['n']} |" in text


def test_a_source_model_is_not_called_adapted(evaluation, tmp_path):
    card = card_of(make_model(tmp_path / "m", faces=TARGET), evaluation)
    assert "adapted" not in card.summary
    assert TARGET in card.data["trained on"]
    assert card.missing() == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[]", "a JSON object"),
        ('{"method": "clup"}', "no name"),
        ('{"name": "a", "colour": "red"}', "colour"),
        ('{"name": "a", "classes": "joy"}', "classes"),
        ('{"name": "a", "data": []}', "data"),
        ('{"name": ', "valid JSON"),
    ],
)
def test_a_damaged_card_is_refused_by_name(tmp_path, text, part):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(UserError, match="Expected `model card`") as caught:
        read_card(tmp_path)
    assert part in str(caught.value)


def test_a_missing_card_is_refused_with_its_path(tmp_path):
    with pytest.raises(UserError, match=r"card\.json"):
        read_card(tmp_path)
