"""Synthetic models on a synthetic holdout: small, seeded, of known quality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")


@dataclass
class Outputs:
    logits: np.ndarray
    features: np.ndarray | None = None


def outputs(labels, right, classes=7, seed=0, features=8):
    """A model that is right on the share `right` of the images, else decides for the next class."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    decided = np.asarray(labels).copy()
    wrong = order[round(right * len(labels)) :]
    decided[wrong] = (decided[wrong] + 1) % classes
    logits = rng.normal(size=(len(labels), classes)) * 0.3
    logits[np.arange(len(labels)), decided] += 3
    return Outputs(logits, rng.normal(size=(len(labels), features)) + np.eye(classes, features)[decided] * 4)


@pytest.fixture(scope="session")
def labels():
    drawn = np.random.default_rng(5).choice(7, 350, p=[0.1, 0.1, 0.1, 0.25, 0.25, 0.1, 0.1])
    drawn.setflags(write=False)
    return drawn


@pytest.fixture(scope="session")
def make():
    return outputs
