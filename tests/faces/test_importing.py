"""Imports: what is kept, dropped, skipped and refused, and that the user is told."""

import csv
import io
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from ferry.common.errors import RetryableError, UserError, expected
from ferry.faces import EXPRESSIONS, ImportConfig, RawFace, import_faces, open_faces, open_unlabelled, read_info
from PIL import Image


def png(seed, side=10):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class FakeReader:
    """A layout that holds what the test says."""

    faces: list = field(default_factory=list)
    labelled: bool = True
    name: str = "fake"

    def detect(self, source):
        return True

    def read(self, source, options):
        yield from self.faces


def face(seed, label="anger", split="", data=None, **more):
    key = more.pop("key", f"{split or 'all'}/{label}/{seed}.png")
    return RawFace(key, lambda: png(seed) if data is None else data, label, split, **more)


def failing(error, **more):
    def load():
        raise error

    return RawFace(more.pop("key", "bad.png"), load, **more)


def balanced(count, start=0, split=""):
    return [face(start + i, EXPRESSIONS[i % 7], split) for i in range(count)]


@pytest.fixture
def run(tmp_path):
    def call(faces, labelled=True, name="faces", **settings):
        return import_faces(tmp_path, tmp_path / name, FakeReader(faces, labelled), **settings)

    return call


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_faces_keep_order_labels_splits_and_groups(run, tmp_path):
    faces = [face(i, EXPRESSIONS[i % 7], "train" if i % 3 else "test", group=f"p{i}") for i in range(40)]
    report = run(faces)
    assert report.images == {"test": 14, "train": 26}
    train = open_faces(tmp_path / "faces", "train")
    wanted = [i for i in range(40) if i % 3]
    assert train.keys == [faces[i].key for i in wanted]
    assert train.labels.tolist() == [i % 7 for i in wanted]
    assert train.groups == [f"p{i}" for i in wanted]
    assert [train.image(row) for row in range(26)] == [png(i) for i in wanted]
    assert report.per_class["train"]["anger"] == sum(i % 7 == 0 for i in wanted)
    assert report.skipped == report.dropped == {}
    assert report.skipped_file is None
    assert report.duplicates_file is None
    assert sorted(path.suffix for path in (tmp_path / "faces").iterdir()) == [".json", ".parquet", ".parquet"]


def test_result_is_the_same_for_any_number_of_threads_and_twice(run):
    digests = {run(balanced(60), name=f"f{n}", workers=n, splits="hash").digests["train"] for n in (1, 2, 5)}
    assert len(digests) == 1


def test_splits_become_one_on_request(run, tmp_path):
    faces = [face(i, EXPRESSIONS[i % 7], ("train", "test", "")[i % 3]) for i in range(21)]
    assert run(faces, merge="all").images == {"all": 21}
    assert open_faces(tmp_path / "faces").keys == [one.key for one in faces]
    assert run(faces, name="some", merge="all", take="test").images == {"all": 14}


def test_contempt_and_unknown_are_dropped_and_counted_or_kept_behind_the_seven(run, tmp_path):
    faces = [*balanced(7), face(50, "contempt"), face(51, "unknown"), face(52, "unknown")]
    report = run(faces)
    assert report.dropped == {"contempt": 1, "unknown": 2}
    assert report.images == {"train": 7}
    kept = run(faces, name="kept", contempt="keep", unknown="keep")
    assert kept.classes == (*EXPRESSIONS, "contempt", "unknown")
    assert open_faces(tmp_path / "kept").labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]
    only = run(faces, name="only", unknown="keep")
    assert only.classes == (*EXPRESSIONS, "unknown")
    assert only.dropped == {"contempt": 1}


def test_unknown_rows_that_cannot_be_read_count_as_skipped_and_not_as_dropped(run):
    broken = failing(expected("label in row 3", "a known label", "hapy", "Correct it."), label="unknown")
    report = run([*balanced(30), face(70, "unknown"), broken])
    assert report.dropped == {"unknown": 1}
    assert report.skipped == {"cannot be read": 1}


def test_dropping_labels_writes_the_unlabelled_type(run, tmp_path):
    report = run([*balanced(14), face(50, "contempt")], labels="drop")
    assert report.classes is None
    assert report.per_class == {}
    assert len(open_unlabelled(tmp_path / "faces")) == 14


def test_dropped_labels_do_not_survive_in_the_keys_that_a_folder_layout_gave(run, tmp_path):
    run(balanced(14), labels="drop")
    written = b"".join(path.read_bytes() for path in (tmp_path / "faces").glob("*.parquet"))
    assert not [name for name in EXPRESSIONS if name.encode() in written]
    assert len(set(open_unlabelled(tmp_path / "faces").keys)) == 14


def test_layout_without_labels_gives_the_unlabelled_type(run, tmp_path):
    report = run([face(i, None) for i in range(5)], labelled=False)
    assert report.classes is None
    assert open_unlabelled(tmp_path / "faces").keys == [f"all/None/{i}.png" for i in range(5)]


def test_votes_are_kept_and_padded_for_extra_classes(run, tmp_path):
    votes = (0.25, 0.0, 0.0, 0.75, 0.0, 0.0, 0.0)
    run([face(1, "happiness", votes=votes), face(2, "contempt", votes=votes), face(3)], contempt="keep")
    stored = open_faces(tmp_path / "faces").votes
    np.testing.assert_array_equal(stored[0], np.float32([*votes, 0.0]))
    assert np.isnan(stored[1:]).all()


BAD = [
    ("empty file", face(0, data=b"", key="empty.png")),
    ("not an image", face(0, data=b"text", key="read me.txt")),
    ("broken image", face(0, data=png(1)[:-30], key="cut ü.png")),
    ("too small", face(0, data=png(1, 4), key="tiny.png")),
    ("too large", face(0, data=png(1, 60), key="huge.png")),
    ("cannot be read", failing(FileNotFoundError(2, "No such file or directory"), label="anger", key="gone.png")),
    ("no label", face(0, None, key="unlabelled.png")),
    ("label outside the vocabulary", face(0, "boredom", key="bored.png")),
    ("box outside the picture", face(0, box=(90, 90, 99, 99), key="box.png")),
    ("unsupported pixels", RawFace("array", bytes, "anger", pixels=np.zeros((9, 9)))),
]


def test_bad_images_are_skipped_by_name_counted_and_listed(run, tmp_path):
    report = run([*balanced(70), *[bad for _, bad in BAD]], max_skipped=0.2, max_pixels=3000)
    assert report.skipped == {reason: 1 for reason, _ in BAD}
    assert report.images == {"train": 70}
    rows = table(report.skipped_file)
    assert [(row["key"], row["reason"]) for row in rows] == [(bad.key, reason) for reason, bad in BAD]
    assert "4x4 pixels" in rows[3]["detail"]
    assert report.skipped_examples["empty file"] == ("empty.png",)
    assert "cut ü.png" in report.text()
    assert report.as_dict()["skipped"]["no label"] == 1


def test_too_many_skipped_stop_the_import_with_reasons_and_a_list(run, tmp_path):
    with pytest.raises(
        UserError, match=r"at most 0.05 of all faces(.|\n)*3 of 33: not an image 3(.|\n)*--max-skipped"
    ) as raised:
        run([*balanced(30), *[face(i, data=b"text", key=f"{i}.txt") for i in range(3)]])
    assert not (tmp_path / "faces").exists()
    assert [row["key"] for row in table(tmp_path / "faces.skipped.csv")] == ["0.txt", "1.txt", "2.txt"]
    assert "faces.skipped.csv" in str(raised.value)
    assert run([*balanced(30), face(0, data=b"text", key="0.txt")]).count == 30


def test_hopeless_import_ends_early(run, monkeypatch):
    drawn = []

    def endless():
        for i in range(100_000):
            drawn.append(i)
            yield face(i, data=b"text", key=f"{i}.txt")

    with pytest.raises(UserError, match="the first 1,000 were all skipped"):
        run(endless())
    assert len(drawn) < 2000


def test_nothing_to_import_is_an_error_that_says_why(run, tmp_path):
    with pytest.raises(UserError, match="a data set with at least one face"):
        run([])
    with pytest.raises(UserError, match="at least one face that is kept, but got 'only 3 contempt'"):
        run([face(i, "contempt") for i in range(3)])
    with pytest.raises(UserError, match="2 of 2: empty file 2"):
        run([face(i, data=b"") for i in range(2)], max_skipped=1.0)
    assert not (tmp_path / "faces").exists()


def test_overlap_is_an_error_with_the_files_and_three_ways_out(run, tmp_path):
    faces = [*balanced(10, split="train"), *balanced(30, 1000, "test"), *balanced(2, split="test")]
    with pytest.raises(UserError) as raised:
        run(faces)
    message = str(raised.value)
    assert "2 in test and train" in message
    assert "train: train/anger/0.png = test: test/anger/0.png" in message
    for way in ("--allow-overlap", "drop_from_train", "splits='hash'"):
        assert way in message
    assert len(table(tmp_path / "faces.overlap.csv")) == 4
    assert not (tmp_path / "faces").exists()


def test_overlap_message_shows_at_most_twenty_files_and_the_table_all(run, tmp_path):
    with pytest.raises(UserError) as raised:
        run([*balanced(30, split="train"), *balanced(30, split="test")])
    assert str(raised.value).count(" = test: ") == 20
    assert len(table(tmp_path / "faces.overlap.csv")) == 60


def test_allowed_overlap_is_recorded(run, tmp_path):
    faces = [*balanced(10, split="train"), *balanced(2, split="test")]
    report = run(faces, allow_overlap=True)
    assert (report.images, report.overlap, report.overlap_removed) == ({"train": 10, "test": 2}, 2, 0)
    assert any("2 pictures are in more than one split" in warning for warning in report.warnings)
    assert read_info(tmp_path / "faces").provenance["overlap"] == 2
    assert len(table(report.duplicates_file)) == 4


def test_overlap_can_leave_the_training_split_while_the_test_split_stays_whole(run, tmp_path):
    faces = [*balanced(10, split="train"), *balanced(3, 100, "validation"), *balanced(2, split="test")]
    faces += [face(100, split="test", key="again"), face(1, split="train", key="third")]
    report = run(faces, overlap="drop_from_train")
    assert report.images == {"train": 8, "validation": 2, "test": 3}
    assert report.overlap_removed == 4
    assert open_faces(tmp_path / "faces", "train").keys == [faces[i].key for i in range(2, 10)]
    assert report.duplicates_within["train"] == 1


def test_duplicates_and_conflicting_labels_are_counted_and_listed(run):
    faces = [
        face(1, key="a"),
        face(1, key="b"),
        face(1, "fear", key="c"),
        face(2, key="d"),
        face(3, key="e"),
        face(3, key="f"),
    ]
    report = run(faces)
    assert report.duplicates_within == {"train": 3}
    assert report.label_conflicts == 1
    listed = [(row["picture"], row["key"], row["label"]) for row in table(report.duplicates_file)]
    assert listed == [
        ("1", "a", "anger"),
        ("1", "b", "anger"),
        ("1", "c", "fear"),
        ("2", "e", "anger"),
        ("2", "f", "anger"),
    ]


def test_keys_that_occur_twice_are_skipped_but_may_be_in_two_splits(run, tmp_path):
    faces = [*balanced(30), face(90, key="same"), face(91, key="same")]
    report = run(faces)
    assert report.skipped == {"key occurs twice": 1}
    assert open_faces(tmp_path / "faces").keys[-2:] == [balanced(30)[-1].key, "same"]
    assert report.count == 31
    both = run([face(1, split="train", key="k"), face(2, split="test", key="k")], name="both")
    assert both.images == {"train": 1, "test": 1}


def test_hash_split_puts_the_same_picture_on_the_same_side(run, tmp_path):
    first = run(balanced(200), splits="hash", holdout_fraction=0.3)
    assert 35 <= first.images["test"] <= 85
    copies = [face(i, EXPRESSIONS[i % 7], key=f"copy {i}") for i in range(0, 200, 3)]
    run([*balanced(50, 5000), *balanced(200), *copies], name="more", splits="hash", holdout_fraction=0.3)
    for side in ("train", "test"):
        few, more = open_faces(tmp_path / "faces", side).keys, open_faces(tmp_path / "more", side).keys
        assert set(few) <= set(more)
    larger = run(balanced(200), name="larger", splits="hash", holdout_fraction=0.5)
    assert set(open_faces(tmp_path / "faces", "test").keys) < set(open_faces(tmp_path / "larger", "test").keys)
    assert larger.images["test"] > first.images["test"]


def test_hash_split_keeps_groups_together(run, tmp_path):
    run([face(i, EXPRESSIONS[i % 7], group=f"person {i % 20}") for i in range(200)], splits="hash")
    train, test = (set(open_faces(tmp_path / "faces", side).groups) for side in ("train", "test"))
    assert train
    assert test
    assert not train & test


def test_one_split_can_be_taken(run, tmp_path):
    faces = [
        *balanced(10, split="train"),
        *balanced(6, 100, "test"),
        failing(OSError("x"), split="train", label="fear"),
    ]
    assert run(faces, take="test").images == {"test": 6}
    assert run(balanced(6), name="b", take="test").images == {"test": 6}
    hashed = run(balanced(100), name="c", take="train", splits="hash")
    assert list(hashed.images) == ["train"]
    assert 60 < hashed.count < 95
    with pytest.raises(UserError, match="6 of split test"):
        run(balanced(6, split="test"), name="d", take="train")


def test_only_one_class_is_allowed_and_warned_about(run):
    report = run([face(i) for i in range(5)])
    assert report.warnings == ("The split train has only one class: anger.",)
    missing = run([face(1, "anger"), face(2, "fear")], name="b").warnings
    assert missing == ("The split train has no face of: disgust, happiness, neutral, sadness, surprise.",)


def test_blank_faces_are_kept_and_counted(run):
    blank = RawFace("blank", bytes, "fear", pixels=np.full((12, 12), 9, np.uint8))
    report = run([*balanced(7), blank])
    assert report.blank == 1
    assert report.count == 8


def test_boxes_and_pixels_are_stored_without_loss(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    picture = RawFace("a.png#1", buffer.getvalue, "fear", box=(5, 10, 25, 30))
    report = run([picture, RawFace("row 1", bytes, "anger", pixels=pixels[..., 0])])
    faces = open_faces(tmp_path / "faces")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(faces.image(0)))), pixels[10:30, 5:25])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(faces.image(1)))), pixels[..., 0])
    assert report.converted == {"cut out": 1}


def test_file_names_of_any_bytes_are_kept_readable(run, tmp_path):
    run([face(1, key=os.fsdecode(b"caf\xe9.png")), face(2, key="目 录/b.png")])
    assert open_faces(tmp_path / "faces").keys == ["caf\\udce9.png", "目 录/b.png"]


def test_an_unreachable_source_is_retryable_and_leaves_nothing(run, tmp_path):
    with pytest.raises(RetryableError, match="store is away"):
        run([*balanced(40), failing(RetryableError("The store is away."), label="fear")])
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_refused_before_anything_is_read(run, tmp_path):
    run(balanced(7))

    def untouched():
        raise AssertionError("was read")
        yield

    with pytest.raises(UserError, match="already there"):
        run(untouched())
    assert run(balanced(14), overwrite=True).count == 14


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"splits": "hsah"}, "`splits` to be one of as_given, hash, but got 'hsah'. Did you mean 'hash'"),
        ({"holdout_fraction": 1.5}, "`holdout_fraction` to be between 0 and 1"),
        ({"holdout_fractoin": 0.1}, "Did you mean 'holdout_fraction'"),
        ({"max_skipped": -1}, "`max_skipped` to be between 0 and 1"),
        ({"overlap": "drop_from_train", "allow_overlap": True}, "`allow_overlap` to be the only setting of overlap"),
        ({"config": ImportConfig(), "take": "test"}, "`config` to be the only place of settings"),
        ({"min_side": 0}, "`min_side` to be at least 1"),
        ({"take": "../x"}, "`split` to be a word"),
        ({"merge": "../x"}, "`split` to be a word"),
        ({"merge": "all", "splits": "hash"}, "`merge` to be empty"),
    ],
)
def test_wrong_settings_are_refused_with_advice(run, settings, message):
    with pytest.raises(UserError, match=message):
        run(balanced(7), **settings)


def test_provenance_is_the_same_for_the_same_import(run, tmp_path):
    run(balanced(20), name="a")
    run(balanced(20), name="b")
    assert (tmp_path / "a/faces.json").read_bytes() == (tmp_path / "b/faces.json").read_bytes()


def test_a_folder_of_files_with_every_trouble_is_imported(tmp_path):
    pytest.importorskip("ferry.faces.readers.folder")
    source = tmp_path / "Bilder mit Leerzeichen"
    for i, name in enumerate(["angry", "happy"]):
        (source / name).mkdir(parents=True)
        for j in range(12):
            (source / name / f"ä {j}.png").write_bytes(png(100 * i + j))
    (source / "angry" / "null.jpg").write_bytes(b"")
    (source / "happy" / "circle").symlink_to(source / "happy", target_is_directory=True)
    report = import_faces(source, tmp_path / "out", "folder", max_skipped=0.2)
    assert report.count == 24
    assert report.skipped == {"empty file": 1, "cannot be read": 1}
    assert "happy/circle" in report.skipped_examples["cannot be read"][0]
    assert {Path(key).parent.name for key in open_faces(tmp_path / "out").keys} == {"angry", "happy"}


def test_pillow_does_not_warn_about_what_is_skipped_or_read(run):
    bomb = io.BytesIO()
    Image.new("L", (10_000, 9_000)).save(bomb, "PNG", compress_level=1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        report = run([*balanced(20), face(90, data=bomb.getvalue(), key="large.png")], workers=2)
    assert report.skipped == {"too large": 1}
    assert [str(one.message) for one in seen] == []
