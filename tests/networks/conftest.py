"""Small networks and images for the tests of this room."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ferry.faces import EXPRESSIONS
from ferry.networks import Architecture, Classifier, build_classifier


def small(**changes) -> Architecture:
    return Architecture(**{"name": "resnet10", "width": 4, "input_size": 16, **changes})


def warmed(model: Classifier) -> Classifier:
    """Gives batch normalisation statistics that are not the fresh ones, so that modes matter."""
    torch.manual_seed(7)
    size, channels = model.architecture.input_size, model.architecture.channels
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(8, channels, size, size) * 2 + 1)
    return model


@pytest.fixture
def classifier() -> Classifier:
    return warmed(build_classifier(small(bottleneck=8, head="weight_norm"), EXPRESSIONS, seed=3))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (11, 1, 16, 16), dtype=np.uint8)
