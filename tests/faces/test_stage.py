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
    found, record = import_holdout(source, tmp_path / "holdout", tmp_path / "target", "test", allow_overlap=True)
    assert found["shared"] == 21
    assert any("21 pictures of the holdout are in the target too" in warning for warning in record.warnings)


def test_different_splits_of_one_source_are_target_and_holdout(source, tmp_path):
    import_target(source, tmp_path / "target", "train")
    found, _ = import_holdout(source, tmp_path / "holdout", tmp_path / "target", "test")
    assert found == {"images": 21, "labelled": True, "digest": open_faces(tmp_path / "holdout").digest, "shared": 0}


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


def test_fewer_faces_than_the_settings_need_end_the_import(source, tmp_path):
    choices = {"layout": "auto", "split": "train"}
    with pytest.raises(UserError, match=r"Expected `target` to be at least 15 faces.*but got '14 faces'"):
        target_stage(str(source), tmp_path / "target", StageRecord("t"), min_faces=15, **choices)
    assert target_stage(str(source), tmp_path / "target", StageRecord("t"), min_faces=14, **choices)["images"] == 14


def import_labels(labels, folder, target, source="", **choices):
    record = StageRecord("import-holdout")
    settings = {"layout": "auto", "split": "test", "allow_overlap": False, "target_labels": str(labels), **choices}
    return holdout_stage(str(source) if source else "", folder, target, record, **settings), record


def labels_of(target):
    """Label by key of the target's faces, which are those of the fixture: face i has the label i % 7."""
    pictures = {record.image: record.label for record in (*faces(0, 14), *faces(20, 7), *faces(40, 21))}
    return {key: pictures[image] for key, image in zip(target.keys, target.iter_images(), strict=True)}


@pytest.mark.parametrize("with_holdout", [True, False])
def test_labels_of_the_target_are_a_split_of_their_own_beside_the_holdout(source, tmp_path, with_holdout):
    import_target(source, tmp_path / "target", "train")
    plain, _ = import_holdout(source if with_holdout else "", tmp_path / "plain", tmp_path / "target", "test")
    given = source if with_holdout else ""
    found, record = import_labels(source, tmp_path / "holdout", tmp_path / "target", given)
    assert found == {**plain, "target_labels": 14}
    assert record.facts["target_labels"] == 14
    test, before = open_faces(tmp_path / "holdout", "test"), open_faces(tmp_path / "plain", "test")
    assert (test.keys, test.labels.tolist(), test.digest) == (before.keys, before.labels.tolist(), before.digest)
    target, known = open_unlabelled(tmp_path / "target"), open_faces(tmp_path / "holdout", "target")
    assert dict(zip(known.keys, known.labels.tolist(), strict=True)) == labels_of(target)
    assert list(known.iter_images()) == list(target.iter_images())
    assert list(read_info(tmp_path / "holdout").splits) == ["test", "target"]
    assert not list(tmp_path.glob("holdout.*"))


def test_groups_and_votes_of_the_holdout_and_its_list_of_skipped_files_stay(tmp_path):
    votes = tuple(float(i == 2) for i in range(7))
    marked = [FaceRecord(one.image, one.key, one.label, f"person {one.label}") for one in faces(0, 4)]
    marked += [FaceRecord(one.image, one.key, one.label, votes=votes) for one in faces(4, 4)]
    write_faces(tmp_path / "source", {"test": [*marked, FaceRecord(b"broken", "b.png", 0)]}, classes=EXPRESSIONS)
    write_faces(tmp_path / "other", {"train": faces(100, 7)}, classes=EXPRESSIONS)
    import_target(tmp_path / "other", tmp_path / "target", "")
    choices = {"source": tmp_path / "source", "max_skipped": 0.5}
    import_labels(tmp_path / "other", tmp_path / "holdout", tmp_path / "target", **choices)
    holdout = open_faces(tmp_path / "holdout", "test")
    assert holdout.groups == ["person 0", "person 1", "person 2", "person 3", "", "", "", ""]
    assert np.isnan(holdout.votes[:4]).all()
    assert holdout.votes[4:].tolist() == [list(votes)] * 4
    assert "b.png" in (tmp_path / "holdout" / "skipped.csv").read_text()


def test_only_faces_of_the_target_whose_label_is_sure_are_kept(source, tmp_path):
    import_target(source, tmp_path / "target", "train")
    first, second, third, *_ = faces(0, 14)
    other = [FaceRecord(second.image, "again.png", 5), *faces(200, 3)]
    write_faces(tmp_path / "some", {"train": [first, second, third, *other]}, classes=EXPRESSIONS)
    found, _ = import_labels(tmp_path / "some", tmp_path / "holdout", tmp_path / "target")
    assert found["target_labels"] == 2
    assert sorted(open_faces(tmp_path / "holdout", "target").labels) == [0, 2]


def test_pictures_that_the_target_shares_with_its_labels_are_no_overlap_but_with_the_holdout_they_are(source, tmp_path):
    import_target(source, tmp_path / "target", "")
    with pytest.raises(UserError, match="21 of 21 shared"):
        import_labels(source, tmp_path / "holdout", tmp_path / "target", source, target_labels_split="")
    choices = {"allow_overlap": True, "target_labels_split": ""}
    found, _ = import_labels(source, tmp_path / "holdout", tmp_path / "target", source, **choices)
    assert (found["images"], found["target_labels"]) == (21, 42)


def test_the_holdout_is_named_test_whichever_split_it_was(source, tmp_path):
    import_target(source, tmp_path / "target", "train")
    import_labels(source, tmp_path / "holdout", tmp_path / "target", source, split="validation")
    assert open_faces(tmp_path / "holdout", "test").keys == [record.key for record in faces(20, 7)]
    assert read_info(tmp_path / "holdout").provenance["settings"]["take"] == "validation"


def test_wrong_labels_of_the_target_are_refused_by_name_and_leave_nothing_behind(source, tmp_path):
    import_target(source, tmp_path / "target", "train")
    (tmp_path / "pictures").mkdir()
    for one in faces(0, 3):
        (tmp_path / "pictures" / one.key).write_bytes(one.image)
    write_faces(tmp_path / "foreign", {"train": faces(300, 3)}, classes=EXPRESSIONS)
    write_faces(tmp_path / "damaged", {"train": [FaceRecord(b"broken", "b.png", 0)]}, classes=EXPRESSIONS)
    for labels, choices, message in (
        (source, {"target_labels_split": "test"}, "labelled faces of the target, but got .* none of its 14 pictures"),
        (tmp_path / "foreign", {}, "labelled faces of the target"),
        (tmp_path / "pictures", {}, "labelled, but got .*in the layout flat, without labels"),
        (tmp_path / "nothing", {}, ""),
        (tmp_path / "damaged", {}, ".*1 of 1"),
        (source, {"classes": "anger, fear"}, "labelled with the source model's classes, anger, fear"),
    ):
        with pytest.raises(UserError, match=f"Expected `target_labels` to be {message}"):
            import_labels(labels, tmp_path / "holdout", tmp_path / "target", **choices)
        assert not (tmp_path / "holdout.target-labels").exists()
    with pytest.raises(UserError, match="`target_labels_layout`"):
        import_labels(source, tmp_path / "holdout", tmp_path / "target", target_labels_layout="fer2031")
