from __future__ import annotations

import dataclasses

import pytest
from ferry.common.errors import UserError
from ferry.common.parameters import from_mapping
from ferry.networks import Architecture, ModelInfo, Normalisation


def test_usual_width_and_stem_are_filled_in_so_that_they_are_stored_explicitly():
    assert (Architecture().width, Architecture().stem) == (32, "space_to_depth")
    large = Architecture("resnet50", channels=3, input_size=224)
    assert (large.width, large.stem, large.feature_size) == (64, "imagenet", 2048)
    assert Architecture("resnet18").feature_size == 512
    assert Architecture().feature_size == 256


def test_it_is_frozen_and_equal_by_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Architecture().width = 8
    assert Architecture() == Architecture("resnet10", 32, "space_to_depth", 1, 48)
    assert Architecture(bottleneck=256, head="weight_norm").backbone == Architecture()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"name": "resnet81"}, ["architecture.name", "'resnet81'", "Did you mean 'resnet18'?"]),
        ({"stem": "imagnet"}, ["architecture.stem", "'imagnet'", "Did you mean 'imagenet'?"]),
        ({"head": "weightnorm"}, ["architecture.head", "Did you mean 'weight_norm'?"]),
        ({"input_size": 15}, ["architecture.input_size", "from 16", "15"]),
        ({"input_size": 49}, ["architecture.input_size", "even", "49", "Use 50"]),
        ({"input_size": 48.0}, ["architecture.input_size", "whole number", "48.0"]),
        ({"channels": 2}, ["architecture.channels", "1 or 3", "2"]),
        ({"channels": True, "width": True}, ["architecture.width", "True"]),
        ({"width": 1}, ["architecture.width", "from 4", "1"]),
        ({"bottleneck": -1}, ["architecture.bottleneck", "-1", "256"]),
    ],
)
def test_wrong_fields_are_named_with_rule_value_and_advice(changes, parts):
    with pytest.raises(UserError) as error:
        Architecture(**changes)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_it_is_built_from_text_as_the_command_line_gives_it():
    built = from_mapping(Architecture, {"name": "resnet18", "stem": "cifar", "channels": "3", "input_size": "96"})
    assert built == Architecture("resnet18", 64, "cifar", 3, 96)


@pytest.mark.parametrize(
    ("mean", "std", "part"),
    [((0.5,), (0.0,), "positive"), ((0.5, 0.5), (1, 1), "2 means"), ((float("nan"),), (1.0,), "finite"), ((), (), "0")],
)
def test_normalisation_refuses_what_cannot_be_divided_by(mean, std, part):
    with pytest.raises(UserError, match=part):
        Normalisation(mean, std)


def test_normalisation_must_have_the_channels_of_the_architecture():
    with pytest.raises(UserError, match="1 channel"):
        ModelInfo("encoder", Architecture(), None, Normalisation.imagenet())


@pytest.mark.parametrize("classes", [["a"], [], ["a", "a"], [0, 1], ["a", " "], "ab"])
def test_class_names_must_be_different_names(classes):
    with pytest.raises(UserError, match="classes"):
        ModelInfo("classifier", Architecture(), classes, Normalisation())


def test_description_survives_json():
    info = ModelInfo("classifier", Architecture(bottleneck=4), ("a", "b"), Normalisation(), "clup", {"source": "12"})
    assert ModelInfo.from_json(info.to_json(), "model.json") == info
