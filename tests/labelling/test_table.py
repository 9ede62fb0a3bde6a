"""The PseudoLabels artifact: exact round trip, alignment by key, refusal of damage."""

import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from ferry.common.errors import UserError
from ferry.faces.pseudo_labels import Columns, PseudoLabels
from ferry.labelling import pseudo_labels

NAMES = ("label", "score", "cluster", "purity", "confidence", "distance", "kept", "teacher")


@pytest.fixture(name="labels")
def made():
    rng = np.random.default_rng(0)
    keys = [f"faces/{i}.png" for i in rng.permutation(50)]
    return pseudo_labels(rng.standard_normal((50, 3)), rng.standard_normal((50, 4)), keys, ("anger", "fear", "neutral"))


def columns(n=2, **changes):
    whole = {"label": np.int64, "cluster": np.int64, "teacher": np.int64, "kept": np.bool_}
    values = {name: np.zeros(n, whole.get(name, np.float32)) for name in NAMES}
    return Columns(**(values | changes))


def test_saving_and_loading_changes_nothing(labels, tmp_path):
    labels.save(tmp_path / "labels")
    loaded = PseudoLabels.load(tmp_path / "labels")
    assert (loaded.keys, loaded.classes) == (labels.keys, labels.classes)
    assert (loaded.summary, loaded.config) == (labels.summary, labels.config)
    for name in NAMES:
        a, b = getattr(labels.columns, name), getattr(loaded.columns, name)
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert sorted(os.listdir(tmp_path / "labels")) == ["labelling.json", "labels.parquet"]


def test_the_same_labels_are_the_same_bytes(labels, tmp_path):
    for name in ("a", "b"):
        labels.save(tmp_path / name)
    for file in ("labels.parquet", "labelling.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_table_opens_with_pyarrow_and_carries_its_vocabulary(labels, tmp_path):
    labels.save(tmp_path / "labels")
    table = pq.read_table(tmp_path / "labels" / "labels.parquet")
    assert table.column_names == ["key", *NAMES]
    assert json.loads(table.schema.metadata[b"classes"]) == ["anger", "fear", "neutral"]


def test_labels_follow_their_keys_and_not_their_position(labels):
    by_key = dict(zip(labels.keys, labels.columns.label.tolist(), strict=True))
    shuffled = [labels.keys[i] for i in np.random.default_rng(1).permutation(50)][:40]
    aligned = labels.align(shuffled)
    assert aligned.keys == tuple(shuffled)
    assert aligned.columns.label.tolist() == [by_key[key] for key in shuffled]
    assert aligned.columns.label.tolist() != labels.columns.label[:40].tolist()


def test_a_key_without_label_stops_the_alignment(labels):
    with pytest.raises(
        UserError, match=r"`keys`.*2 of 3 keys without one, first 'new\.png', 'other\.png'.*run the label"
    ):
        labels.align([labels.keys[0], "new.png", "other.png"])
    with pytest.raises(UserError, match="`keys` to be unique"):
        labels.align([labels.keys[0], labels.keys[0]])


def test_no_labels_make_a_table_too(tmp_path):
    PseudoLabels((), columns(0), ("anger", "fear"), {}, {}).save(tmp_path / "empty")
    assert len(PseudoLabels.load(tmp_path / "empty")) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": np.array([0, 2])}, "`columns.label` to be in the range 0 to 1, but got 'values from 0 to 2'"),
        ({"teacher": np.array([-1, 0])}, "`columns.teacher` to be in the range 0 to 1"),
        ({"cluster": np.array([-1, 0])}, "`columns.cluster` to be 0 or more, but got -1"),
        ({"score": np.array([0, np.nan], np.float32)}, "`columns.score` to be finite, but got '1 values"),
        ({"kept": np.array([0, 1])}, r"`columns.kept` to be 'bool \[2\]'|`columns.kept` to be bool \[2\]"),
        ({"purity": np.zeros(3, np.float32)}, r"`columns.purity` to be float32 \[2\], but got 'float32 \[3\]'"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        PseudoLabels(("a", "b"), columns(**changes), ("anger", "fear"), {}, {})


def damage(folder, what):
    table, info = folder / "labels.parquet", folder / "labelling.json"
    if what == "truncated":
        table.write_bytes(table.read_bytes()[:-20])
    elif what == "exchanged":
        pq.write_table(pq.read_table(table).slice(0, 10), table)
    elif what == "no table":
        table.unlink()
    elif what == "no description":
        info.unlink()
    elif what == "not JSON":
        info.write_text("{")
    else:
        content = json.loads(info.read_text())
        info.write_text(json.dumps(content | {"format_version": 2} if what == "version" else {"format_version": 1}))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("truncated", "another SHA-256.*damaged or was exchanged"),
        ("exchanged", "another SHA-256"),
        ("no table", "labels.parquet` to be an existing file"),
        ("no description", "`pseudo-labels` to be an existing file"),
        ("not JSON", "`pseudo-labels` to be valid JSON"),
        ("version", "format_version` to be 1, but got 2. Make the labels again"),
        ("incomplete", "to be complete, but got 'no classes, summary, config, table_sha256'"),
    ],
)
def test_a_damaged_folder_is_refused(labels, tmp_path, what, message):
    labels.save(tmp_path / "labels")
    damage(tmp_path / "labels", what)
    with pytest.raises(UserError, match=message):
        PseudoLabels.load(tmp_path / "labels")
