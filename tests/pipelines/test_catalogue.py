from __future__ import annotations

import pytest
from ferry.common.errors import UserError
from ferry.pipelines.catalogue import checked_parameters, find, parameters, with_local_paths

from ..registry.names import BAD, GOOD

GIVEN = {"adabn": {"target": "t", "source": "s"}, "clup": {"target": "t", "source": "s"}, "source": {"faces": "f"}}


def checked(pipeline, **values):
    return checked_parameters(find(pipeline), {**GIVEN[pipeline], **values})


def test_values_take_the_type_of_the_parameter():
    found = checked("clup", seed="3", labelling_keep="0.5", holdout_allow_overlap="true", pretraining_epochs=2)
    assert (found["seed"], found["labelling_keep"], found["holdout_allow_overlap"]) == (3, 0.5, True)
    assert type(found["seed"]) is int


def test_parameters_are_in_the_order_of_the_signature_and_have_defaults():
    known = parameters(find("clup"))
    assert list(known)[:3] == ["target", "source", "holdout"]
    assert [name for name, entry in known.items() if entry.required] == ["target", "source"]
    assert known["finetuning_batch_size"].default == 64
    assert known["finetuning_batch_size"].kind is int


@pytest.mark.parametrize(
    ("pipeline", "values", "words"),
    [
        ("clup", {"tagret": "x"}, "Did you mean 'target'?"),
        ("clup", {"target": " "}, "Expected `target` to be a folder"),
        ("clup", {"source": ""}, "Expected `source` to be a folder"),
        ("clup", {"seed": "x"}, "Expected `seed` to be a whole number, but got 'x'"),
        ("clup", {"seed": -1}, "Expected `seed` to be from 0"),
        ("clup", {"finetuning_learning_rate": "nan"}, "Expected `finetuning_learning_rate` to be finite"),
        ("clup", {"holdout_allow_overlap": "maybe"}, "Expected `holdout_allow_overlap` to be true or false"),
        ("clup", {"pretraining": "swva"}, "Did you mean 'swav'?"),
        ("clup", {"pretraining_preset": "smal"}, "Did you mean 'small'?"),
        ("clup", {"pretraining": "none"}, "Expected `finetuning_start` to be another than pretrained"),
        ("clup", {"pretraining_epochs": -1}, "pretraining_epochs"),
        ("clup", {"pretraining_init": "sorce"}, "Did you mean 'source'?"),
        (
            "clup",
            {"pretraining_init": "there/is/none"},
            "Expected `pretraining_init` to be auto, random, source or the",
        ),
        ("clup", {"source_trust": "perhaps"}, "Expected `source_trust` to be true or false"),
        ("clup", {"labelling_score": "purty"}, "Expected `labelling_score` to be one of purity, confidence"),
        ("clup", {"labelling_keep": "2"}, "Expected `labelling_keep` to be above 0 and at most 1"),
        ("clup", {"labelling_clusters": "-1"}, "Expected `labelling_clusters` to be at least 1"),
        ("clup", {"labelling_teacher": "adabm"}, "Did you mean 'adabn'?"),
        ("clup", {"labelling_preset": "relased"}, "Expected `labelling_preset` to be one of clean, released"),
        ("clup", {"finetuning_start": "sorce"}, "Did you mean 'source'?"),
        ("clup", {"finetuning_mixup": -1}, "Expected `finetuning_mixup` to be zero or positive"),
        ("clup", {"precision": "fp8"}, "Expected `precision` to be one of auto, fp32"),
        ("clup", {"target_layout": "fer2031"}, "Did you mean 'fer2013'?"),
        ("clup", {"holdout_split": "a b"}, "Expected `holdout_split` to be a word"),
        ("clup", {"target_max_skipped": 5}, "Expected `target_max_skipped` to be between 0 and 1, but got 5"),
        ("clup", {"holdout_max_skipped": -1}, "Expected `holdout_max_skipped` to be between 0 and 1"),
        ("source", {"faces_max_skipped": 2}, "Expected `faces_max_skipped` to be between 0 and 1"),
        ("adabn", {"source": " "}, "Expected `source` to be a folder, a file or an address"),
        ("adabn", {"holdout_classes": "joy"}, "Expected `holdout_classes` to be one of"),
        ("adabn", {"model_name": "a/b"}, "Expected `model_name`"),
        ("source", {"network": "resnet11"}, "Expected `network` to be one of resnet10"),
        ("source", {"network_channels": 2}, "Expected `network_channels` to be 1 or 3"),
        ("source", {"network_stem": "cifr"}, "Expected `network_stem` to be one of"),
        ("source", {"training_epochs": 0}, "Expected `training_epochs` to be at least 1"),
        ("source", {"training_label_smoothing": 1}, "Expected `training_label_smoothing` to be at least 0"),
        ("source", {"precision": "bf17"}, "Did you mean 'bf16'?"),
    ],
)
def test_a_wrong_value_is_named_with_advice(pipeline, values, words):
    with pytest.raises(UserError) as raised:
        checked(pipeline, **values)
    assert words in str(raised.value)
    assert str(raised.value).startswith("Expected `")


def test_a_missing_required_parameter_is_named():
    with pytest.raises(UserError, match=r"Expected `source` to be given.*Pass -p source=VALUE"):
        checked_parameters(find("clup"), {"target": "x"})


def test_an_unknown_pipeline_is_named_with_the_closest():
    with pytest.raises(UserError, match="Did you mean 'source'"):
        find("sorce")


@pytest.mark.parametrize("name", ["target", "source", "holdout"])
def test_local_paths_must_exist(tmp_path, name):
    here = {key: str(tmp_path) for key in ("target", "source", "holdout")}
    with pytest.raises(UserError, match=rf"Expected `{name}` to be an existing path, but got 'nowhere'"):
        with_local_paths(find("clup"), checked("clup", **{**here, name: "nowhere"}))


def test_local_paths_become_absolute_and_addresses_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces").mkdir()
    values = checked("clup", target="faces", source="models:/ferry-clup@champion", holdout="s3://bucket/faces")
    found = with_local_paths(find("clup"), values)
    assert found["target"] == str(tmp_path / "faces")
    assert (found["source"], found["holdout"]) == ("models:/ferry-clup@champion", "s3://bucket/faces")
    assert with_local_paths(find("clup"), {**values, "holdout": ""})["holdout"] == ""


def test_a_misspelt_class_of_the_holdout_is_found_before_the_training():
    checked("clup", holdout_classes="anger, sadness")
    with pytest.raises(UserError, match="Did you mean 'sadness'"):
        checked("clup", holdout_classes="anger,sadnes")


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_the_registry_would_refuse_is_found_before_the_training(name):
    with pytest.raises(UserError, match="Expected `model_name` to be 1 to 256"):
        checked("clup", model_name=name)


@pytest.mark.parametrize("name", [*GOOD, ""])
def test_a_name_that_the_registry_takes_is_taken(name):
    assert checked("clup", model_name=name)["model_name"] == name


def test_a_first_model_of_the_pretraining_must_be_there(tmp_path):
    (tmp_path / "model.json").touch()
    for init in ("auto", "random", "source", str(tmp_path)):
        checked("clup", pretraining_init=init)
    checked("clup", pretraining="none", finetuning_start="source", pretraining_init="nowhere")


@pytest.mark.parametrize(
    "values",
    [{"labelling_teacher": "adabn"}, {"pretraining_init": "source"}, {"finetuning_start": "source"}],
    ids=lambda values: next(iter(values)),
)
def test_what_needs_the_weights_of_a_foreign_source_model_is_refused_before_the_training(tmp_path, values):
    (name,) = values
    (tmp_path / "model.onnx").touch()
    (tmp_path / "packed").mkdir()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "model.json").touch()
    for foreign in ("model.onnx", "packed"):
        checked("clup", source=str(tmp_path / foreign))
        with pytest.raises(UserError, match=f"Expected `{name}` to be .* for the foreign source model {foreign}"):
            checked("clup", source=str(tmp_path / foreign), **values)
    checked("clup", source=str(tmp_path / "own"), **values)
    checked("clup", source="models:/ferry-clup@champion", **values)
