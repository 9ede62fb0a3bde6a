"""Pretraining from end to end: where it starts, what it writes, and which settings collapse."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from ferry.common.errors import TrainingDiverged, UserError
from ferry.common.stage import StageRecord
from ferry.faces import EXPRESSIONS, drop_labels, open_unlabelled, render_faces
from ferry.networks import Architecture, build_classifier, build_encoder, load_encoder, load_info, save_model
from ferry.networks.sources import FerrySource
from ferry.networks.trained import load_training, skipped_reason
from ferry.pretraining import first_encoder, preset, pretrain
from ferry.pretraining.config import chance_loss
from ferry.pretraining.pretraining import first_weights
from ferry.pretraining.stage import run_stage

ARCHITECTURE = Architecture(name="resnet10", width=4, input_size=16)
QUICK = {"epochs": 2, "batch_size": 16, "prototypes": 8, "precision": "fp32", "queue": 16, "queue_start_steps": 2}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    render_faces(folder / "labelled", 64, "low_light", 0, size=16, splits={"train": 1.0})
    drop_labels(folder / "labelled", folder / "unlabelled")
    return folder / "unlabelled"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "source"
    model = build_classifier(Architecture(**{**vars(ARCHITECTURE), "bottleneck": 8}), EXPRESSIONS, seed=3)
    save_model(model, folder, method="supervised", lineage={})
    return folder


def same(one, other):
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("method", ["swav", "deepcluster"])
def test_the_stage_writes_an_encoder_with_its_history_and_lineage(faces, source, tmp_path, method):
    record = StageRecord("pretrain")
    run_stage(faces, source, tmp_path / "out", record, method=method, name="small", **QUICK)
    info, training = load_info(tmp_path / "out"), load_training(tmp_path / "out")
    assert (info.kind, info.method, info.classes) == ("encoder", method, None)
    assert info.lineage == {"target": open_unlabelled(faces).digest, "start": load_encoder(source).info.digest}
    assert training["chance_loss"] == pytest.approx(chance_loss(8))
    assert training["settings"]["prototypes"] == training["prototypes"] == record.facts["prototypes"] == 8
    assert training["settings"]["init"] == "source"  # what auto came to
    assert training["collapse"] == record.facts["collapse"] == []
    epoch = training["history"][-1]
    assert {"loss", "max_code", "perplexity", "rank", "spread", "prototype_spread"} <= set(epoch)
    assert bool(torch.isfinite(load_encoder(tmp_path / "out")(torch.zeros(2, 1, 16, 16))).all())


def test_no_pretraining_leaves_a_note(faces, source, tmp_path):
    run_stage(faces, source, tmp_path / "out", StageRecord("pretrain"), method="none", name="small")
    assert skipped_reason(tmp_path / "out") == "No pretraining was asked for."


def test_warnings_reach_the_record(faces, source, tmp_path):
    record = StageRecord("pretrain")
    changes = {**QUICK, "prototypes": 14, "queue": 0}
    run_stage(faces, source, tmp_path / "out", record, method="swav", name="small", **changes)
    assert "less than twice the number of prototypes (14)" in record.warnings[0]


def test_the_second_call_goes_on_from_its_checkpoint(faces, source, tmp_path, monkeypatch):
    monkeypatch.setenv("FERRY_CHECKPOINTS", str(tmp_path / "checkpoints"))
    for name in ("a", "b"):
        run_stage(faces, source, tmp_path / name, StageRecord("pretrain"), method="swav", name="small", **QUICK)
    assert load_training(tmp_path / "b")["resumed_from"] == load_training(tmp_path / "a")["steps"]
    assert load_info(tmp_path / "a").digest == load_info(tmp_path / "b").digest


def test_a_random_start_has_the_sources_architecture_and_normalisation(source):
    from ferry.networks import load_source

    model = load_source(source)
    encoder = first_encoder(model, preset("swav", "small", init="random"))
    assert encoder.architecture == ARCHITECTURE
    assert encoder.normalisation == model.classifier.normalisation
    assert not same(encoder, model.classifier.encoder)
    assert same(encoder, first_encoder(model, preset("swav", "small", init="random")))
    other = first_encoder(model, preset("swav", "small"), backbone="resnet18")
    assert (other.architecture.name, other.architecture.input_size) == ("resnet18", 16)
    assert first_encoder(model, preset("swav", "small"), input_size=32).architecture.input_size == 32


def test_a_start_from_the_source_is_a_copy_of_its_encoder():
    classifier = build_classifier(ARCHITECTURE, EXPRESSIONS, seed=3)
    encoder = first_encoder(FerrySource(classifier), preset("swav", "small", init="source"))
    assert same(encoder, classifier.encoder)
    assert encoder is not classifier.encoder


@pytest.mark.parametrize(("name", "from_source"), [("small", True), ("published", False)])
def test_without_a_choice_small_starts_from_the_source_and_published_at_random(source, name, from_source):
    from ferry.networks import load_source

    model = load_source(source)
    for given in ({}, {"init": ""}, {"init": "auto"}):
        assert same(first_encoder(model, preset("swav", name, **given)), model.classifier.encoder) == from_source


def test_a_start_from_a_folder_takes_encoders_and_classifiers(source, tmp_path):
    model = FerrySource(build_classifier(ARCHITECTURE, EXPRESSIONS, seed=9))
    save_model(build_encoder(ARCHITECTURE, 4), tmp_path / "encoder", method="swav", lineage={})
    for folder in (tmp_path / "encoder", source):
        assert same(first_encoder(model, preset("swav", "small", init=str(folder))), load_encoder(folder))
    with pytest.raises(UserError, match=r"`pretraining_init` to be auto, random, source or a saved model.*nowhere"):
        first_encoder(model, preset("swav", "small", init="nowhere"))


class Foreign:
    """A source model of which only outputs are known."""

    classes, channels, input_size, digest, feature_kind, classifier = EXPRESSIONS, 3, 224, "0" * 64, "logits", None


def test_a_foreign_source_gives_no_weights_but_a_small_network_can_start_at_random():
    encoder = first_encoder(Foreign(), preset("swav", "small"))
    assert (encoder.architecture.name, encoder.architecture.channels, encoder.architecture.input_size) == (
        "resnet10",
        3,
        48,
    )
    with pytest.raises(UserError, match=r"`pretraining_init` to be random or a folder for this source.*no weights"):
        first_encoder(Foreign(), preset("swav", "small", init="source"))


def test_projector_and_prototypes_depend_on_the_seed_alone():
    from ferry.pretraining import make_method

    config = preset("swav", "small", prototypes=8)
    torch.manual_seed(1)
    one = make_method(build_encoder(ARCHITECTURE, 0), config, 64, 16)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert same(one, make_method(build_encoder(ARCHITECTURE, 0), config, 64, 16))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_auto_is_random_where_the_sources_weights_are_not_known():
    auto, foreign = preset("swav", "small"), SimpleNamespace(classifier=None)
    assert (auto.init, first_weights(foreign, auto)) == ("auto", "random")
    assert first_weights(foreign, dataclasses.replace(auto, init="/some/encoder")) == "/some/encoder"


def test_a_training_shorter_than_the_patience_that_ends_collapsed_says_so(faces, source, tmp_path, monkeypatch):
    import ferry.pretraining.pretraining as module

    def merged(*given):
        method = original(*given)
        method.prototypes.weight.copy_(method.prototypes.weight[:1].expand_as(method.prototypes.weight).clone())
        return method

    original = module.make_method
    monkeypatch.setattr(module, "make_method", merged)
    record = StageRecord("pretrain")
    run_stage(faces, source, tmp_path / "out", record, method="swav", name="small", **QUICK)
    (sign,) = load_training(tmp_path / "out")["collapse"]
    assert sign.startswith("Expected `loss` to fall below ln K")
    assert record.warnings == [f"The pretraining ended with a sign of collapse. {sign}"]


@pytest.mark.slow
def test_settings_that_collapse_are_stopped_and_the_small_preset_is_not(tmp_path):
    render_faces(tmp_path / "faces", 200, "shaded", 1, size=16, splits={"train": 1.0}, labels=False)
    pictures = open_unlabelled(tmp_path / "faces").pixels(16, 1, cache=tmp_path)
    budget = {"epochs": 44, "batch_size": 40, "prototypes": 40, "queue": 0, "precision": "fp32", "projector_hidden": 64}
    as_published = {"epsilon": 0.05, "freeze_prototypes_steps": 0, "normalise_output": False, "views": "published"}
    with pytest.raises(TrainingDiverged, match=r"almost the same embedding\. Use the preset small"):
        pretrain(build_encoder(ARCHITECTURE, 0), pictures, preset("swav", "small", **budget, **as_published), classes=7)
    done = pretrain(build_encoder(ARCHITECTURE, 0), pictures, preset("swav", "small", **budget), classes=7)
    last = [record for record in done.result.history if record["kind"] == "epoch"][-1]
    assert not any("collapse" in warning for warning in done.warnings)
    assert last["loss"] < chance_loss(40) - 0.1
    assert last["max_code"] > 3 / 40
    assert last["spread"] > 0.9


@pytest.mark.slow
def test_deepcluster_keeps_its_rank_from_random_weights(tmp_path):
    """At SwAV's learning rate and temperature: loss 0.3 to 1.5 above ln K, rank 6 to 13, spread 0.2 to 0.4."""
    render_faces(tmp_path / "faces", 1000, "line", 1, size=24, splits={"train": 1.0}, labels=False)
    pictures = open_unlabelled(tmp_path / "faces").pixels(24, 1, cache=tmp_path)
    encoder = build_encoder(Architecture(name="resnet10", width=8, input_size=24), 0)
    config = preset("deepcluster", "small", epochs=8, batch_size=64, precision="fp32")
    done = pretrain(encoder, pictures, config, classes=7)
    last = [record for record in done.result.history if record["kind"] == "epoch"][-1]
    assert last["loss"] < chance_loss(70) + 0.1
    assert last["rank"] > 25
    assert last["spread"] > 0.55
