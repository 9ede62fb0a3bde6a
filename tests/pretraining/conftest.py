"""Tiny encoders, images and settings for the tests of this room."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ferry.networks import Architecture, build_encoder
from ferry.pretraining import PretrainingConfig, make_method
from ferry.training import make_batch, make_context


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test here."""


SETTINGS = {
    "epochs": 2,
    "batch_size": 16,
    "prototypes": 12,
    "projector_hidden": 16,
    "projector_output": 8,
    "queue": 32,
    "queue_start_steps": 0,
    "crops": (2, 1),
    "learning_rate": 0.05,
    "precision": "fp32",
    "seed": 3,
}


def settings(**changes):
    return PretrainingConfig(**{**SETTINGS, **changes})


def images(count=64, channels=1, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def pictures(count):
    """Smooth pictures of four kinds in a random order."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:16, 0:16] / 15.0
    kinds = np.stack([x, y, np.abs(2 * x - 1), 1 - np.abs(2 * y - 1)])[generator.integers(0, 4, count)]
    shades = 30 + 190 * kinds * generator.uniform(0.7, 1.0, (count, 1, 1))
    return (shades + generator.normal(0, 4, shades.shape)).clip(0, 255).astype(np.uint8)[:, None]


def tiny_encoder(channels=1, seed=0):
    architecture = Architecture(name="resnet10", width=4, channels=channels, input_size=16)
    return build_encoder(architecture, seed)


class Room:
    """What most tests of this room begin with."""

    settings = staticmethod(settings)
    images = staticmethod(images)
    pictures = staticmethod(pictures)
    encoder = staticmethod(tiny_encoder)

    def method(self, name="swav", channels=1, count=64, **changes):
        config = settings(method=name, **changes)
        return make_method(tiny_encoder(channels), config, count, 16)

    def batch(self, pixels=None, indices=None, step=0, epoch=0):
        pixels = images() if pixels is None else pixels
        chosen = torch.arange(16) if indices is None else torch.as_tensor(indices)
        return make_batch(pixels, chosen, step=step, epoch=epoch)

    def context(self, pixels, epoch=0, **changes):
        return make_context(pixels, settings(**changes).loop(), epoch=epoch)


@pytest.fixture
def room():
    return Room()
