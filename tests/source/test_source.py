"""Source models: labelled faces in, a trained classifier out."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ferry.common.errors import UserError
from ferry.common.stage import StageRecord
from ferry.faces import EXPRESSIONS, drop_labels, open_faces, render_faces
from ferry.faces.decode import encode_png
from ferry.networks import Architecture, build_classifier, load_classifier, load_info
from ferry.networks.trained import load_training
from ferry.source import SourceConfig, train_on, train_supervised
from ferry.source.stage import train_source_stage

TINY = {"name": "resnet10", "width": 4, "input_size": 16}
CHOICES = {"epochs": 1, "batch_size": 16, "precision": "fp32"}


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test here."""


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "faces"
    render_faces(folder, 70, "shaded", 0, size=16, splits={"train": 0.8, "test": 0.2})
    return folder


def striped(count=48):
    pictures = np.zeros((count, 1, 16, 16), np.uint8)
    pictures[::2, :, :, ::4] = 255
    pictures[1::2, :, ::4, :] = 255
    return pictures, np.arange(count) % 2


def network(seed=0):
    return build_classifier(Architecture(**TINY), EXPRESSIONS, seed=seed)


@pytest.mark.parametrize("soft", [False, True])
def test_it_learns(soft):
    pictures, labels = striped()
    model = network()
    config = SourceConfig(epochs=12, batch_size=16, learning_rate=0.05, precision="fp32")
    result = train_supervised(model, pictures, np.eye(7)[labels] if soft else labels, config)
    images = (torch.from_numpy(pictures).float() / 255 - 0.5) / 0.25
    assert (model.eval()(images).argmax(1).numpy() == labels).mean() > 0.9
    assert result.steps == 36
    assert result.estimate.tflop > 0


@pytest.mark.parametrize(("warmup", "schedule", "peak"), [(0.25, "one_cycle", 2.0), (0.0, "cosine", 0.0)])
def test_warm_up_is_a_share_of_the_training_and_zero_is_none(monkeypatch, warmup, schedule, peak):
    import ferry.training.supervised as module

    seen = {}
    monkeypatch.setattr(module, "train", lambda method, pixels, loop, **_: seen.update(loop=loop))
    train_supervised(network(), *striped(), SourceConfig(epochs=8, warmup=warmup))
    assert (seen["loop"].schedule, seen["loop"].warmup_epochs) == (schedule, peak)
    assert seen["loop"].nesterov


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], r"`faces` to be at least two faces of two classes, but got '0 face\(s\) of 0 class\(es\)'"),
        ([3], r"got '1 face\(s\) of 1 class\(es\)'"),
        ([3, 3, 3], r"got '3 face\(s\) of 1 class\(es\)'"),
        ([0, 9], r"`labels` to be in the range 0 to 6"),
    ],
)
def test_faces_that_cannot_train_are_refused(labels, message):
    with pytest.raises(UserError, match=message):
        train_supervised(network(), striped()[0][: len(labels)], np.array(labels, int), SourceConfig())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, r"`training_epochs` to be at least 1, but got 0"),
        ({"batch_size": 1}, r"`training_batch_size` to be at least 2, but got 1"),
        ({"learning_rate": 0.0}, r"`training_learning_rate` to be positive, but got 0\.0"),
        ({"mixup": -1.0}, r"`training_mixup` to be zero or positive"),
        ({"label_smoothing": 1.0}, r"`training_label_smoothing` to be at least 0 and below 1"),
        ({"warmup": 1.0}, r"`training_warmup` to be at least 0 and below 1"),
        ({"precision": "half"}, r"`precision` to be one of auto, fp32"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        SourceConfig(**changes)


def run(faces, output, split="train", **choices):
    record = StageRecord("train-source")
    train_source_stage(str(faces), "auto", split, output, record, TINY, {**CHOICES, **choices})
    return record


def test_the_stage_writes_a_model_with_history_and_lineage(faces, tmp_path):
    record = run(faces, tmp_path / "model")
    info, training = load_info(tmp_path / "model"), load_training(tmp_path / "model")
    assert (info.method, info.classes) == ("supervised", EXPRESSIONS)
    assert len(info.lineage["faces"]) == 64
    assert training["settings"]["epochs"] == 1
    assert training["history"][-1]["kind"] == "epoch"
    assert record.facts["steps"] == training["steps"] > 0
    assert bool(torch.isfinite(load_classifier(tmp_path / "model")(torch.zeros(2, 1, 16, 16))).all())


@pytest.mark.parametrize(("split", "count"), [("train", 56), ("test", 14), ("", 70)])
def test_one_split_is_taken_or_all_of_them(faces, tmp_path, split, count):
    run(faces, tmp_path / "model", split)
    assert load_training(tmp_path / "model")["images"] == count


@pytest.mark.parametrize("split", ["train", ""])
def test_no_source_image_stays_where_other_stages_could_read_it(faces, tmp_path, monkeypatch, split):
    for name in ("FERRY_CACHE", "FERRY_CHECKPOINTS", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("HOME", str(tmp_path / "HOME"))
    run(faces, tmp_path / "model", split)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    checkpoints = {name for name in left if name.startswith("FERRY_CHECKPOINTS/source-")}
    assert checkpoints
    assert {name.split("/")[0] for name in left - checkpoints} == {"model"}


def test_a_copy_from_an_object_store_leaves_with_the_stage(faces, tmp_path, monkeypatch):
    from ferry.faces.readers import s3

    copies = []

    def synchronise(store, source, cache):
        copies.append(cache / "s3")
        shutil.copytree(faces, copies[0])
        return SimpleNamespace(path=copies[0])

    monkeypatch.setattr(s3, "ObjectStore", lambda: None)
    monkeypatch.setattr(s3, "synchronise", synchronise)
    run("s3://bucket/faces", tmp_path / "model")
    assert load_training(tmp_path / "model")["images"] == 56
    assert [copy.exists() for copy in copies] == [False]


def test_a_set_of_several_splits_is_mapped_and_not_copied_into_memory(faces, tmp_path, monkeypatch):
    import ferry.source.stage as module

    seen = []

    def watched(model, pixels, labels, *rest, **more):
        seen.extend((isinstance(pixels, np.memmap), pixels.copy(), labels))
        return train_supervised(model, pixels, labels, *rest, **more)

    monkeypatch.setattr(module, "train_supervised", watched)
    run(faces, tmp_path / "model", "")
    mapped, pixels, labels = seen
    splits = [open_faces(faces, name) for name in ("train", "test")]
    assert mapped
    np.testing.assert_array_equal(pixels, np.concatenate([split.pixels(16) for split in splits]))
    np.testing.assert_array_equal(labels, np.concatenate([split.labels for split in splits]))


def test_the_same_faces_and_seed_give_the_same_model(faces, tmp_path):
    digests = [
        run(faces, tmp_path / name, seed=seed) and load_info(tmp_path / name).digest
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_wrong_choices_are_named_as_the_pipeline_knows_them(faces, tmp_path):
    with pytest.raises(UserError, match=r"`training_epoch`.*Did you mean 'epochs'"):
        run(faces, tmp_path / "model", epoch=3)
    with pytest.raises(UserError, match=r"`network_widht`.*Did you mean 'width'"):
        train_source_stage(str(faces), "auto", "", tmp_path / "m", StageRecord("s"), {"widht": 4}, CHOICES)


def test_faces_that_cannot_be_read_or_have_no_labels_are_named_as_the_pipeline_knows_them(faces, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="Expected `faces` to be in a known layout"):
        run(tmp_path / "empty", tmp_path / "model")
    drop_labels(faces, tmp_path / "unlabelled")
    with pytest.raises(UserError, match=r"Expected `faces` to be labelled, but got '.*unlabelled in the layout faces"):
        run(tmp_path / "unlabelled", tmp_path / "model")


def test_too_many_broken_files_name_the_pipelines_parameter_and_can_be_allowed(tmp_path):
    for label in EXPRESSIONS:
        folder = tmp_path / "pictures" / label
        folder.mkdir(parents=True)
        for i in range(8):
            face = np.random.default_rng([i, len(label)]).integers(0, 256, (16, 16), dtype=np.uint8)
            (folder / f"{i}.png").write_bytes(encode_png(face))
        (folder / "broken.png").write_bytes(b"not a picture")
    given = str(tmp_path / "pictures"), "folder", "", tmp_path / "model"
    with pytest.raises(UserError, match=r"7 of 63.*allow more with -p faces_max_skipped=0\.2") as error:
        train_source_stage(*given, StageRecord("s"), TINY, CHOICES)
    listed = Path(str(error.value).rpartition("listed in ")[2].rstrip("."))
    assert len(listed.read_text().splitlines()) == 8
    train_source_stage(*given, StageRecord("s"), TINY, CHOICES, max_skipped=0.2)
    assert load_training(tmp_path / "model")["images"] == 56


def test_faces_that_are_opened_already_can_be_trained_on(faces, tmp_path):
    record = StageRecord("train-source")
    train_on(open_faces(faces, "test"), tmp_path / "model", Architecture(**TINY), SourceConfig(**CHOICES), record)
    assert load_info(tmp_path / "model").lineage["faces"] == open_faces(faces, "test").digest


def test_a_second_call_goes_on_from_the_checkpoint(faces, tmp_path, monkeypatch):
    monkeypatch.setenv("FERRY_CHECKPOINTS", str(tmp_path / "checkpoints"))
    run(faces, tmp_path / "a")
    run(faces, tmp_path / "b")
    assert load_training(tmp_path / "b")["resumed_from"] == load_training(tmp_path / "a")["steps"]
    assert load_info(tmp_path / "a").digest == load_info(tmp_path / "b").digest
