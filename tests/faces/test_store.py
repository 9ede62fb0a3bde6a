"""The Faces artifact: what is written is what is read, by Ferry, by pyarrow and by Hugging Face datasets."""

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from ferry.common.errors import RetryableError, UserError
from ferry.faces import (
    EXPRESSIONS,
    FaceRecord,
    FacesWriter,
    UnlabelledFaces,
    drop_labels,
    open_faces,
    open_unlabelled,
    read_info,
    require_disjoint,
    require_same_classes,
    shared_faces,
    shuffle,
    write_faces,
)
from ferry.faces.schema import anonymous_key, table_schema
from ferry.faces.shuffle import memory_of, shuffled
from PIL import Image


def png(seed, side=12, mode="L"):
    shape = (side, side) if mode == "L" else (side, side, 3)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def records(count, start=0, labelled=True, **more):
    return [
        FaceRecord(png(start + i), f"ordner ü/{start + i} a.png", (start + i) % 7 if labelled else None, **more)
        for i in range(count)
    ]


@pytest.fixture
def labelled(tmp_path):
    root = tmp_path / "faces with spaces ü"
    write_faces(root, {"train": records(30), "test": records(5, 100)}, classes=EXPRESSIONS, provenance={"source": "x"})
    return root


def test_what_is_written_is_read_back_in_order(labelled):
    faces = open_faces(labelled, "train")
    assert len(faces) == 30
    assert faces.keys == [f"ordner ü/{i} a.png" for i in range(30)]
    assert faces.labels.dtype == np.int64
    assert faces.labels.tolist() == [i % 7 for i in range(30)]
    assert faces.classes == EXPRESSIONS
    assert list(faces.iter_images()) == [png(i) for i in range(30)]
    assert [faces.image(i) for i in (29, 0, -1, 7)] == [png(29), png(0), png(29), png(7)]
    with pytest.raises(IndexError):
        faces.image(30)
    assert faces.groups is None
    assert faces.votes is None


def test_description_counts_per_split_and_class(labelled):
    info = read_info(labelled)
    assert info.count == 35
    assert {name: split.count for name, split in info.splits.items()} == {"train": 30, "test": 5}
    assert list(info.splits) == ["train", "test"]
    assert dict(info.splits["train"].per_class) == dict(zip(EXPRESSIONS, [5, 5, 4, 4, 4, 4, 4], strict=True))
    assert info.provenance == {"source": "x"}


def test_many_shards_and_row_groups_hold_the_same_as_one(tmp_path):
    one = write_faces(tmp_path / "one", {"train": records(40)}, classes=EXPRESSIONS)
    with FacesWriter(tmp_path / "many", classes=EXPRESSIONS, shard_bytes=3000, row_group_bytes=1000) as writer:
        for record in records(40):
            writer.add("train", record)
    files = sorted(path.name for path in (tmp_path / "many").glob("*.parquet"))
    assert len(files) > 3
    assert files[0] == f"train-00000-of-{len(files):05d}.parquet"
    many = open_faces(tmp_path / "many")
    assert [many.image(i) for i in range(40)] == [png(i) for i in range(40)]
    assert list(many.iter_images()) == [png(i) for i in range(40)]
    assert many.digest == one.splits["train"].digest


def test_digest_depends_on_keys_images_and_order_but_not_on_labels(tmp_path):
    def digest(name, rows, classes=EXPRESSIONS):
        return write_faces(tmp_path / name, {"train": rows}, classes=classes).splits["train"].digest

    base = digest("a", records(3))
    assert digest("b", records(3)) == base
    assert digest("c", records(3, labelled=False), None) == base
    assert digest("d", records(3)[::-1]) != base
    assert digest("e", [*records(2), FaceRecord(png(9), records(3)[2].key, 2)]) != base
    assert digest("f", [*records(2), FaceRecord(png(2), "other", 2)]) != base


def test_unlabelled_type_has_no_label_anywhere(tmp_path):
    write_faces(tmp_path / "faces", {"train": records(4, labelled=False)}, classes=None)
    faces = open_unlabelled(tmp_path / "faces")
    assert type(faces) is UnlabelledFaces
    assert not any("label" in name.lower() or "class" in name.lower() for name in vars(faces))
    assert not hasattr(faces, "labels")
    assert not hasattr(faces, "classes")
    assert pq.read_schema(next((tmp_path / "faces").glob("*.parquet"))).names == ["image", "key"]
    with pytest.raises(UserError, match=r"labelled Faces folder.*has no labels"):
        open_faces(tmp_path / "faces")


def test_opening_labelled_data_as_unlabelled_is_refused_with_advice(labelled):
    with pytest.raises(UserError, match=r"an unlabelled Faces folder.*labels where none may be.*drop_labels"):
        open_unlabelled(labelled)


def test_label_column_that_the_description_hides_is_found(labelled):
    path = labelled / "faces.json"
    content = json.loads(path.read_text())
    content["classes"] = None
    for split in content["splits"].values():
        split["per_class"] = None
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="labels where none may be"):
        open_unlabelled(labelled)


def test_drop_labels_copies_everything_but_labels(tmp_path):
    rows = [
        FaceRecord(png(i), f"{i}", i % 7, group=f"p{i // 2}" if i else None, votes=(1.0,) + (0.0,) * 6)
        for i in range(6)
    ]
    write_faces(tmp_path / "faces", {"train": rows, "test": []}, classes=EXPRESSIONS)
    info = drop_labels(tmp_path / "faces", tmp_path / "copy")
    source, copy = open_faces(tmp_path / "faces", "train"), open_unlabelled(tmp_path / "copy", "train")
    assert info.classes is None
    assert source.groups == ["", "p0", "p1", "p1", "p2", "p2"]
    given = zip(map(anonymous_key, source.keys), source.groups, source.iter_images(), strict=True)
    assert sorted(zip(copy.keys, copy.groups, copy.iter_images(), strict=True)) == sorted(given)
    assert len(open_unlabelled(tmp_path / "copy", "test")) == 0


def test_dropped_labels_leave_no_trace_in_keys_or_paths(tmp_path):
    rows = [FaceRecord(png(i), f"train/{EXPRESSIONS[i % 7]}/{i}.png", i % 7) for i in range(6)]
    write_faces(tmp_path / "faces", {"train": rows}, classes=EXPRESSIONS)
    drop_labels(tmp_path / "faces", tmp_path / "copy")
    shards = b"".join(path.read_bytes() for path in (tmp_path / "copy").iterdir())
    assert not [name for name in EXPRESSIONS if name.encode() in shards]


def test_the_order_of_faces_whose_labels_were_dropped_does_not_tell_the_classes(tmp_path):
    rows = [FaceRecord(png(i % 5), f"{EXPRESSIONS[i // 40]}/{i}.png", i // 40) for i in range(280)]
    for name, order in (("sorted", rows), ("reversed", rows[::-1])):
        write_faces(tmp_path / name, {"train": order}, classes=EXPRESSIONS)
        drop_labels(tmp_path / name, tmp_path / f"{name}-copy")
    copies = [open_unlabelled(tmp_path / f"{name}-copy") for name in ("sorted", "reversed")]
    assert copies[0].keys == copies[1].keys
    assert copies[0].digest == copies[1].digest
    labels = {anonymous_key(row.key): row.label for row in rows}
    found = np.array([labels[key] for key in copies[0].keys])
    neighbours = (found[1:] == found[:-1]).mean()
    assert neighbours < 0.25  # 1 / 7 by chance, 0.98 class after class
    assert abs(np.corrcoef(found, np.arange(280))[0, 1]) < 0.2
    drop_labels(tmp_path / "sorted-copy", tmp_path / "again")
    assert open_unlabelled(tmp_path / "again").keys == copies[0].keys


def by_digest(faces):
    return sorted(faces, key=lambda record: hashlib.sha256(record.key.encode()).digest())


SHUFFLES = {
    "none": ([], 1000),
    "in memory": (records(300, labelled=False), 1 << 30),
    "buckets": (records(300, labelled=False), 40_000),
    "buckets of buckets": (records(300, labelled=False), 3000),
    "labels, groups and votes": (records(60, group="ä", path="p", votes=(0.5,) * 7), 3000),
    "a face larger than memory": ([FaceRecord(bytes(9000), f"{i}") for i in range(5)], 3000),
    "copies of a key": ([FaceRecord(b"%d" % i, "same") for i in range(20)], 3000),
}


@pytest.mark.parametrize("name", SHUFFLES)
def test_shuffling_through_buckets_is_sorting_by_digest(tmp_path, monkeypatch, name):
    faces, most = SHUFFLES[name]
    monkeypatch.setattr(shuffle, "SORTED_BYTES", most)
    labelled = any(face.label is not None for face in faces)
    schema = table_schema(EXPRESSIONS if labelled else None, group=labelled, votes=labelled)
    faces = [replace(face, path=face.path or face.key) for face in faces]
    assert list(shuffled(iter(faces), sum(map(memory_of, faces)), schema, tmp_path)) == by_digest(faces)
    assert not list(tmp_path.iterdir())


def test_shuffling_holds_no_more_records_than_it_may(tmp_path, monkeypatch):
    """The sizes of images differ, so that buckets of equal ranges differ, too."""
    monkeypatch.setattr(shuffle, "SORTED_BYTES", 20_000)
    monkeypatch.setattr(shuffle, "_MOST_BUCKETS", 4)
    monkeypatch.setattr(shuffle, "_BUFFERED_BYTES", 0)
    held = []

    def watched(given, key):
        given = list(given)
        held.append(sum(map(memory_of, given)))
        return sorted(given, key=key)

    monkeypatch.setattr(shuffle, "sorted", watched, raising=False)
    faces = [FaceRecord(bytes(5000 if i % 50 == 0 else 10), f"{i}", path="p") for i in range(500)]
    size = sum(map(memory_of, faces))
    assert list(shuffled(iter(faces), size, table_schema(None), tmp_path)) == by_digest(faces)
    assert size > 20_000 * 4
    assert max(held) <= 20_000
    assert sum(held) == size


def test_what_a_record_takes_in_memory_is_not_underestimated():
    def made():
        return [
            FaceRecord(bytes(600), f"face-{i:024x}", path=f"ordner/{i:024x}", group=f"{i:05d}") for i in range(5000)
        ]

    tracemalloc.start()
    try:
        faces = made()
        order = by_digest(faces)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(order) == 5000
    assert 0.7 < peak / sum(map(memory_of, faces)) <= 1.0


def test_a_shuffled_folder_larger_than_memory_is_the_same_and_leaves_no_bucket(tmp_path, monkeypatch):
    faces = [*records(200, labelled=False), *records(20, 500, labelled=False, group="p")]
    plain, small = tmp_path / "plain", tmp_path / "small"
    for root, most in ((plain, 1 << 30), (small, 4096)):
        monkeypatch.setattr(shuffle, "SORTED_BYTES", most)
        with FacesWriter(root, classes=None, shuffle=True, row_group_bytes=2048, shard_bytes=16384) as writer:
            for record in faces:
                writer.add("train", record)
            writer.drop("train", [3, 4])
    assert open_unlabelled(plain).digest == open_unlabelled(small).digest
    assert open_unlabelled(small).keys == [record.key for record in by_digest(faces[:3] + faces[5:])]
    assert sorted(path.name for path in plain.iterdir()) == sorted(path.name for path in small.iterdir())


def test_labelled_faces_give_a_view_without_labels(labelled):
    view = open_faces(labelled, "test").without_labels()
    assert type(view) is UnlabelledFaces
    assert view.keys == open_faces(labelled, "test").keys
    assert not hasattr(view, "labels")


def test_empty_holdout_is_a_legal_split(tmp_path):
    write_faces(tmp_path / "faces", {"test": []}, classes=EXPRESSIONS)
    faces = open_faces(tmp_path / "faces")
    assert (len(faces), faces.keys, faces.labels.shape, list(faces.iter_images())) == (0, [], (0,), [])
    assert faces.pixels(8, 3, tmp_path / "cache").shape == (0, 3, 8, 8)


def test_split_is_chosen_by_name_or_is_the_only_one_or_train(labelled, tmp_path):
    assert open_faces(labelled).split == "train"
    write_faces(tmp_path / "one", {"validation": records(2)}, classes=EXPRESSIONS)
    assert open_faces(tmp_path / "one").split == "validation"
    with pytest.raises(UserError, match=r"`split` to be one of train, test, but got 'tset'. Did you mean 'test'"):
        open_faces(labelled, "tset")
    write_faces(tmp_path / "two", {"a": records(2), "b": records(2, 9)}, classes=EXPRESSIONS)
    with pytest.raises(UserError, match="Name one of them"):
        open_faces(tmp_path / "two")


def test_group_and_votes_appear_as_soon_as_one_face_has_them(tmp_path):
    plain = [FaceRecord(png(i), f"{i}", 0) for i in range(5)]
    late = FaceRecord(png(9), "9", 1, group="person", votes=(0.5, 0.5) + (0.0,) * 5)
    write_faces(tmp_path / "faces", {"test": plain[:2], "train": [*plain, late]}, classes=EXPRESSIONS)
    schemas = {path.name: pq.read_schema(path).names for path in (tmp_path / "faces").glob("*.parquet")}
    assert set(map(tuple, schemas.values())) == {("image", "label", "key", "group", "votes")}
    faces = open_faces(tmp_path / "faces")
    assert faces.groups == [""] * 5 + ["person"]
    assert np.isnan(faces.votes[:5]).all()
    np.testing.assert_array_equal(faces.votes[5], np.float32([0.5, 0.5, 0, 0, 0, 0, 0]))
    assert len(faces) == read_info(tmp_path / "faces").splits["train"].count == 6


def test_dropped_rows_leave_no_trace(tmp_path):
    with FacesWriter(tmp_path / "faces", classes=EXPRESSIONS, row_group_bytes=800) as writer:
        for record in records(10):
            writer.add("train", record)
        assert writer.keys("train", {3, 9}) == {3: "ordner ü/3 a.png", 9: "ordner ü/9 a.png"}
        writer.drop("train", [3, 9])
    kept = [record for i, record in enumerate(records(10)) if i not in (3, 9)]
    expected = write_faces(tmp_path / "expected", {"train": kept}, classes=EXPRESSIONS)
    assert read_info(tmp_path / "faces").splits["train"].digest == expected.splits["train"].digest
    assert read_info(tmp_path / "faces").splits["train"].per_class == expected.splits["train"].per_class
    assert len(list((tmp_path / "faces").iterdir())) == 2


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (FaceRecord(b"x", "a", 7), "`label` to be an index into the 7 classes, but got 7"),
        (FaceRecord(b"x", "a", None), "`label` to be an index into the 7 classes, but got None"),
        (FaceRecord(b"x", "", 0), "`key` to be non-empty"),
        (FaceRecord(b"x", "\udcff", 0), "`key` to be non-empty UTF-8"),
        (FaceRecord(b"", "a", 0), "`image` to be encoded image bytes"),
        (FaceRecord(b"x", "a", 0, votes=(1.0,)), "`votes` to be one share for each of the 7 classes"),
    ],
)
def test_records_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path, record, message):
    with pytest.raises(UserError, match=message):
        write_faces(tmp_path / "faces", {"train": [record]}, classes=EXPRESSIONS)
    assert list(tmp_path.iterdir()) == []


def test_labels_and_bad_names_are_refused_where_they_do_not_belong(tmp_path):
    with pytest.raises(UserError, match="absent in the unlabelled type"):
        write_faces(tmp_path / "faces", {"train": records(1)}, classes=None)
    with pytest.raises(UserError, match="`split` to be a word"):
        write_faces(tmp_path / "faces", {"../train": records(1)}, classes=EXPRESSIONS)
    with pytest.raises(UserError, match="`classes` to be different"):
        write_faces(tmp_path / "faces", {"train": []}, classes=("a", "a"))
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_refused_and_overwrite_replaces_only_faces(labelled, tmp_path):
    before = read_info(labelled)
    with pytest.raises(UserError, match=r"A Faces folder is already there: pass overwrite=True"):
        write_faces(labelled, {"train": records(2)}, classes=EXPRESSIONS)
    assert read_info(labelled) == before
    write_faces(labelled, {"train": records(2)}, classes=EXPRESSIONS, overwrite=True)
    assert read_info(labelled).count == 2
    other = tmp_path / "holiday"
    other.mkdir()
    (other / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(UserError, match="never replaced"):
        write_faces(other, {"train": records(2)}, classes=EXPRESSIONS, overwrite=True)
    assert (other / "photo.jpg").read_bytes() == b"precious"
    (tmp_path / "empty").mkdir()
    write_faces(tmp_path / "empty", {"train": records(2)}, classes=EXPRESSIONS)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_interrupted_writing_leaves_the_old_folder_and_no_rest(labelled, failure, monkeypatch):
    before = read_info(labelled)

    def fail(*_):
        raise failure

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    kind = RetryableError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(kind, match="large enough" if kind is RetryableError else None):
        write_faces(labelled, {"train": records(2)}, classes=EXPRESSIONS, overwrite=True)
    assert read_info(labelled) == before
    assert [path.name for path in labelled.parent.iterdir()] == [labelled.name]


def shard(root):
    return root / "train-00000-of-00001.parquet"


def truncate(root):
    shard(root).write_bytes(shard(root).read_bytes()[:-40])


def flip_a_bit(root):
    content = bytearray(shard(root).read_bytes())
    content[content.index(png(17)) + 60] ^= 1
    shard(root).write_bytes(content)


def exchange(root):
    shard(root).write_bytes((root / "test-00000-of-00001.parquet").read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"train-00000-of-00001.parquet` to be a readable Parquet file"),
        (flip_a_bit, r"train-00000-of-00001.parquet` to be a readable Parquet file"),
        (exchange, r"30 faces in split 'train'"),
        (lambda root: shard(root).unlink(), r"train-00000-of-00001.parquet` to be an existing file"),
        (lambda root: shard(root).write_bytes(b""), r"train-00000-of-00001.parquet` to be a readable Parquet file"),
        (lambda root: (root / "faces.json").unlink(), r"a Faces folder, which holds faces.json.*ferry faces import"),
        (lambda root: (root / "faces.json").write_text("{"), r"faces.json` to be valid JSON"),
        (lambda root: (root / "faces.json").write_text("[]"), r"faces.json` to be a description of faces"),
    ],
)
def test_damage_is_named_with_its_file(labelled, damage, message):
    damage(labelled)
    with pytest.raises(UserError, match=message):
        list(open_faces(labelled, "train").iter_images())


def test_a_shard_that_may_not_be_read_is_not_called_damaged(labelled, monkeypatch):
    def forbidden(path, **given):
        raise PermissionError(13, f"Failed to open local file '{path}'")

    monkeypatch.setattr(pq, "ParquetFile", forbidden)
    with pytest.raises(UserError, match=r"parquet` to be readable for this user.*Change its permissions"):
        open_faces(labelled, "train")


def edited(root, change):
    path = root / "faces.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=99), "of format version 1, but got 99"),
        (lambda c: c.update(format="other"), "a description of faces"),
        (lambda c: c.pop("splits"), "a complete description of faces"),
        (lambda c: c["splits"]["train"].update(files=["../../etc/passwd"]), "a complete description of faces"),
        (lambda c: c.update(classes=["a", "a"]), "a complete description of faces"),
    ],
)
def test_wrong_description_is_refused_by_name(labelled, change, message):
    edited(labelled, change)
    with pytest.raises(UserError, match=rf"faces.json` to be {message}"):
        open_faces(labelled)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"`faces` to be an existing folder, but got .*nowhere"):
        open_faces(tmp_path / "nowhere")


def test_class_vocabularies_must_be_the_same_in_the_same_order(labelled):
    faces = open_faces(labelled)
    require_same_classes(faces, EXPRESSIONS, "classes of the model")
    with pytest.raises(UserError, match=r"`classes of the model` to be the classes anger.*missing: surprise"):
        require_same_classes(faces, EXPRESSIONS[:-1], "classes of the model")
    with pytest.raises(UserError, match=r"surplus: contempt"):
        require_same_classes(faces, (*EXPRESSIONS, "contempt"), "classes")
    with pytest.raises(UserError, match=r"their order differs"):
        require_same_classes(faces, EXPRESSIONS[::-1], "classes")


def test_sets_that_share_pictures_are_told_apart_by_pixels_not_bytes(tmp_path):
    shared = io.BytesIO()
    Image.open(io.BytesIO(png(3))).convert("RGB").save(shared, "PNG", compress_level=0)
    write_faces(tmp_path / "a", {"train": records(5)}, classes=EXPRESSIONS)
    write_faces(
        tmp_path / "b", {"test": [FaceRecord(shared.getvalue(), "copy", 0), *records(2, 50)]}, classes=EXPRESSIONS
    )
    a, b = open_faces(tmp_path / "a"), open_faces(tmp_path / "b")
    assert shared_faces(a, b) == [("ordner ü/3 a.png", "copy")]
    with pytest.raises(
        UserError, match=r"`holdout` to be free of pictures.*1 of 3 shared(.|\n)*ordner ü/3 a.png = copy"
    ):
        require_disjoint(a, b)
    write_faces(tmp_path / "c", {"test": records(2, 50)}, classes=EXPRESSIONS)
    require_disjoint(a, open_faces(tmp_path / "c"))


_WITH_DATASETS = """
import sys, datasets
root = sys.argv[1]
for loaded in (
    datasets.load_dataset(root),
    datasets.load_dataset("parquet", data_dir=root),
    datasets.load_dataset("parquet", data_files={"train": root + "/train-*.parquet", "test": root + "/test-*.parquet"}),
):
    assert {name: len(split) for name, split in loaded.items()} == {"train": 30, "test": 5}, loaded
    train = loaded["train"]
    assert train.features["label"].names == ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
    assert type(train.features["image"]).__name__ == "Image"
    face = train[3]
    assert face["image"].size == (12, 12) and face["image"].mode == "L"
    assert (face["label"], face["key"], face["group"]) == (3, "ordner 3", "p")
    assert face["votes"] == [1.0] + [0.0] * 6, face["votes"]
"""


@pytest.mark.slow
def test_hugging_face_datasets_opens_the_folder_as_it_is(tmp_path):
    pytest.importorskip("datasets")
    root = tmp_path / "faces with spaces"
    votes = (1.0,) + (0.0,) * 6
    rows = [FaceRecord(png(i), f"ordner {i}", i % 7, group="p", votes=votes) for i in range(35)]
    with FacesWriter(root, classes=EXPRESSIONS) as writer:
        for i, record in enumerate(rows):
            writer.add("train" if i < 30 else "test", record)
        (writer.folder / "skipped.csv").write_text("key,reason,detail\na,broken image,\n")
    places = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", _WITH_DATASETS, str(root)], env={**os.environ, **places}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
