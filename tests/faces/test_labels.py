"""The vocabulary and the label codes, against tables written down a second time from the data sets' own readmes."""

import json

import pytest
from ferry.common.errors import UserError
from ferry.faces.labels import (
    CODES,
    SYNONYMS,
    VOCABULARY,
    canonical,
    label_of,
    labels_of,
    looks_like_label,
    parse_label_map,
)

OFFICIAL = {
    "fer2013": "0 anger, 1 disgust, 2 fear, 3 happiness, 4 sadness, 5 surprise, 6 neutral",
    "ferplus": "0 neutral, 1 happiness, 2 surprise, 3 sadness, 4 anger, 5 disgust, 6 fear, 7 contempt, 8 unknown, "
    "9 unknown",
    "rafdb": "1 surprise, 2 fear, 3 disgust, 4 happiness, 5 sadness, 6 anger, 7 neutral",
    "expw": "0 anger, 1 disgust, 2 fear, 3 happiness, 4 sadness, 5 surprise, 6 neutral",
    "afe": "0 anger, 1 disgust, 2 fear, 3 happiness, 4 neutral, 5 sadness, 6 surprise",
    "afe-internal": "0 neutral, 1 happiness, 3 surprise, 4 sadness, 5 disgust, 6 fear, 9 anger",
    "affectnet": "0 neutral, 1 happiness, 2 sadness, 3 surprise, 4 fear, 5 disgust, 6 anger, 7 contempt, 8 unknown, "
    "9 unknown, 10 unknown",
}


def test_every_data_set_has_a_table_and_a_source():
    assert set(CODES) == set(OFFICIAL)
    assert all(table.source for table in CODES.values())


@pytest.mark.parametrize("data_set", OFFICIAL)
def test_codes_are_the_published_ones(data_set):
    table = {int(code): name for code, name in (pair.split() for pair in OFFICIAL[data_set].split(", "))}
    assert dict(CODES[data_set].codes) == table
    for code, name in table.items():
        assert CODES[data_set].label(code, "row 1") == name
        assert CODES[data_set].label(f" {code} ", "row 1") == name


@pytest.mark.parametrize("code", [11, -1, "7.0", 3.0, True, "happy", "", None, "1_0"])
def test_a_code_outside_the_table_is_refused_with_the_table(code):
    with pytest.raises(UserError) as error:
        CODES["affectnet"].label(code, "expression in x.csv row 5")
    message = str(error.value)
    assert "`expression in x.csv row 5`" in message
    assert "1 = happiness" in message
    assert repr(code) in message
    assert "label_map" in message


def test_a_code_can_be_renamed_by_the_user():
    own = parse_label_map("3=joy, 99=contempt")
    assert CODES["expw"].label("3", "row", own) == "happiness"
    assert CODES["expw"].label(99, "row", own) == "contempt"
    assert CODES["expw"].label("0", "row", own) == "anger"


@pytest.mark.parametrize(
    ("word", "label"),
    [
        *[(name, name) for name in VOCABULARY],
        ("angry", "anger"),
        ("ANGRY", "anger"),
        ("disgusted", "disgust"),
        ("fearful", "fear"),
        ("Afraid", "fear"),
        ("Happiness", "happiness"),
        ("happy", "happiness"),
        ("Sad", "sadness"),
        ("surprised", "surprise"),
        ("1_surprise", "surprise"),
        ("03-sad", "sadness"),
        ("4 Happy", "happiness"),
        (" neutral ", "neutral"),
        ("No-Face", "unknown"),
        ("NF", "unknown"),
        ("Contempt", "contempt"),
    ],
)
def test_usual_folder_names_mean_an_expression(word, label):
    assert canonical(word) == label


@pytest.mark.parametrize("word", ["3", "07", "happy2", "persons", "", "1_1", "幸福", "happy or sad"])
def test_other_names_mean_nothing(word):
    assert canonical(word) is None


def test_synonyms_lead_into_the_vocabulary_only():
    assert set(SYNONYMS.values()) == set(VOCABULARY)


def test_strange_folders_are_reported_together_with_advice():
    with pytest.raises(UserError) as error:
        labels_of(["Hapy", "angry", "3", "zebra"], "class folders of /data")
    message = str(error.value)
    assert "`class folders of /data`" in message
    assert "'Hapy, 3, zebra'" in message
    assert "'Hapy' may mean 'happiness'" in message
    assert "'zebra' may" not in message
    assert "number means different expressions" in message
    assert "All of them: Hapy, angry, 3, zebra" in message
    assert "label_map='glad=happiness" in message


def test_many_strange_folders_are_cut_short():
    names = [f"person{number}" for number in range(300)]
    with pytest.raises(UserError, match=r"person11 and 288 more'.*All of them: .*person199 and 100 more"):
        labels_of(names, "folders")


def test_the_users_map_wins_over_the_vocabulary():
    own = parse_label_map({"Sad": "neutral", "7": "contempt"})
    assert labels_of(["SAD", "7", "angry"], "x", own) == {"SAD": "neutral", "7": "contempt", "angry": "anger"}
    assert label_of("sad", "x") == "sadness"


def test_label_map_reads_pairs_json_and_mappings(tmp_path):
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"glad": "happy", "1": "fear"}))
    wanted = {"glad": "happiness", "1": "fear"}
    assert parse_label_map("glad=happy, 1=fear") == wanted
    assert parse_label_map(str(file)) == wanted
    assert parse_label_map(file) == wanted
    assert parse_label_map({"Glad": "joy", 1: "scared"}) == wanted
    assert parse_label_map("") == parse_label_map(None) == {}


@pytest.mark.parametrize(
    ("value", "field", "advice"),
    [
        ("glad", "label_map", "glad=happiness"),
        ("=happy", "label_map", "glad=happiness"),
        ("glad=hapiness", "label_map[glad]", "Did you mean 'happiness'?"),
        ("missing.json", "label_map", "Check the path"),
        (5, "label_map", "glad=happiness"),
    ],
)
def test_a_wrong_label_map_is_refused(value, field, advice):
    with pytest.raises(UserError) as error:
        parse_label_map(value)
    assert f"`{field}`" in str(error.value)
    assert advice in str(error.value)


def test_a_json_list_is_no_label_map(tmp_path):
    file = tmp_path / "map.json"
    file.write_text("[1]")
    with pytest.raises(UserError, match="a JSON object"):
        parse_label_map(file)


def test_names_that_are_nearly_labels_are_noticed():
    assert looks_like_label("Surprized")
    assert looks_like_label("angry")
    assert looks_like_label("7")
    assert not looks_like_label("689")
    assert not looks_like_label("Al_Gore")
    assert not looks_like_label("images")
