"""What the teacher looks at: plain faces, mirror images, random views."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ferry.labelling import teacher, teacher_outputs

N, SIZE = 12, 16


class Mean:
    """A model whose logits and features are plain functions of the pixels; it keeps what it was shown."""

    def __init__(self):
        self.shown, self.said = [], []

    def outputs(self, pixels):
        pixels = np.array(pixels)
        self.shown.append(pixels)
        columns = torch.from_numpy(pixels.astype(np.float32)).mean((1, 2))
        self.said.append(SimpleNamespace(logits=columns[:, :7].clone(), features=columns))
        return self.said[-1]


def faces(channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (N, channels, SIZE, SIZE), dtype=np.uint8)


def test_plain_is_the_model_on_the_faces_as_they_are():
    model = Mean()
    logits, features = teacher_outputs(model, faces(), "plain", seed=3)
    np.testing.assert_array_equal(model.shown[0], faces())
    np.testing.assert_allclose(features, faces().mean((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(logits, features[:, :7])


def test_flip_is_the_mean_over_a_face_and_its_mirror_image():
    _, features = teacher_outputs(Mean(), faces(), "flip", seed=0)
    columns = faces().mean((1, 2))
    np.testing.assert_allclose(features, (columns + columns[:, ::-1]) / 2, rtol=1e-5)
    _, mirrored = teacher_outputs(Mean(), faces()[..., ::-1], "flip", seed=0)
    np.testing.assert_allclose(mirrored, features, rtol=1e-6)


@pytest.mark.parametrize("view", ["plain", "flip", "augmented"])
def test_what_the_model_said_is_not_copied(view):
    model = Mean()
    logits, features = teacher_outputs(model, faces(), view, seed=0)
    assert np.shares_memory(logits, model.said[0].logits.numpy())
    assert np.shares_memory(features, model.said[0].features.numpy())


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_shows_another_picture_of_each_face_and_is_fixed_by_the_seed(channels):
    shown = []
    for seed in (0, 0, 1):
        model = Mean()
        teacher_outputs(model, faces(channels), "augmented", seed)
        shown.append(np.concatenate(model.shown))
    assert shown[0].shape == faces(channels).shape
    assert shown[0].dtype == np.uint8
    assert (shown[0] != faces(channels)).any((1, 2, 3)).all()
    np.testing.assert_array_equal(shown[0], shown[1])
    assert (shown[0] != shown[2]).any((1, 2, 3)).all()


def test_faces_are_turned_shifted_and_recoloured_as_in_the_released_code():
    """A white square: 35 degrees and 15 % move it, black fills the rest, factors of 0.5 to 1.5 change its grey."""
    square = np.full((400, 1, 20, 20), 200, np.uint8)
    model = Mean()
    teacher_outputs(model, square, "augmented", 0)
    (shown,) = model.shown
    corners = shown[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]].astype(float)
    middles = shown[:, 0, 10, 10].astype(float)
    assert (corners.min(1) < middles - 40).mean() > 0.9  # not black: the contrast changes afterwards
    assert middles.min() < 130
    assert middles.max() == 255


def test_the_size_of_a_part_changes_nothing(monkeypatch):
    _, whole = teacher_outputs(Mean(), faces(), "augmented", 5)
    monkeypatch.setattr(teacher, "_CHUNK", 5)
    model = Mean()
    _, parts = teacher_outputs(model, faces(), "augmented", 5)
    assert [len(part) for part in model.shown] == [5, 5, 2]
    np.testing.assert_array_equal(parts, whole)
