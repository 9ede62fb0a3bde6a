"""Tiny faces and models on which trainings take a second."""

from __future__ import annotations

import numpy as np
import pytest
from ferry.common.stage import StageRecord
from ferry.faces import EXPRESSIONS, drop_labels, open_unlabelled, render_faces
from ferry.faces.pseudo_labels import Columns, PseudoLabels
from ferry.networks import Architecture, build_classifier, build_encoder, save_model

SMALL = {"name": "resnet10", "width": 4, "input_size": 16}


def make_inputs(folder):
    """Makes what fine-tuning reads; returns the folders by name."""
    render_faces(folder / "labelled", 70, "shaded", 0, size=16, splits={"train": 1.0})
    drop_labels(folder / "labelled", folder / "target")
    keys = open_unlabelled(folder / "target").keys
    ones, labels = np.ones(len(keys), np.float32), np.arange(len(keys)) % 7
    columns = Columns(labels, ones, labels, ones, ones, ones, np.ones(len(keys), bool), labels)
    PseudoLabels(tuple(keys), columns, EXPRESSIONS, {}, {}).save(folder / "labels")
    save_model(build_classifier(Architecture(**SMALL), EXPRESSIONS, seed=3), folder / "source", method="x", lineage={})
    save_model(build_encoder(Architecture(**SMALL), 5), folder / "pretrained", method="swav", lineage={})
    return {name: folder / name for name in ("target", "source", "pretrained", "labels")}


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def record():
    return StageRecord("test")
