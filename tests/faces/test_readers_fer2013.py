"""FER2013 and FER+ in all their forms."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.faces.readers import reader
from ferry.faces.readers.ferplus import majority, soft, votes_of
from ferry.faces.readers.table import Row
from ferry.faces.schema import EXPRESSIONS
from PIL import Image

NAMES = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
FOLDERS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
VOTES = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
USAGES = ("Training", "Training", "PublicTest", "PrivateTest", "Training", "Training", "Training")


def pixels(value):
    return " ".join([str(value)] * (48 * 48 - 1) + ["255"])


def write_fer2013(folder, name="fer2013.csv"):
    """Seven rows, one of each code, in the dialect of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(code, pixels(code * 10), usage) for code, usage in enumerate(USAGES)]
    if name == "fer2013.csv":
        lines = ["emotion,pixels,Usage", *(f"{code},{text},{usage}" for code, text, usage in rows)]
    else:
        lines = ["emotion, Usage, pixels", *(f"{code},{usage},{text}" for code, text, usage in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def kaggle(folder):
    for split, usage in (("train", "Training"), ("test", "PublicTest"), ("test", "PrivateTest")):
        for name in FOLDERS:
            file = folder / split / name / f"{usage}_123.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(f"{split}/{name}/{usage}".encode())
    return folder


def read(layout, source, **options):
    return list(reader(layout, source).read(Path(source), options))


@pytest.mark.parametrize("name", ["fer2013.csv", "icml_face_data.csv"])
def test_csv_gives_every_code_its_name_and_pixels(tmp_path, name):
    chosen = reader("auto", write_fer2013(tmp_path, name))
    faces = list(chosen.read(tmp_path, {}))
    assert chosen.name == "fer2013"
    assert [face.label for face in faces] == NAMES
    assert [face.split for face in faces] == ["train", "train", "validation", "test", "train", "train", "train"]
    assert [face.key for face in faces[:3]] == ["Training_00000", "Training_00001", "PublicTest_00002"]
    for code, face in enumerate(faces):
        assert face.pixels.shape == (48, 48)
        assert face.pixels.dtype == np.uint8
        assert (face.pixels[0, 0], face.pixels[-1, -1]) == (code * 10, 255)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(face.load()))), face.pixels)


def test_the_csv_itself_is_a_source(tmp_path):
    file = write_fer2013(tmp_path) / "fer2013.csv"
    assert reader("auto", file).name == "fer2013"
    assert len(read("fer2013", file)) == 7


@pytest.mark.parametrize(("usage_test", "counts"), [("auto", (5, 1, 1)), ("private", (5, 1, 1)), ("both", (5, 0, 2))])
def test_csv_splits_follow_the_option(tmp_path, usage_test, counts):
    splits = [face.split for face in read("fer2013", write_fer2013(tmp_path), usage_test=usage_test)]
    assert tuple(splits.count(name) for name in ("train", "validation", "test")) == counts


@pytest.mark.parametrize(("usage_test", "counts"), [("auto", (7, 0, 14)), ("private", (7, 7, 7)), ("both", (7, 0, 14))])
def test_folder_splits_follow_the_option(tmp_path, usage_test, counts):
    faces = read("fer2013", kaggle(tmp_path), usage_test=usage_test)
    splits = [face.split for face in faces]
    assert tuple(splits.count(name) for name in ("train", "validation", "test")) == counts
    words = dict(zip(FOLDERS, NAMES, strict=True))
    assert all(face.label == words[face.key.split("/")[1]] for face in faces)


def test_kaggle_folders_are_recognised_by_file_names(tmp_path):
    assert reader("auto", kaggle(tmp_path)).name == "fer2013"


def test_broken_pixels_are_an_error_of_their_face_only(tmp_path):
    rows = ["emotion,pixels,Usage", "3,1 2 3,Training", f"4,{pixels(9)},Training", f"0,{pixels(300)},Training"]
    (tmp_path / "fer2013.csv").write_text("\n".join(rows))
    short, whole, bright = read("fer2013", tmp_path)
    with pytest.raises(UserError, match=r"fer2013.csv row 2` to be 48 x 48 numbers, but got 3"):
        short.load()
    with pytest.raises(UserError, match=r"row 4` to be whole numbers from 0 to 255"):
        bright.load()
    assert short.pixels is None
    assert whole.label == "sadness"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"7,{pixels(1)},Training", r"`emotion in .*fer2013.csv row 2` to be a label of FER2013"),
        (f"3,{pixels(1)},Trainng", r"`Usage in .*row 2`.*Did you mean 'Training'"),
        (f"3,{pixels(1)}", r"row 2` to be a row of 3 cells .*2 cells"),
    ],
)
def test_wrong_codes_and_usages_stop_with_the_row(tmp_path, row, message):
    (tmp_path / "fer2013.csv").write_text(f"emotion,pixels,Usage\n{row}\n")
    with pytest.raises(UserError, match=message):
        read("fer2013", tmp_path)


def test_a_missing_column_is_named(tmp_path):
    (tmp_path / "fer2013.csv").write_text("emotion,pixel,Usage\n")
    with pytest.raises(UserError, match=r"'pixels'.*Did you mean 'pixel'"):
        read("fer2013", tmp_path)


def test_nothing_there_shows_the_tree(tmp_path):
    with pytest.raises(UserError, match=r"SRC/icml_face_data.csv"):
        read("fer2013", tmp_path)


# --- FER+ -----------------------------------------------------------------------------------------------------------

BALLOTS = {  # votes in the official order, majority label, soft label
    "4,0,0,1,3,2,0,0,0,0": ("unknown", "neutral"),  # 4 of 9: no majority
    "6,0,1,1,0,0,0,0,2,0": ("neutral", "neutral"),
    "0,10,0,0,0,0,0,0,0,0": ("happiness", "happiness"),
    "5,5,0,0,0,0,0,0,0,0": ("unknown", "neutral"),  # a tie is no majority; the first column wins the soft label
    "1,0,0,0,0,0,0,8,1,0": ("contempt", "contempt"),
    "2,0,0,0,0,0,0,0,8,0": ("unknown", "unknown"),
    "0,0,0,0,0,0,0,0,0,10": ("unknown", "unknown"),
}


def shares(**values):
    return tuple(values.get(name, 0.0) for name in EXPRESSIONS)


@pytest.mark.parametrize("ballot", BALLOTS)
def test_majority_and_soft_labels_follow_the_published_rule(ballot):
    votes = tuple(map(float, ballot.split(",")))
    assert (majority(votes), soft(votes)[0]) == BALLOTS[ballot]


def test_single_votes_are_noise():
    assert majority((5, 1, 1, 1, 1, 1, 0, 0, 0, 0)) == "neutral"  # 5 of 5, not of 10
    assert majority((1,) * 10) == "unknown"
    assert soft((1,) * 10) == ("unknown", None)


@pytest.mark.parametrize(
    ("votes", "label", "distribution"),
    [
        ((6, 0, 0, 4, 0, 0, 0, 0, 0, 0), "neutral", shares(neutral=0.6, sadness=0.4)),
        ((8, 0, 0, 2, 0, 0, 0, 0, 0, 0), "neutral", shares(neutral=1.0)),  # three quarters are covered by one
        ((0, 0, 5, 0, 0, 0, 5, 0, 0, 0), "surprise", shares(surprise=0.5, fear=0.5)),
        ((0, 0, 0, 0, 0, 4, 0, 6, 0, 0), "contempt", shares(disgust=1.0)),  # contempt has no place in the seven
        ((0, 0, 0, 0, 0, 0, 0, 10, 0, 0), "contempt", None),
        ((6, 0, 0, 0, 0, 0, 0, 0, 4, 0), "neutral", shares(neutral=1.0)),  # unknown behind an expression is dropped
        ((4, 0, 0, 0, 0, 0, 0, 0, 6, 0), "unknown", None),  # unknown alone on top
        ((5, 0, 0, 0, 0, 0, 0, 0, 5, 0), "unknown", None),  # half is not covered
        ((3, 3, 2, 2, 0, 0, 0, 0, 0, 0), "unknown", None),  # would need four
        ((2, 2, 2, 2, 2, 0, 0, 0, 0, 0), "unknown", None),
    ],
)
def test_soft_labels_by_hand(votes, label, distribution):
    got = soft(tuple(map(float, votes)))
    assert got[0] == label
    assert got[1] == (None if distribution is None else pytest.approx(distribution))


def published(votes, mode):
    """The authors' procedure step by step: arrays of ten, entry 8 set to one where a face is to be left out."""
    raw = np.where(np.asarray(votes) <= 1 + sys.float_info.epsilon, 0.0, votes)
    total, result, left_out = raw.sum(), np.zeros(10), np.eye(10)[8]
    if mode == "majority":
        if not raw.max() > 0.5 * total:
            return left_out
        result[raw.argmax()] = raw.max()
        return result
    count, covered, valid = 0, 0.0, True
    while covered < 0.75 * total and count < 3 and valid:
        top = raw.max()
        for index in np.flatnonzero(raw == top):
            result[index], raw[index], covered, count = top, 0.0, covered + top, count + 1
            if index >= 8:
                valid = False
                if result.sum() > top:
                    result[index], count = 0.0, count - 1
                break
    return left_out if result.sum() <= 0.5 * total or count > 3 else result


def test_rules_equal_the_published_procedure_on_random_ballots():
    names = [
        *["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "unknown"]
    ]
    random = np.random.default_rng(0)
    for _ in range(3000):
        votes = tuple(random.multinomial(10, random.dirichlet([0.4] * 10)).astype(float))
        assert majority(votes) == names[published(votes, "majority").argmax()], votes
        wanted = published(votes, "soft")
        label, distribution = soft(votes)
        assert label == names[wanted.argmax()], votes
        if label != "unknown":
            seven = np.array([wanted[names.index(name)] for name in EXPRESSIONS])
            assert (distribution is None) == (seven.sum() == 0)
            assert distribution is None or np.allclose(seven / seven.sum(), distribution)


def write_official_votes(folder, usages=USAGES):
    ballots = [
        f"{usage},{'' if index == 6 else f'fer{index:07d}.png'},{ballot}"
        for index, (usage, ballot) in enumerate(zip(usages, BALLOTS, strict=False))
    ]
    (folder / "fer2013new.csv").write_text("\n".join([f"Usage,Image name,{VOTES}", *ballots]))
    return folder


@pytest.mark.parametrize("name", ["fer2013.csv", "icml_face_data.csv"])
def test_official_votes_join_by_row(tmp_path, name):
    source = write_official_votes(write_fer2013(tmp_path, name))
    chosen = reader("auto", source)
    faces = list(chosen.read(source, {}))
    assert chosen.name == "ferplus"
    assert [face.label for face in faces] == [labels[0] for labels in BALLOTS.values()]
    assert [face.split for face in faces].count("validation") == 1
    assert faces[3].pixels[0, 0] == 30
    assert all(face.votes is None for face in faces)


def test_soft_votes_sum_to_one(tmp_path):
    faces = read("ferplus", write_official_votes(write_fer2013(tmp_path)), labels="soft")
    assert [face.label for face in faces] == [labels[1] for labels in BALLOTS.values()]
    assert faces[0].votes == pytest.approx(shares(neutral=4 / 7, anger=3 / 7))
    assert faces[5].votes is None
    assert all(sum(face.votes) == pytest.approx(1) for face in faces if face.votes is not None)


def test_votes_in_another_order_are_refused(tmp_path):
    source = write_official_votes(write_fer2013(tmp_path), usages=tuple(reversed(USAGES)))
    with pytest.raises(UserError, match=r"`Usage in .*fer2013new.csv row 4`.*same order"):
        read("ferplus", source)


def test_votes_that_end_early_are_refused(tmp_path):
    source = write_official_votes(write_fer2013(tmp_path), usages=USAGES[:4])
    with pytest.raises(UserError, match=r"as long as .*fer2013.csv.*more rows in .*fer2013.csv"):
        read("ferplus", source)


def write_images(folder):
    for index, top in enumerate(("FER2013Train", "FER2013Valid", "FER2013Test")):
        (folder / top).mkdir(parents=True)
        (folder / top / f"fer{index:07d}.png").write_bytes(top.encode())
    return folder


def test_official_image_folders_read_label_csv(tmp_path):
    source = write_images(tmp_path)
    for index, (top, ballot) in enumerate(zip(("FER2013Train", "FER2013Valid", "FER2013Test"), BALLOTS, strict=False)):
        (source / top / "label.csv").write_text(f'fer{index:07d}.png,"(0, 0, 48, 48)",{ballot}\n')
    chosen = reader("auto", source)
    faces = list(chosen.read(source, {}))
    assert chosen.name == "ferplus"
    assert [(face.label, face.split) for face in faces] == [
        ("unknown", "train"),
        ("neutral", "validation"),
        ("happiness", "test"),
    ]
    assert faces[1].load() == b"FER2013Valid"


def test_official_image_folders_read_the_common_file(tmp_path):
    source = write_official_votes(write_images(tmp_path))
    assert [face.label for face in read("ferplus", source)] == ["unknown", "neutral", "happiness"]


def test_votes_by_file_over_kaggle_folders(tmp_path):
    source = kaggle(tmp_path / "fer2013")
    votes = tmp_path / "votes.csv"
    rows = ["train/happy/Training_123.jpg,0,10,0,0,0,0,0,0,0,0", "train/sad/Training_123.jpg,9,0,0,1,0,0,0,0,0,0"]
    votes.write_text("\n".join([f"file,{VOTES}", *rows, "train/gone.jpg,9,0,0,1,0,0,0,0,0,0"]))
    faces = {face.key: face for face in read("ferplus", source, votes=str(votes))}
    assert len(faces) == 21
    assert faces["train/happy/Training_123.jpg"].label == "happiness"
    assert faces["train/sad/Training_123.jpg"].label == "neutral"
    assert faces["train/fear/Training_123.jpg"].label == "unknown"  # FER+ took it out
    assert faces["test/fear/PublicTest_123.jpg"].split == "test"
    split = {face.key: face.split for face in read("ferplus", source, votes=str(votes), usage_test="private")}
    assert split["test/fear/PublicTest_123.jpg"] == "validation"
    (source / "ferplus-votes.csv").write_text(votes.read_text())
    assert reader("auto", source).name == "ferplus"


def test_votes_of_other_files_are_refused(tmp_path):
    source = kaggle(tmp_path / "fer2013")
    votes = tmp_path / "votes.csv"
    votes.write_text(f"file,{VOTES}\nfer2013/train/happy/1.jpg,0,10,0,0,0,0,0,0,0,0")
    with pytest.raises(UserError) as error:
        read("ferplus", source, votes=str(votes))
    assert "fer2013/train/happy/1.jpg" in str(error.value)
    assert "train/angry/Training_123.jpg" in str(error.value)


def test_a_votes_file_without_the_columns_is_refused(tmp_path):
    (tmp_path / "votes.csv").write_text("file,neutral\n")
    with pytest.raises(UserError, match=r"`ferplus.votes`.*it lacks happiness"):
        read("ferplus", kaggle(tmp_path / "data"), votes=str(tmp_path / "votes.csv"))


def test_votes_must_be_numbers():
    columns = VOTES.lower().split(",")
    for cell in ("x", "-1", "nan", "inf"):
        with pytest.raises(UserError, match=r"`votes in f.csv row 3` to be ten numbers"):
            votes_of(Row(3, dict.fromkeys(columns, cell), "f.csv row 3"))
