"""What is said and drawn about a Faces folder."""

import io
import json

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.common.files import finite
from ferry.faces import EXPRESSIONS, FaceRecord, FacesWriter, contact_sheet, summarise_faces, write_faces
from ferry.faces.decode import encode_png
from PIL import Image


def pixels(seed, width=12, height=10, channels=1):
    shape = (height, width) if channels == 1 else (height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def flat(value, side=16):
    return encode_png(np.full((side, side), value, np.uint8))


@pytest.fixture
def folder(tmp_path):
    train = [FaceRecord(encode_png(pixels(i, 10 + i, 20)), f"{i}", i % 7, group=f"p{i // 2}") for i in range(10)]
    train.append(FaceRecord(encode_png(pixels(0, 10, 20)), "copy", 1))
    train.append(FaceRecord(encode_png(pixels(50, 8, 8, 3)), "colour", 2))
    test = [
        FaceRecord(encode_png(pixels(9, 19, 20)), "shared", 2, group="p4"),
        FaceRecord(flat(5), "blank", 3, group="x"),
    ]
    write_faces(tmp_path / "faces", {"train": train, "test": test}, classes=EXPRESSIONS, provenance={"source": "here"})
    return tmp_path / "faces"


def test_summary_counts_what_is_there(folder):
    summary = summarise_faces(folder)
    train, test = summary.splits["train"], summary.splits["test"]
    assert (train.count, test.count) == (12, 2)
    assert dict(train.per_class) == dict(zip(EXPRESSIONS, [2, 3, 3, 1, 1, 1, 1], strict=True))
    widths = [*range(10, 20), 10, 8]
    assert (train.width.minimum, train.width.median, train.width.maximum) == (8, np.median(widths), 19)
    assert (train.height.minimum, train.height.maximum) == (8, 20)
    assert (train.grey, train.duplicates, train.blank, train.groups) == (11, 1, 0, 5)
    assert (test.duplicates, test.blank, test.groups) == (0, 1, 2)
    assert (summary.overlap, summary.shared_groups, summary.label_conflicts) == (1, 1, 1)
    assert summary.overlap_examples == ("train: 9 = test: shared",)
    assert train.digest_fits
    assert test.digest_fits
    text = summary.text()
    for part in ("14 faces, labelled, 7 classes", "train: 9 = test: shared", "width  8 to 19", "of 5 groups"):
        assert part in text
    json.dumps(finite(summary.as_dict()))


def test_summary_of_unlabelled_and_empty_folders(tmp_path):
    write_faces(tmp_path / "a", {"train": [FaceRecord(flat(1), "a")]}, classes=None)
    assert summarise_faces(tmp_path / "a").splits["train"].per_class is None
    assert "unlabelled" in summarise_faces(tmp_path / "a").text()
    write_faces(tmp_path / "b", {"test": []}, classes=EXPRESSIONS)
    empty = summarise_faces(tmp_path / "b")
    assert (empty.splits["test"].count, empty.splits["test"].width) == (0, None)
    assert "test: 0 faces" in empty.text()


def test_summary_names_damage(tmp_path):
    rows = [FaceRecord(flat(1), "a", 0), FaceRecord(b"text", "bad", 0), FaceRecord(flat(1), "c", 0)]
    write_faces(tmp_path / "faces", {"train": rows, "test": [FaceRecord(flat(1), "t", 0)]}, classes=EXPRESSIONS)
    path = tmp_path / "faces/faces.json"
    path.write_text(path.read_text().replace('"digest": "', '"digest": "0'))
    summary = summarise_faces(tmp_path / "faces")
    assert summary.splits["train"].unreadable == ("bad",)
    assert not summary.splits["train"].digest_fits
    assert summary.splits["train"].duplicates == 1
    assert summary.overlap_examples == ("train: a = train: c = test: t",)
    assert summary.text().count("DAMAGED") == 3


def test_summary_names_the_right_face_behind_a_damaged_one(tmp_path):
    rows = [FaceRecord(b"text", "bad", 0), FaceRecord(flat(1), "first", 0), FaceRecord(flat(2), "second", 0)]
    write_faces(tmp_path / "faces", {"train": rows, "test": [FaceRecord(flat(2), "t", 0)]}, classes=EXPRESSIONS)
    assert summarise_faces(tmp_path / "faces").overlap_examples == ("train: second = test: t",)


def test_sheet_has_a_row_per_class_with_its_faces(tmp_path):
    with FacesWriter(tmp_path / "faces", classes=("dark", "light", "none")) as writer:
        for i in range(30):
            writer.add("train", FaceRecord(flat(40 if i % 2 else 200), f"{i}", 1 - i % 2))
    path = contact_sheet(tmp_path / "faces", tmp_path / "a folder/sheet.png", per_class=4, tile=32)
    sheet = np.asarray(Image.open(path).convert("L"))
    assert (sheet == 40).sum() >= 4 * 32 * 32
    assert (sheet == 200).sum() >= 4 * 32 * 32
    dark, light = np.flatnonzero((sheet == 40).sum(1) > 100), np.flatnonzero((sheet == 200).sum(1) > 100)
    assert (len(dark), len(light)) == (32, 32)
    assert dark.max() < light.min()
    assert (sheet[light.max() + 1 :] < 130).any()  # the name of the class without faces


def test_sheet_of_unlabelled_faces_is_a_grid_that_spans_the_data(tmp_path):
    rows = [FaceRecord(flat(i, 8), f"{i}") for i in range(100)]
    write_faces(tmp_path / "faces", {"train": rows}, classes=None)
    path = contact_sheet(tmp_path / "faces", tmp_path / "sheet.png", per_class=3, tile=20)
    sheet = np.asarray(Image.open(path).convert("L"))
    shown = [value for value in range(100) if (sheet[26:] == value).sum() >= 400]
    assert shown == [5, 16, 27, 38, 50, 61, 72, 83, 94]
    again = contact_sheet(tmp_path / "faces", tmp_path / "again.png", per_class=3, tile=20)
    assert again.read_bytes() == path.read_bytes()


def test_sheet_survives_damage_and_emptiness(tmp_path):
    write_faces(tmp_path / "a", {"train": [FaceRecord(b"text", "bad", 0)]}, classes=EXPRESSIONS)
    assert Image.open(contact_sheet(tmp_path / "a", tmp_path / "a.png")).size[0] > 100
    write_faces(tmp_path / "b", {"train": []}, classes=None)
    assert Image.open(io.BytesIO(contact_sheet(tmp_path / "b", tmp_path / "b.png").read_bytes())).format == "PNG"


def test_sheet_refuses_numbers_out_of_range(folder, tmp_path):
    with pytest.raises(UserError, match="`per_class` to be between 1 and 100"):
        contact_sheet(folder, tmp_path / "x.png", per_class=0)
    with pytest.raises(UserError, match="`tile` to be between 8 and 1024"):
        contact_sheet(folder, tmp_path / "x.png", tile=5000)
