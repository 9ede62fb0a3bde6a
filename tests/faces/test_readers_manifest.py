"""Manifests in every dialect that spreadsheets write, and Faces folders as a source."""

import io
from pathlib import Path

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.faces.readers import reader
from ferry.faces.schema import FaceRecord
from ferry.faces.writer import write_faces
from PIL import Image


def manifest(folder, text, name="manifest.csv", encoding="utf-8"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def read(layout, source, **options):
    return list(reader(layout, source).read(Path(source), options))


FULL = """path,label,left,top,right,bottom,split,group
a.jpg,happy,1,2,30.2,40,train,p1
"sub/b, c.jpg",SAD,,,,,val,
a.jpg,,3,4,50,60,test,p1
"""


def test_all_columns_are_understood(tmp_path):
    file = manifest(tmp_path, FULL)
    (tmp_path / "a.jpg").write_bytes(b"a")
    chosen = reader("auto", file)
    faces = list(chosen.read(file, {}))
    assert (chosen.name, chosen.labelled) == ("manifest", True)
    assert [(face.key, face.label, face.split, face.group, face.box) for face in faces] == [
        ("a.jpg#1,2,31,40", "happiness", "train", "p1", (1, 2, 31, 40)),
        ("sub/b, c.jpg", "sadness", "validation", None, None),
        ("a.jpg#3,4,50,60", "unknown", "test", "p1", (3, 4, 50, 60)),
    ]
    assert faces[0].load() == b"a"
    with pytest.raises(UserError, match=r"`image of .*manifest.csv row 3` to be an existing image file.*sub/b, c.jpg"):
        faces[1].load()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_dialect_reads_the_same(tmp_path, delimiter, encoding, newline):
    rows = [["Path", " LABEL ", "split"], ["x.jpg", " angry ", "train"], ["", "", ""], ['"ä.jpg"', "fear", "test"]]
    file = manifest(tmp_path, newline.join(delimiter.join(row) for row in rows), encoding=encoding)
    faces = read("auto", file)
    assert [(face.key, face.label, face.split) for face in faces] == [
        ("x.jpg", "anger", "train"),
        ("ä.jpg", "fear", "test"),
    ]


def test_without_a_label_column_nothing_is_labelled(tmp_path):
    source = manifest(tmp_path, "path\na.jpg\nb.jpg\n").parent
    chosen = reader("auto", source)
    faces = list(chosen.read(source, {}))
    assert not chosen.labelled
    assert [face.label for face in faces] == [None, None]


def test_numbers_need_names(tmp_path):
    file = manifest(tmp_path, "path,label\na.jpg,0\nb.jpg,2\nc.jpg,happy\n")
    with pytest.raises(UserError, match=r"`label in .*manifest.csv row 2`.*classes=anger,disgust,fear"):
        read("manifest", file)
    assert [face.label for face in read("manifest", file, classes="sad,fear,angry")] == [
        "sadness",
        "anger",
        "happiness",
    ]
    assert [face.label for face in read("manifest", file, label_map="0=fear,2=sad")] == ["fear", "sadness", "happiness"]
    with pytest.raises(UserError, match=r"row 3` to be a label of classes \(0 = sadness\)"):
        read("manifest", file, classes="sad")
    with pytest.raises(UserError, match=r"`manifest.classes` to be names of expressions.*zebra"):
        read("manifest", file, classes="zebra")


def test_unknown_words_are_reported_before_the_first_face(tmp_path):
    file = manifest(tmp_path, "path,label\na.jpg,happy\nb.jpg,glad\nc.jpg,hapy\n")
    with pytest.raises(UserError) as error:
        reader("manifest", file).read(file, {})
    assert "'glad, hapy'" in str(error.value)
    assert "'hapy' may mean 'happiness'" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.jpg,happy\n", r"`columns of .*` to be a list that holds 'path'"),
        ("path,label\na.jpg,happy,extra\n", r"row 2` to be a row of 2 cells .*but got '3 cells'"),
        ("path,left,top\na.jpg,1,2\n", r"complete for boxes.*Add right, bottom"),
        ("path,left,top,right,bottom\na.jpg,1,2,,4\n", r"`box in .*row 2`.*right=,"),
        ("path,left,top,right,bottom\na.jpg,10,2,5,4\n", r"left < right"),
        ("path,left,top,right,bottom\na.jpg,1,2,x,4\n", r"right=x"),
        ("path,left,top,right,bottom\na.jpg,1,2,inf,4\n", r"right=inf"),
        ("path,split\na.jpg,tran\n", r"`split in .*row 2`.*Did you mean 'train'"),
        ("path,label\n,happy\n", r"`path in .*row 2` to be the path of an image"),
    ],
)
def test_wrong_rows_are_named(tmp_path, text, message):
    file = manifest(tmp_path, text)
    with pytest.raises(UserError, match=message):
        read("manifest", file)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "manifest.csv"
    file.write_bytes(b"path,label\n\xff\xfe\x00a.jpg,happy\n")
    with pytest.raises(UserError, match="UTF-8"):
        read("manifest", file)


def test_an_empty_manifest_shows_the_form(tmp_path):
    with pytest.raises(UserError, match="path,label,left,top"):
        read("manifest", manifest(tmp_path, "path,label\n"))
    with pytest.raises(UserError, match="or SRC/manifest"):
        read("manifest", tmp_path / "..")


def test_paths_may_be_absolute_and_keys_do_not_depend_on_the_machine(tmp_path):
    image = tmp_path / "pictures" / "a.jpg"
    image.parent.mkdir()
    image.write_bytes(b"a")
    inside = manifest(tmp_path, f"path\n{image}\n./pictures/../pictures/a.jpg\n")
    faces = read("manifest", inside)
    assert [face.key for face in faces] == ["pictures/a.jpg", "pictures/a.jpg"]
    elsewhere = manifest(tmp_path / "lists", "path\na.jpg\n", "any.tsv")
    assert read("manifest", elsewhere, root=str(image.parent))[0].load() == b"a"


# --- Faces folders --------------------------------------------------------------------------------------------------


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_labelled_faces_folder_comes_back_face_by_face(tmp_path):
    classes = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
    votes = (0.25, 0.0, 0.0, 0.75, 0.0, 0.0, 0.0)
    splits = {
        "train": [FaceRecord(png(1), "k1", 3, "g"), FaceRecord(png(2), "k2", 5, "g", votes=votes)],
        "test": [FaceRecord(png(3), "k3", 0, "h")],
    }
    write_faces(tmp_path / "faces", splits, classes=classes, provenance={})
    chosen = reader("auto", tmp_path / "faces")
    faces = list(chosen.read(tmp_path / "faces", {}))
    assert (chosen.name, chosen.labelled) == ("faces", True)
    assert sorted((face.key, face.label, face.split, face.group) for face in faces) == [
        ("k1", "happiness", "train", "g"),
        ("k2", "sadness", "train", "g"),
        ("k3", "anger", "test", "h"),
    ]
    by_key = {face.key: face for face in faces}
    assert by_key["k2"].load() == png(2)
    assert by_key["k2"].votes == pytest.approx(votes)
    assert by_key["k1"].votes is None


def test_an_unlabelled_faces_folder_stays_unlabelled(tmp_path):
    write_faces(tmp_path / "faces", {"train": [FaceRecord(png(1), "k1")]}, classes=None, provenance={})
    chosen = reader("auto", tmp_path / "faces")
    faces = list(chosen.read(tmp_path / "faces", {}))
    assert not chosen.labelled
    assert [(face.key, face.label, face.group) for face in faces] == [("k1", None, None)]


def test_foreign_class_names_need_a_map(tmp_path):
    record = [FaceRecord(png(1), "k1", 0)]
    write_faces(tmp_path / "faces", {"train": record}, classes=("glad", "sad"), provenance={})
    with pytest.raises(UserError, match="names of expressions, but got 'glad'"):
        read("faces", tmp_path / "faces")
    assert read("faces", tmp_path / "faces", label_map="glad=happiness")[0].label == "happiness"
