"""The stages on artifacts, from end to end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ferry.adaptation.stage import adabn_stage, fine_tuning_stage
from ferry.common.errors import UserError
from ferry.faces import EXPRESSIONS, open_unlabelled
from ferry.faces.pseudo_labels import Columns, PseudoLabels
from ferry.networks import build_encoder, load_classifier, load_info, load_source, save_model, write_sidecar
from ferry.networks.trained import load_training, skip_model, skipped_reason

from .conftest import architecture


@pytest.fixture
def labels(faces, tmp_path):
    """Pseudo-labels for two thirds of the faces, in another order than the faces."""
    folder, truth = faces
    keys = open_unlabelled(folder).keys
    order = np.random.default_rng(0).permutation(len(keys))
    count = len(keys)
    flat = np.ones(count, np.float32)
    columns = Columns(truth, flat, truth, flat, flat, flat, np.arange(count) % 3 != 0, truth).take(order)
    PseudoLabels(tuple(keys[i] for i in order), columns, EXPRESSIONS, {}, {}).save(tmp_path / "labels")
    return tmp_path / "labels"


@pytest.fixture
def inputs(faces, saved_source, labels, tmp_path):
    save_model(build_encoder(architecture(), 5), tmp_path / "encoder", method="swav", lineage={})
    return {"target": faces[0], "source": saved_source, "pretrained": tmp_path / "encoder", "labels": labels}


CHOICES = {"epochs": 1, "batch_size": 16, "precision": "fp32"}


def test_adabn_writes_an_adapted_model(faces, saved_source, tmp_path, record):
    adabn_stage(faces[0], saved_source, tmp_path / "out", record)
    info = load_info(tmp_path / "out")
    assert (info.method, info.classes) == ("adabn", EXPRESSIONS)
    assert info.lineage == {"source": load_source(saved_source).digest, "target": open_unlabelled(faces[0]).digest}
    assert info.digest != info.lineage["source"]
    assert record.warnings == []


@pytest.fixture
def foreign(tmp_path):
    """An ONNX model with its sidecar: outputs, but no weights."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = np.random.default_rng(0).normal(size=(256, 7)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])],
        "tiny",
        [helper.make_tensor_value_info("x", kind, ["n", 1, 16, 16])],
        [helper.make_tensor_value_info("logits", kind, ["n", 7])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "tiny.onnx")
    write_sidecar(tmp_path / "tiny.onnx", EXPRESSIONS, size=16, channels=1, multiply=1 / 255, add=0)
    return tmp_path / "tiny.onnx"


def test_adabn_of_a_foreign_model_is_left_out_with_the_reason(faces, foreign, tmp_path, record):
    adabn_stage(faces[0], foreign, tmp_path / "out", record)
    assert "foreign model" in skipped_reason(tmp_path / "out")
    assert "No AdaBN row" in record.warnings[0]


@pytest.mark.parametrize("start", ["pretrained", "source", "adabn", "scratch"])
def test_every_start_gives_a_saved_model_with_its_history_and_lineage(inputs, tmp_path, record, start):
    fine_tuning_stage(inputs, tmp_path / "out", record, start=start, **CHOICES)
    info, training = load_info(tmp_path / "out"), load_training(tmp_path / "out")
    assert (info.method, info.classes) == ("clup", EXPRESSIONS)
    assert set(info.lineage) == {"source", "target", "labels", "pretrained"}
    used = load_info(inputs["pretrained"]).digest if start == "pretrained" else "none"
    assert info.lineage["pretrained"] == used
    assert training["settings"]["start"] == start
    assert training["settings"]["learning_rate"] > 0
    assert training["history"][-1]["kind"] == "epoch"
    assert record.facts == {"kept": 46, "steps": 3}
    assert bool(torch.isfinite(load_classifier(tmp_path / "out")(torch.zeros(2, 1, 16, 16))).all())


def test_adabn_of_a_foreign_model_is_an_error_where_nothing_else_would_come_out(faces, foreign, tmp_path, record):
    with pytest.raises(UserError, match=r"Expected `source` to be a model of Ferry, with its weights.*ferry run clup"):
        adabn_stage(faces[0], foreign, tmp_path / "out", record, required=True)
    assert not (tmp_path / "out").exists()


def test_labels_meet_their_faces_by_key_and_only_kept_ones_are_used(inputs, faces, tmp_path, record, monkeypatch):
    import ferry.adaptation.stage as module

    seen = {}

    def spy(network, pixels, labels, config, **named):
        seen.update(pixels=pixels, labels=labels)
        return original(network, pixels, labels, config, **named)

    original = module.fine_tune
    monkeypatch.setattr(module, "fine_tune", spy)
    fine_tuning_stage(inputs, tmp_path / "out", record, start="source", **CHOICES)
    target = open_unlabelled(faces[0])
    kept = np.arange(len(target)) % 3 != 0
    np.testing.assert_array_equal(seen["labels"], faces[1][kept])
    np.testing.assert_array_equal(seen["pixels"], target.pixels(16, 1)[kept])


def test_the_settings_of_a_model_are_those_that_were_used(inputs, faces, tmp_path, record):
    fine_tuning_stage(inputs, tmp_path / "out", record, start="source", **{**CHOICES, "batch_size": 1000})
    settings = load_training(tmp_path / "out")["settings"]
    assert settings["batch_size"] == record.facts["kept"] < len(open_unlabelled(faces[0]))
    assert (settings["epochs"], settings["learning_rate"]) == (1, 0.005)


def test_without_a_pretraining_a_pretrained_start_says_why(inputs, tmp_path, record):
    skip_model(tmp_path / "none", "No pretraining was asked for.")
    given = {**inputs, "pretrained": tmp_path / "none"}
    with pytest.raises(UserError, match=r"`finetuning_start`.*No pretraining was asked for\. Choose a pretraining"):
        fine_tuning_stage(given, tmp_path / "out", record, **CHOICES)
    fine_tuning_stage(given, tmp_path / "out", record, start="source", **CHOICES)
    assert load_info(tmp_path / "out").lineage["pretrained"] == "none"


def test_a_foreign_source_can_be_adapted_but_not_started_from(inputs, foreign, tmp_path, record):
    given = {**inputs, "source": foreign}
    with pytest.raises(UserError, match=r"`finetuning_start`.*A foreign model gives outputs but no weights"):
        fine_tuning_stage(given, tmp_path / "out", record, start="adabn", **CHOICES)
    fine_tuning_stage(given, tmp_path / "out", record, start="pretrained", **CHOICES)
    assert load_info(tmp_path / "out").classes == EXPRESSIONS


def test_wrong_choices_are_named(inputs, tmp_path, record):
    with pytest.raises(UserError, match=r"`finetuning_mixap`.*Did you mean 'mixup'"):
        fine_tuning_stage(inputs, tmp_path / "out", record, mixap=0.1)
    with pytest.raises(UserError, match=r"`finetuning_epochs` to be a whole number, but got 'many'"):
        fine_tuning_stage(inputs, tmp_path / "out", record, epochs="many")


def test_the_same_call_goes_on_from_its_checkpoint_and_another_start_does_not(inputs, tmp_path, record, monkeypatch):
    monkeypatch.setenv("FERRY_CHECKPOINTS", str(tmp_path / "checkpoints"))
    fine_tuning_stage(inputs, tmp_path / "one", record, start="source", **CHOICES)
    fine_tuning_stage(inputs, tmp_path / "two", record, start="source", **CHOICES)
    assert load_info(tmp_path / "one").digest == load_info(tmp_path / "two").digest
    assert load_training(tmp_path / "two")["resumed_from"] == 3
    fine_tuning_stage(inputs, tmp_path / "three", record, start="scratch", **CHOICES)
    assert load_training(tmp_path / "three")["resumed_from"] is None
