"""Readers of image folders: folder, flat, sfew, and the choice of a layout."""

import os
from pathlib import Path

import pytest
from ferry.common.errors import UserError
from ferry.faces.readers import (
    READERS,
    check_options,
    default_options,
    describe,
    is_s3,
    layouts,
    reader,
)

SEVEN = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")


def plant(root, *paths):
    """Writes files whose content is their own path."""
    for path in paths:
        file = Path(root) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())
    return Path(root)


def read(layout, source, **options):
    chosen = reader(layout, source)
    return list(chosen.read(Path(source), options))


def summary(faces):
    return [(face.key, face.label, face.split) for face in faces]


def test_folder_reads_classes_in_order_with_bytes(tmp_path):
    plant(tmp_path, "happy/b.JPG", "happy/a.png", "1_surprise/x.webp", "Angry/deep/er/z.tif", "Angry/readme.txt")
    faces = read("auto", tmp_path)
    assert summary(faces) == [
        ("1_surprise/x.webp", "surprise", ""),
        ("Angry/deep/er/z.tif", "anger", ""),
        ("happy/a.png", "happiness", ""),
        ("happy/b.JPG", "happiness", ""),
    ]
    assert [face.load() for face in faces] == [face.key.encode() for face in faces]
    assert all(face.box is None and face.group is None and face.votes is None for face in faces)


@pytest.mark.parametrize(
    "extension", ["jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "gif", "ppm", "pgm", "JPG", "Png"]
)
def test_every_usual_extension_is_an_image(tmp_path, extension):
    plant(tmp_path, f"sad/1.{extension}", f"happy/1.{extension}")
    assert len(read("folder", tmp_path)) == 2


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("train", "train"),
        ("TEST", "test"),
        ("val", "validation"),
        ("Valid", "validation"),
        ("validation", "validation"),
    ],
)
def test_split_folders_give_the_split(tmp_path, word, split):
    plant(tmp_path, f"{word}/sad/1.png", f"{word}/happy/1.png")
    assert summary(read("auto", tmp_path)) == [
        (f"{word}/happy/1.png", "happiness", split),
        (f"{word}/sad/1.png", "sadness", split),
    ]


def test_splits_come_train_first(tmp_path):
    plant(tmp_path, "test/sad/1.png", "train/sad/1.png", "val/sad/1.png")
    assert [face.split for face in read("folder", tmp_path)] == ["train", "validation", "test"]


def test_unknown_and_contempt_come_through_for_the_import_to_decide(tmp_path):
    plant(tmp_path, "contempt/1.png", "unknown/1.png", "happy/1.png")
    assert [face.label for face in read("folder", tmp_path)] == ["contempt", "happiness", "unknown"]


def test_a_strange_folder_stops_before_the_first_face(tmp_path):
    plant(tmp_path, "hapy/1.png", "sad/1.png", "angry/1.png")
    with pytest.raises(UserError) as error:
        reader("folder", tmp_path).read(tmp_path, {})
    assert f"`class folders of {tmp_path}`" in str(error.value)
    assert "'hapy' may mean 'happiness'" in str(error.value)


def test_numbered_folders_are_refused_and_can_be_named(tmp_path):
    plant(tmp_path, "train/1/a.png", "train/2/a.png")
    with pytest.raises(UserError, match="A bare number means"):
        read("folder", tmp_path)
    faces = read("folder", tmp_path, label_map="1=happy,2=sad")
    assert [face.label for face in faces] == ["happiness", "sadness"]


def test_what_is_not_read_is_mentioned(tmp_path, caplog):
    plant(tmp_path, "train/sad/1.png", "train/loose.png", "extra/sad/1.png", "top.png")
    with caplog.at_level("WARNING", "ferry"):
        assert len(read("folder", tmp_path)) == 1
    assert "extra" in caplog.text
    assert "2 images outside" in caplog.text


@pytest.mark.parametrize("top", ["", "train/"])
def test_a_single_class_folder_is_recognised(tmp_path, top):
    plant(tmp_path, f"{top}happiness/1.png", f"{top}happiness/2.png")
    assert reader("auto", tmp_path).name == "folder"
    assert [face.label for face in read("auto", tmp_path)] == ["happiness", "happiness"]


def test_remains_of_operating_systems_are_not_classes(tmp_path):
    plant(tmp_path, "happy/1.png", "sad/1.png", "__MACOSX/happy/._1.png", ".git/x.png", "happy/._1.png")
    assert [face.key for face in read("auto", tmp_path)] == ["happy/1.png", "sad/1.png"]


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    store = plant(tmp_path / "store", "a.png")
    source = plant(tmp_path / "source", "sad/1.png")
    os.symlink(store, source / "happy")
    os.symlink(source, source / "sad" / "back")
    faces = {face.key: face for face in read("folder", source)}
    assert set(faces) == {"happy/a.png", "sad/1.png", "sad/back"}
    with pytest.raises(UserError, match=r"a link to an image file.*sad/back ->"):
        faces["sad/back"].load()


@pytest.mark.parametrize("layout", ["folder", "flat"])
def test_links_that_lead_nowhere_are_faces_that_cannot_be_read(tmp_path, layout):
    source = plant(tmp_path, "happy/1.png", "sad/1.png", "sad/deep/2.png")
    os.symlink("self.png", source / "sad" / "self.png")
    os.symlink("self", source / "sad" / "self")
    os.symlink(tmp_path / "gone.png", source / "happy" / "gone.png")
    os.symlink(tmp_path / "gone.txt", source / "happy" / "gone.txt")
    os.symlink(source / "sad", source / "sad" / "deep" / "up")
    os.symlink(tmp_path / "gone", source / "angry")
    faces = {face.key: face for face in read(layout, source)}
    lost = {"sad/self.png", "sad/self", "happy/gone.png", "sad/deep/up", "angry"}
    assert set(faces) == {"happy/1.png", "sad/1.png", "sad/deep/2.png", *lost}
    for key in lost:
        with pytest.raises(UserError, match="a link to an image file"):
            faces[key].load()


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    source = plant(tmp_path, "happy/1.png", "sad/1.png")
    scan = os.scandir

    def forbidden(folder):
        if str(folder).endswith("sad"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(UserError, match=r"sad` to be a readable folder, but got 'Permission denied'"):
        read("folder", source)


def test_a_file_that_vanishes_is_an_error_of_that_face_only(tmp_path):
    plant(tmp_path, "happy/1.png", "sad/1.png")
    faces = read("folder", tmp_path)
    (tmp_path / "happy" / "1.png").unlink()
    with pytest.raises(UserError, match="an existing image file"):
        faces[0].load()
    assert faces[1].load() == b"sad/1.png"


@pytest.mark.parametrize("layout", ["folder", "flat"])
def test_an_empty_source_shows_the_expected_tree(tmp_path, layout):
    with pytest.raises(UserError) as error:
        read(layout, tmp_path)
    assert "it is empty" in str(error.value)
    assert describe(layout) in str(error.value)


def test_flat_reads_any_tree_without_labels(tmp_path):
    plant(tmp_path, "b.png", "a/c.jpg", "a/a.jpg", "note.txt")
    chosen = reader("auto", tmp_path)
    assert (chosen.name, chosen.labelled) == ("flat", False)
    assert summary(chosen.read(tmp_path, {})) == [("a/a.jpg", None, ""), ("a/c.jpg", None, ""), ("b.png", None, "")]


def test_flat_is_not_chosen_where_folders_look_like_labels(tmp_path):
    plant(tmp_path, "angri/1.png", "supprise/1.png")
    with pytest.raises(UserError, match="in a known layout"):
        reader("auto", tmp_path)


def sfew(root, *tops):
    return plant(
        root,
        *[
            f"{top}/{name}/{film}_00051924{number}_0000000{number}.png"
            for top in tops
            for name in SEVEN
            for number, film in enumerate(["Airheads", "21_Grams"], start=1)
        ],
    )


@pytest.mark.parametrize(
    "tops",
    [
        ("Train", "Val"),
        ("Train_Aligned_Faces", "Val_Aligned_Faces_new"),
        ("Train/Train_Aligned_Faces", "Val/Val_Aligned_Faces"),
    ],
)
def test_sfew_knows_expression_split_and_film(tmp_path, tops):
    sfew(tmp_path, *tops)
    chosen = reader("auto", tmp_path)
    faces = list(chosen.read(tmp_path, {}))
    assert chosen.name == "sfew"
    assert len(faces) == 28
    assert {face.split for face in faces} == {"train", "validation"}
    words = dict(zip(SEVEN, ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"], strict=True))
    assert all(face.label == words[Path(face.key).parent.name] for face in faces)
    assert {face.group for face in faces} == {"Airheads", "21_Grams"}
    assert all(face.load() == face.key.encode() for face in faces)


def test_sfew_prefers_aligned_faces_and_offers_both(tmp_path):
    sfew(tmp_path, "Train", "Train_Aligned_Faces")
    assert {Path(face.key).parts[0] for face in read("sfew", tmp_path)} == {"Train_Aligned_Faces"}
    assert {Path(face.key).parts[0] for face in read("sfew", tmp_path, images="frames")} == {"Train"}
    with pytest.raises(UserError, match=r"one of auto, aligned, frames.*Did you mean 'aligned'"):
        read("sfew", tmp_path, images="alignd")


def test_sfew_leaves_the_unlabelled_test_out(tmp_path):
    sfew(tmp_path, "Train", "Val")
    plant(tmp_path, "Test/0001.png")
    assert {face.split for face in read("sfew", tmp_path)} == {"train", "validation"}


def test_sfew_without_expressions_shows_the_tree(tmp_path):
    plant(tmp_path, "Train/a.png")
    with pytest.raises(UserError, match="Airheads_000519240"):
        read("sfew", tmp_path)


def test_layouts_are_named_and_described():
    names = ["folder", "flat", "fer2013", "ferplus", "rafdb", "expw", "afe", "affectnet", "sfew", "manifest", "faces"]
    assert set(layouts()) == set(names) == set(READERS)
    for name in names:
        assert "SRC" in describe(name)
        assert not describe(name).startswith(" ")
        assert READERS[name].summary


def test_an_unknown_layout_is_met_with_the_closest(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'fer2013'"):
        reader("fer2031", tmp_path)
    with pytest.raises(UserError, match="Did you mean 'affectnet'"):
        default_options("afectnet")


def test_auto_says_what_it_found_and_what_it_knows(tmp_path):
    plant(tmp_path, "docs/x.pdf", "data.bin")
    with pytest.raises(UserError) as error:
        reader("auto", tmp_path)
    message = str(error.value)
    assert "folders docs" in message
    assert "1 .bin" in message
    assert all(f"  {name}: " in message for name in layouts())


def test_auto_refuses_a_missing_source(tmp_path):
    with pytest.raises(UserError, match="an existing file or folder"):
        reader("auto", tmp_path / "gone")
    with pytest.raises(UserError, match="an existing file or folder"):
        read("folder", tmp_path / "gone")


def test_options_are_checked_by_name_and_type(tmp_path):
    assert default_options("affectnet") == {"classes": 8, "label_map": ""}
    assert check_options("expw", {"min_confidence": "20"})["min_confidence"] == 20.0
    with pytest.raises(UserError, match=r"`fer2013.usage_tets`.*Did you mean 'usage_test'"):
        check_options("fer2013", {"usage_tets": "both"})
    with pytest.raises(UserError, match=r"`expw.min_confidence` to be a number"):
        check_options("expw", {"min_confidence": "high"})
    with pytest.raises(UserError, match=r"layout flat has no options"):
        read("flat", plant(tmp_path, "a.png"), size=3)


def test_s3_uris_are_recognised_even_as_paths():
    assert is_s3("s3://bucket/x")
    assert is_s3(Path("s3://bucket/x"))
    assert is_s3("minio://bucket")
    assert not is_s3("/data/s3")
    assert not is_s3("s3_data")
