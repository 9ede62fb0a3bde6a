"""Data sets with lists of annotations: RAF-DB, ExpW, AFE, AffectNet."""

from pathlib import Path

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.faces.readers import reader

RAFDB = dict(enumerate(["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"], start=1))
EXPW = dict(enumerate(["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]))
AFE = dict(enumerate(["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]))
AFE_INTERNAL = {0: "neutral", 1: "happiness", 3: "surprise", 4: "sadness", 5: "disgust", 6: "fear", 9: "anger"}
AFFECTNET = dict(
    enumerate(
        [
            "neutral",
            "happiness",
            "sadness",
            "surprise",
            "fear",
            "disgust",
            "anger",
            "contempt",
            "unknown",
            "unknown",
            "unknown",
        ],
    )
)
AFFECTNET_HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
)


def put(path, content=b"image"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def read(layout, source, **options):
    return list(reader(layout, source).read(Path(source), options))


# --- RAF-DB ---------------------------------------------------------------------------------------------------------


def rafdb(root, kind="aligned", below="basic/"):
    lines = []
    for code in RAFDB:
        for split in ("train", "test"):
            lines.append(f"{split}_{code:05d}.jpg {code}")
            suffix = "_aligned" if kind == "aligned" else ""
            put(root / f"{below}Image/{kind}/{split}_{code:05d}{suffix}.jpg", f"{split} {code}")
    put(root / f"{below}EmoLabel/list_patition_label.txt", "\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("below", ["basic/", ""])
@pytest.mark.parametrize("kind", ["aligned", "original"])
def test_rafdb_reads_codes_and_splits_from_the_list(tmp_path, kind, below):
    chosen = reader("auto", rafdb(tmp_path, kind, below))
    faces = list(chosen.read(tmp_path, {}))
    assert chosen.name == "rafdb"
    assert len(faces) == 14
    for face in faces:
        split, code = face.load().decode().split()
        assert (face.label, face.split) == (RAFDB[int(code)], split)
        assert face.box is None


def test_rafdb_crops_originals_to_the_official_box(tmp_path):
    rafdb(tmp_path, "original")
    put(tmp_path / "basic/Annotation/boundingbox/train_00001_boundingbox.txt", "10.5 20.2 110.1 120.9")
    put(tmp_path / "basic/Annotation/boundingbox/test_00001_boundingbox.txt", "10 20 5 120")
    faces = {face.key: face for face in read("rafdb", tmp_path)}
    assert faces["train_00001.jpg"].box == (10, 20, 111, 121)
    assert faces["train_00002.jpg"].box is None
    with pytest.raises(UserError, match="left < right"):
        faces["test_00001.jpg"].load()


def test_rafdb_takes_the_asked_kind_of_image(tmp_path):
    rafdb(tmp_path, "aligned")
    assert read("rafdb", tmp_path)[0].load() == b"train 1"
    with pytest.raises(UserError, match="Image/original"):
        read("rafdb", tmp_path, images="original")


def test_rafdb_reads_numbered_folders(tmp_path):
    for code in RAFDB:
        put(tmp_path / f"DATASET/train/{code}/train_{code:05d}_aligned.jpg", str(code))
        put(tmp_path / f"DATASET/test/{code}/test_{code:05d}_aligned.jpg", str(code))
    chosen = reader("auto", tmp_path)
    faces = list(chosen.read(tmp_path, {}))
    assert chosen.name == "rafdb"
    assert [face.split for face in faces] == ["train"] * 7 + ["test"] * 7
    assert all(face.label == RAFDB[int(face.load())] for face in faces)


def test_numbered_folders_of_another_set_are_not_taken_for_rafdb(tmp_path):
    for code in range(1, 8):
        put(tmp_path / f"train/{code}/image{code}.jpg")
    with pytest.raises(UserError, match="in a known layout"):
        reader("auto", tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train_00001.jpg 8", r"`label in .*row 1` to be a label of RAF-DB .*1 = surprise"),
        ("train_00001.jpg", r"row 1` to be the columns name label"),
        ("other_00001.jpg 3", r"`file in .*row 1` to be named train_\* or test_\*"),
    ],
)
def test_rafdb_names_the_wrong_row(tmp_path, line, message):
    rafdb(tmp_path)
    put(tmp_path / "basic/EmoLabel/list_patition_label.txt", line)
    with pytest.raises(UserError, match=message):
        read("rafdb", tmp_path)


def test_rafdb_without_images_shows_the_tree(tmp_path):
    put(tmp_path / "EmoLabel/list_patition_label.txt", "train_00001.jpg 3")
    with pytest.raises(UserError, match=r"Image/aligned/train_00001_aligned.jpg"):
        read("rafdb", tmp_path)


def test_a_listed_image_that_is_missing_is_an_error_of_that_face(tmp_path):
    rafdb(tmp_path)
    (tmp_path / "basic/Image/aligned/train_00001_aligned.jpg").unlink()
    with pytest.raises(UserError, match=r"`image of .*list_patition_label.txt row 1` to be an existing image file"):
        read("rafdb", tmp_path)[0].load()


# --- ExpW -----------------------------------------------------------------------------------------------------------


def expw(root):
    lines = [f"photo {code % 2}.jpg {code} 1{code} 2{code} 6{code} 7{code} {10 * code + 5}.5 {code}" for code in EXPW]
    put(root / "label/label.lst", "\n".join(lines))
    for number in (0, 1):
        put(root / f"image/origin/photo {number}.jpg", f"photo {number}")
    return root


def test_expw_reads_boxes_in_the_order_top_left_right_bottom(tmp_path):
    chosen = reader("auto", expw(tmp_path))
    faces = list(chosen.read(tmp_path, {}))
    assert chosen.name == "expw"
    assert [face.label for face in faces] == list(EXPW.values())
    assert faces[3].box == (23, 13, 63, 73)
    assert faces[3].key == "photo 1.jpg#3"
    assert faces[3].group == "photo 1.jpg"
    assert faces[3].load() == b"photo 1"
    assert {face.split for face in faces} == {""}


def test_expw_leaves_doubtful_boxes_out(tmp_path):
    assert [face.label for face in read("expw", expw(tmp_path), min_confidence=45.5)] == [
        "sadness",
        "surprise",
        "neutral",
    ]


def test_expw_skips_an_empty_box_and_stops_at_a_wrong_label(tmp_path):
    expw(tmp_path)
    put(tmp_path / "label/label.lst", "photo 0.jpg 0 50 20 10 70 9.0 3\nphoto 0.jpg 1 1 1 5 5 9.0 7")
    faces = reader("expw", tmp_path).read(tmp_path, {})
    with pytest.raises(UserError, match=r"`box in .*label.lst row 1`.*left=20, top=50, right=10"):
        next(faces).load()
    with pytest.raises(UserError, match=r"`label in .*label.lst row 2` to be a label of ExpW"):
        next(faces)


@pytest.mark.parametrize("missing", ["label", "image"])
def test_expw_without_a_part_shows_the_tree(tmp_path, missing):
    expw(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"SRC/image/origin/\*.jpg"):
        read("expw", tmp_path)


# --- AFE ------------------------------------------------------------------------------------------------------------


def afe(root, codes):
    lines = [f"a/b c/{code}.jpg 1 2 30.5 40 {code}" for code in codes]
    put(root / "annos/TrainTest/Train.csv", "\n".join(lines))
    put(root / "annos/TrainTest/Test.csv", lines[0])
    for code in codes:
        put(root / f"src/image/a/b c/{code}.jpg", str(code))
    return root


@pytest.mark.parametrize(("coding", "table"), [("public", AFE), ("internal", AFE_INTERNAL)])
def test_afe_reads_both_codings(tmp_path, coding, table):
    chosen = reader("auto", afe(tmp_path, table))
    faces = list(chosen.read(tmp_path, {"coding": coding}))
    assert chosen.name == "afe"
    assert [face.label for face in faces] == [*table.values(), next(iter(table.values()))]
    assert [face.split for face in faces] == ["train"] * 7 + ["test"]
    assert {face.box for face in faces} == {(1, 2, 31, 40)}
    assert faces[0].key == "a/b c/0.jpg#1,2,31,40"
    assert faces[0].load() == b"0"


def test_afe_with_the_wrong_coding_is_noticed_where_it_can_be(tmp_path):
    with pytest.raises(UserError, match=r"label of AFE \(0 = anger"):
        read("afe", afe(tmp_path, AFE_INTERNAL))
    with pytest.raises(UserError, match=r"label of AFE \(internal coding\)"):
        read("afe", afe(tmp_path, AFE), coding="internal")


def test_afe_without_images_shows_the_tree(tmp_path):
    put(tmp_path / "annos/TrainTest/Train.csv", "x.jpg 1 2 3 4 0")
    with pytest.raises(UserError, match=r"SRC/src/image/<path>"):
        read("afe", tmp_path)


# --- AffectNet ------------------------------------------------------------------------------------------------------


def affectnet_folders(root, store=lambda code: np.array(str(code))):
    for folder in ("train_set", "val_set"):
        for code in AFFECTNET:
            put(root / folder / f"images/{code}.jpg", str(code))
            (root / folder / "annotations").mkdir(exist_ok=True)
            np.save(root / folder / f"annotations/{code}_exp.npy", store(code))
            np.save(root / folder / f"annotations/{code}_val.npy", np.array("0.5"))
    return root


@pytest.mark.parametrize(
    "store",
    [lambda code: np.array(str(code)), np.array, lambda code: np.array([float(code)])],
    ids=["text", "int", "float"],
)
def test_affectnet_reads_annotations_of_every_kind(tmp_path, store):
    chosen = reader("auto", affectnet_folders(tmp_path, store))
    faces = list(chosen.read(tmp_path, {}))
    assert chosen.name == "affectnet"
    assert len(faces) == 22
    assert all(face.label == AFFECTNET[int(face.load())] for face in faces)
    assert [face.split for face in faces] == ["train"] * 11 + ["validation"] * 11
    assert faces[0].key == "train_set/images/0.jpg"


def test_affectnet_with_seven_classes_leaves_contempt_out(tmp_path, caplog):
    affectnet_folders(tmp_path)
    with caplog.at_level("INFO", "ferry"):
        seven = read("affectnet", tmp_path, classes="7")
    assert len(seven) == 20
    assert "contempt" not in {face.label for face in seven}
    assert "2 faces that show contempt" in caplog.text
    with pytest.raises(UserError, match=r"`affectnet.classes` to be 7 or 8, but got 9"):
        read("affectnet", tmp_path, classes=9)


class Bomb:
    def __reduce__(self):
        return (print, ("this code must not run",))


def test_affectnet_never_unpickles(tmp_path, capsys):
    affectnet_folders(tmp_path)
    np.save(tmp_path / "train_set/annotations/0_exp.npy", np.array(Bomb(), dtype=object), allow_pickle=True)
    (tmp_path / "train_set/annotations/1_exp.npy").unlink()
    put(tmp_path / "train_set/annotations/2_exp.npy", b"")
    faces = read("affectnet", tmp_path)
    for face, reason in (
        (faces[0], "a number in npy format"),
        (faces[1], "there for every image"),
        (faces[3], "a number in npy format"),
    ):
        assert face.label == "unknown"
        with pytest.raises(UserError, match=reason):
            face.load()
    assert "must not run" not in capsys.readouterr().out


def test_affectnet_without_images_shows_the_tree(tmp_path):
    (tmp_path / "train_set/annotations").mkdir(parents=True)
    with pytest.raises(UserError, match="train_set/images"):
        read("affectnet", tmp_path)


def affectnet_lists(root, header=True, lists="", images="Manually_Annotated_Images"):
    rows = [f"689/{code}.jpg,10,20,{100 + code},50,1;2;3,{code},-2,-2" for code in AFFECTNET]
    rows[10] = "689/10.jpg,NULL,NULL,NULL,NULL,NULL,10,-2,-2"
    for name in ("training.csv", "validation.csv"):
        put(root / f"{lists}{name}", "\n".join(([AFFECTNET_HEADER] if header or name[0] == "t" else []) + rows))
    for code in AFFECTNET:
        put(root / f"{images}/689/{code}.jpg", str(code))
    return root


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(
    ("lists", "images"),
    [
        ("", "Manually_Annotated_Images"),
        ("Manually_Annotated_file_lists/", "Manually_Annotated/Manually_Annotated_Images"),
    ],
)
def test_affectnet_reads_lists(tmp_path, header, lists, images):
    chosen = reader("auto", affectnet_lists(tmp_path, header, lists, images))
    faces = list(chosen.read(tmp_path, {}))
    assert chosen.name == "affectnet"
    assert [face.label for face in faces] == [*AFFECTNET.values()] * 2
    assert [face.split for face in faces] == ["train"] * 11 + ["validation"] * 11
    assert faces[3].box == (10, 20, 113, 70)
    assert faces[10].box is None
    assert faces[3].load() == b"3"


def test_affectnet_lists_without_images_show_the_tree(tmp_path):
    put(tmp_path / "training.csv", AFFECTNET_HEADER)
    with pytest.raises(UserError, match="SRC/Manually_Annotated_Images"):
        read("affectnet", tmp_path)


@pytest.mark.parametrize("layout", ["rafdb", "expw", "afe", "affectnet", "fer2013", "ferplus", "sfew", "faces"])
def test_a_source_of_another_kind_shows_the_expected_tree(tmp_path, layout):
    put(tmp_path / "pictures/a.jpg")
    with pytest.raises(UserError) as error:
        read(layout, tmp_path)
    assert f"The layout {layout} looks like this:" in str(error.value)
    assert "folders pictures" in str(error.value)
