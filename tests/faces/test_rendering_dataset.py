"""Rendered faces as a Faces folder, and class mixes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.faces import open_faces, open_unlabelled, render_faces
from ferry.faces.rendering import BALANCES, EXPRESSIONS, render, sample_labels
from PIL import Image


def test_the_folder_holds_the_rendered_faces_with_their_labels(tmp_path):
    info = render_faces(tmp_path / "faces", 50, "line", 7, splits={"train": 3, "test": 2})
    train, test = open_faces(tmp_path / "faces", "train"), open_faces(tmp_path / "faces", "test")
    assert (len(train), len(test), info.count) == (30, 20, 50)
    assert train.classes == EXPRESSIONS
    drawn = render(train.labels, "line", 7)
    for index in (0, 29):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(train.image(index)))), drawn[index])


def test_no_person_and_no_key_is_in_two_splits(tmp_path):
    render_faces(tmp_path / "faces", 60, "shaded", 1, splits={"train": 0.55, "validation": 0.2, "test": 0.25})
    parts = [open_faces(tmp_path / "faces", split) for split in ("train", "validation", "test")]
    people = [set(part.groups) for part in parts]
    keys = [key for part in parts for key in part.keys]
    assert sum(map(len, people)) == len(set().union(*people))
    assert len(keys) == len(set(keys)) == 60


def test_the_same_arguments_give_the_same_folder_and_another_seed_another(tmp_path):
    digests = [
        render_faces(tmp_path / name, 20, "low_light", seed).splits["train"].digest
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert digests[0] == digests[1] != digests[2]
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in "ab"]
    assert files[0] == files[1]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files[0])


def test_without_labels_there_is_no_label_column(tmp_path):
    info = render_faces(tmp_path / "faces", 10, "webcam", 1, labels=False, channels=3)
    faces = open_unlabelled(tmp_path / "faces", "train")
    assert info.classes is None
    assert not hasattr(faces, "labels")
    assert Image.open(io.BytesIO(faces.image(0))).mode == "RGB"


def test_no_faces_give_empty_splits(tmp_path):
    assert render_faces(tmp_path / "faces", 0, "shaded", 1).count == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": -1}, "`count`.*not negative"),
        ({"size": 8}, "`size`.*at least 16"),
        ({"style": "lines"}, "`style`.*Did you mean 'line'"),
        ({"splits": {"train": 0.0}}, "`splits`.*positive shares"),
        ({"splits": {"train": 1.5, "test": -0.5}}, "`splits`.*positive shares"),
        ({"balance": "fer2031"}, "`balance`.*Did you mean 'fer2013'"),
        ({"images_per_identity": 0}, "`images_per_identity`.*at least 1"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        render_faces(tmp_path / "faces", **{"count": 4, "style": "line", "seed": 0, **arguments})
    assert not (tmp_path / "faces").exists()


def test_uniform_labels_are_balanced_to_one_and_shuffled():
    labels = sample_labels(100, "uniform", 3)
    assert set(np.bincount(labels, minlength=7)) == {14, 15}
    assert (np.diff(labels) != 0).mean() > 0.6
    np.testing.assert_array_equal(labels, sample_labels(100, "uniform", 3))
    assert not np.array_equal(labels, sample_labels(100, "uniform", 4))


def test_natural_mixes_keep_their_proportions():
    counts = np.bincount(sample_labels(28_709, "fer2013", 0), minlength=7)
    np.testing.assert_array_equal(counts, [3995, 436, 4097, 7215, 4965, 4830, 3171])
    assert sum(BALANCES["expw"]) == 91_793


def test_a_mix_may_be_given_by_name_or_in_order():
    by_name = sample_labels(30, {"sadness": 2, "anger": 1}, 0)
    assert dict(zip(*np.unique(by_name, return_counts=True), strict=True)) == {0: 10, 5: 20}
    np.testing.assert_array_equal(by_name, sample_labels(30, [1, 0, 0, 0, 0, 2, 0], 0))


@pytest.mark.parametrize(
    ("balance", "message"),
    [
        ({"sad": 1.0}, "`balance`.*'sad'"),
        ([1.0, 2.0], "`balance`.*7 weights"),
        ([0.0] * 7, "`balance`.*not all 0"),
        ([float("nan")] * 7, "`balance`.*7 weights"),
        ([1, 1, 1, 1, 1, 1, -1], "`balance`.*none negative"),
    ],
)
def test_a_wrong_mix_says_what_a_mix_is(balance, message):
    with pytest.raises(UserError, match=message):
        sample_labels(10, balance, 0)
