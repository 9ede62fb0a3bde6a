"""Tiny models, faces and labels for the tests of this room."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ferry.common.stage import StageRecord
from ferry.faces import EXPRESSIONS, drop_labels, open_faces, render_faces
from ferry.networks import Architecture, build_classifier, save_model


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test here."""


def architecture(**changes):
    return Architecture(**{"name": "resnet10", "width": 4, "input_size": 16, **changes})


def warmed(model):
    """Gives batch normalisation statistics that are not the fresh ones."""
    torch.manual_seed(7)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(8, 1, 16, 16) * 2 + 1)
    return model.eval()


@pytest.fixture
def source():
    return warmed(build_classifier(architecture(bottleneck=8, head="weight_norm"), EXPRESSIONS, seed=3))


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (50, 1, 16, 16), dtype=np.uint8)


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """Rendered faces without labels, and their labels."""
    folder = tmp_path_factory.mktemp("faces")
    render_faces(folder / "labelled", 70, "shaded", 0, size=16, splits={"train": 1.0})
    drop_labels(folder / "labelled", folder / "unlabelled")
    return folder / "unlabelled", open_faces(folder / "labelled").labels


@pytest.fixture
def saved_source(source, tmp_path):
    save_model(source, tmp_path / "source", method="supervised", lineage={})
    return tmp_path / "source"


@pytest.fixture
def record():
    return StageRecord("test")
