"""The import stages: one split whatever was asked for, no labels for the target, no picture on both sides."""

import csv

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.common.stage import StageRecord
from ferry.faces import EXPRESSIONS, FaceRecord, open_faces, open_unlabelled, read_info, write_faces
from ferry.faces.decode import encode_png
from ferry.faces.stage import holdout_stage, target_stage


def faces(start, count):
    """Faces with a picture and a key of their own."""
    return [
        FaceRecord(encode_png(np.random.default_rng(i).integers(0, 256, (12, 12), dtype=np.uint8)), f"{i}.png", i % 7)
        for i in range(start, start + count)
    ]


@pytest.fixture
def source(tmp_path):
    splits = {"train": faces(0, 14), "validation": faces(20, 7), "test": faces(40, 21)}
    write_faces(tmp_path / "source", splits, classes=EXPRESSIONS)
    return tmp_path / "source"


def import_target(source, folder, split):
    record = StageRecord("import-target")
    return target_stage(str(source), folder, record, layout="auto", split=split), record


def import_holdout(source, folder, target, split, allow_overlap=False):
    record = StageRecord("import-holdout")
    arguments = {"layout": "auto", "split": split, "allow_overlap": allow_overlap}
    return holdout_stage(str(source), folder, target, record, **arguments), record


@pytest.mark.parametrize(("split", "count"), [("train", 14), ("validation", 7), ("test", 21), ("", 42)])
def test_the_target_is_one_split_with_every_face_that_was_asked_for(source, tmp_path, split, count):
    found, record = import_target(source, tmp_path / "target", split)
    assert found["images"] == len(open_unlabelled(tmp_path / "target")) == count
    assert list(read_info(tmp_path / "target").splits) == [split or "train"]
    assert found["digest"] == open_unlabelled(tmp_path / "target").digest
    assert record.facts["images"] == {split or "train": count}


@pytest.mark.parametrize(("split", "count"), [("test", 21), ("", 42)])
def test_the_holdout_is_one_split_with_every_face_that_was_asked_for(source, tmp_path, split, count):
    write_faces(tmp_path / "other", {"train": faces(100, 7)}, classes=EXPRESSIONS)
    import_target(tmp_path / "other", tmp_path / "target", "")
    import_holdout(source, tmp_path / "holdout", tmp_path / "target", split)
    holdout = open_faces(tmp_path / "holdout")
    assert len(holdout) == count
    assert holdout.split == "test"
    keys = [record.key for record in (*faces(0, 14), *faces(20, 7), *faces(40, 21))]
    assert holdout.keys == (keys if not split else keys[-21:])
    assert np.bincount(holdout.labels).tolist() == [count // 7] * 7


def test_a_picture_of_any_split_of_the_target_may_not_be_in_the_holdout(source, tmp_path):
    import_target(source, tmp_path / "target", "")
    with pytest.raises(UserError, match=r"21 of 21 shared.*holdout_allow_overlap=true") as error:
        import_holdout(source, tmp_path / "holdout", tmp_path / "target", "test")
    listed = list(csv.DictReader((tmp_path / "holdout.overlap.csv").open(newline="")))
    assert [row["holdout"] for row in listed] == [record.key for record in faces(40, 21)]
    assert str(error.value).count(" = ") == 20
    assert str(tmp_path / "holdout.overlap.csv") in str(error.value)
    _, record = import_holdout(source, tmp_path / "holdout", tmp_path / "target", "test", allow_overlap=True)
    assert any("21 pictures of the holdout are in the target too" in warning for warning in record.warnings)


def test_different_splits_of_one_source_are_target_and_holdout(source, tmp_path):
    import_target(source, tmp_path / "target", "train")
    found, _ = import_holdout(source, tmp_path / "holdout", tmp_path / "target", "test")
    assert found == {"images": 21, "labelled": True, "digest": open_faces(tmp_path / "holdout").digest}


def test_the_target_has_neither_labels_nor_keys_that_tell_them(tmp_path):
    named = [FaceRecord(one.image, f"{EXPRESSIONS[one.label]}/{one.key}", one.label) for one in faces(0, 14)]
    write_faces(tmp_path / "source", {"train": named}, classes=EXPRESSIONS)
    import_target(tmp_path / "source", tmp_path / "target", "")
    written = b"".join(path.read_bytes() for path in (tmp_path / "target").iterdir())
    assert not [name for name in EXPRESSIONS if name.encode() in written]


def test_without_a_source_the_holdout_is_empty_and_says_so(source, tmp_path):
    import_target(source, tmp_path / "target", "train")
    found, record = import_holdout("", tmp_path / "holdout", tmp_path / "target", "test")
    assert found["images"] == len(open_faces(tmp_path / "holdout")) == 0
    assert record.warnings == ["No holdout was given: the report can say nothing about accuracy."]


def test_a_split_that_is_not_there_is_named(source, tmp_path):
    with pytest.raises(UserError, match="14 of split train, 7 of split validation, 21 of split test"):
        import_target(source, tmp_path / "target", "tets")


def labelled_with(classes, source, tmp_path, layout="auto"):
    write_faces(tmp_path / "other", {"train": faces(100, 7)}, classes=EXPRESSIONS)
    import_target(tmp_path / "other", tmp_path / "target", "")
    record = StageRecord("import-holdout")
    arguments = {"layout": layout, "split": "", "allow_overlap": False, "classes": classes}
    return holdout_stage(str(source), tmp_path / "holdout", tmp_path / "target", record, **arguments)


@pytest.mark.parametrize("classes", [",".join(EXPRESSIONS), ", ".join(EXPRESSIONS), ""])
def test_a_holdout_with_the_classes_of_the_source_model_is_taken(source, tmp_path, classes):
    assert labelled_with(classes, source, tmp_path)["images"] == 42


@pytest.mark.parametrize("names", [EXPRESSIONS[:6], EXPRESSIONS[::-1], (*EXPRESSIONS, "contempt")])
def test_a_holdout_with_other_classes_than_the_source_model_is_refused_before_anything_is_trained(
    source, tmp_path, names
):
    with pytest.raises(UserError) as raised:
        labelled_with(", ".join(names), source, tmp_path)
    assert f"Expected `holdout` to be labelled with the source model's classes, {', '.join(names)}" in str(raised.value)


def test_a_holdout_without_labels_is_refused(tmp_path):
    (tmp_path / "pictures").mkdir()
    for record in faces(0, 3):
        (tmp_path / "pictures" / record.key).write_bytes(record.image)
    with pytest.raises(UserError, match=r"Expected `holdout` to be labelled, but got '.*in the layout flat, without"):
        labelled_with(", ".join(EXPRESSIONS), tmp_path / "pictures", tmp_path)


@pytest.fixture
def broken(tmp_path):
    """Pictures of which a fifth cannot be read."""
    for label in EXPRESSIONS[:2]:
        folder = tmp_path / "broken" / label
        folder.mkdir(parents=True)
        for record in faces(10 * len(label), 8):
            (folder / record.key).write_bytes(record.image)
        for name in ("a.png", "b.png"):
            (folder / name).write_bytes(b"not a picture")
    return tmp_path / "broken"


def test_too_many_skipped_pictures_end_the_import_with_the_pipelines_parameter_to_change(broken, tmp_path):
    with pytest.raises(UserError, match=r"4 of 20.*allow more with -p target_max_skipped=0\.2") as raised:
        target_stage(str(broken), tmp_path / "target", StageRecord("t"), layout="folder", split="")
    assert "--max-skipped" not in str(raised.value)
    choices = {"layout": "folder", "split": "", "max_skipped": 0.2}
    found = target_stage(str(broken), tmp_path / "target", StageRecord("t"), **choices)
    assert found["images"] == 16
    with pytest.raises(UserError, match=r"4 of 20.*allow more with -p holdout_max_skipped=0\.2"):
        arguments = {"layout": "folder", "split": "", "allow_overlap": True}
        holdout_stage(str(broken), tmp_path / "holdout", tmp_path / "target", StageRecord("h"), **arguments)
    arguments.update(max_skipped=0.2)
    found = holdout_stage(str(broken), tmp_path / "holdout", tmp_path / "target", StageRecord("h"), **arguments)
    assert found["images"] == 16


def test_an_error_of_the_import_names_the_parameter_that_holds_the_path(tmp_path):
    with pytest.raises(UserError, match="Expected `target` to be"):
        target_stage(str(tmp_path / "nothing"), tmp_path / "target", StageRecord("t"), layout="auto", split="")
