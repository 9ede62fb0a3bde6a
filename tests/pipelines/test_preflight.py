"""The check before everything: what a run needs is known before anything is read or trained."""

from __future__ import annotations

import pytest
from ferry.common.errors import UserError
from ferry.pipelines.catalogue import checked_parameters, find
from ferry.pipelines.checks.clup import least_faces, preflight


def values(**given):
    return checked_parameters(find("clup"), {"target": "t", "source": "s", **given})


@pytest.mark.parametrize(
    ("given", "least"),
    [
        ({"pretraining": "none", "finetuning_start": "adabn"}, 1),
        ({"pretraining": "none", "finetuning_start": "adabn", "labelling_preset": "released"}, 1000),
        ({"labelling_preset": "released", "labelling_clusters": 250, "pretraining_batch_size": 32}, 250),
        ({"labelling_clusters": 5000}, 5000),
        ({"pretraining_batch_size": 300}, 300),
        ({"pretraining_prototypes": 700, "pretraining_batch_size": 32}, 700),
        ({"pretraining_preset": "published"}, 3000),
        ({"pretraining_preset": "published", "pretraining_prototypes": 40}, 256),
    ],
)
def test_the_target_needs_as_many_faces_as_clusters_prototypes_and_one_batch(given, least):
    assert least_faces(values(**given)) == preflight(values(**given)) == least


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("finetuning_start", "adabm", "Did you mean 'adabn'?"),
        ("holdout_classes", "anger,joy", "Expected `holdout_classes` to be one of anger"),
        ("model_name", "a/b", "Expected `model_name`"),
        ("seed", -1, "Expected `seed` to be from 0"),
        ("finetuning_learning_rate", float("nan"), "Expected `finetuning_learning_rate` to be finite"),
        ("pretraining_init", "sorce", "Did you mean 'source'?"),
        ("target", " ", "Expected `target`"),
    ],
)
def test_a_wrong_value_from_a_form_is_named(name, value, words):
    with pytest.raises(UserError) as raised:
        preflight({**values(), name: value})
    assert words in str(raised.value)


def test_a_path_that_only_other_stages_can_see_passes():
    assert preflight({**values(), "pretraining_init": "/mnt/models/encoder"}) == least_faces(values())
