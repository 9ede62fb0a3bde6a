"""That expressions can be told apart, that action units move what they should, and that styles differ."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from ferry.faces.rendering import EXPRESSIONS, STYLES, draw_faces, get_style, render, sample_faces
from ferry.faces.rendering.effects import compress
from sklearn.linear_model import LogisticRegression, RidgeClassifier

STILL = {
    "shift_x": 0.0, "shift_y": 0.0, "roll": 0.0, "yaw": 0.0, "pitch": 0.0, "patch_size": 0.0, "noise": 0.0,
    "has_beard": 0.0, "moustache": 0.0, "has_glasses": 0.0, "uneven_mouth": 0.0, "uneven_eye": 0.0, "uneven_brow": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def labels_of(count):
    return np.arange(count, dtype=np.int64) % len(EXPRESSIONS)


def neutral(count=32, style="shaded", **changes):
    labels = np.full(count, EXPRESSIONS.index("neutral"))
    rest = dict.fromkeys(("brow_inner", "brow_outer", "brow_lower", "corner_up", "corner_down", "jaw_drop"), 0.0)
    return sample_faces(labels, style, 0, images_per_identity=1).changed(**{**rest, **STILL, **changes})


def linear_accuracy(features, labels):
    half = len(labels) // 2
    model = RidgeClassifier(alpha=100.0).fit(features[:half], labels[:half])
    return model.score(features[half:], labels[half:])


@pytest.mark.parametrize("style", tuple(STYLES))
def test_action_units_tell_the_expression_but_not_perfectly(style):
    parameters = sample_faces(labels_of(2800), style, 1)
    half = LogisticRegression(max_iter=500).fit(parameters.action_units[:1400], parameters.labels[:1400])
    accuracy = half.score(parameters.action_units[1400:], parameters.labels[1400:])
    assert 0.9 < accuracy < 0.995


def test_wider_blends_and_weaker_intensities_make_it_harder():
    easy, hard = (
        get_style("shaded").with_(intensity=low, blend_probability=blend, unit_noise=noise)
        for low, blend, noise in (((0.9, 1.0), 0.0, 0.1), ((0.1, 0.5), 0.8, 0.25))
    )
    accuracies = []
    for style in (easy, hard):
        parameters = sample_faces(labels_of(1400), style, 1)
        accuracies.append(linear_accuracy(parameters.action_units, parameters.labels))
    assert accuracies[0] > 0.97
    assert accuracies[1] < accuracies[0] - 0.1


@pytest.mark.parametrize("style", ["shaded", "line", "thermal"])
def test_pixels_of_one_style_tell_the_expression_far_above_chance(style):
    labels = labels_of(1120)
    pictures = render(labels, style, 2, 24).reshape(len(labels), -1).astype(np.float32)
    pictures -= pictures.mean(axis=1, keepdims=True)
    pictures /= pictures.std(axis=1, keepdims=True) + 1.0
    assert linear_accuracy(pictures, labels) > 0.45  # chance is 0.14; a linear model on raw pixels is weak


def test_a_dropped_jaw_darkens_the_mouth_more_and_more():
    dark = [(draw_faces(neutral(jaw_drop=jaw))[:, 28:] < 30).sum() for jaw in (0.0, 0.4, 0.8, 1.2)]
    assert all(later > 1.2 * earlier + 10 for earlier, later in pairwise(dark))


@pytest.mark.parametrize("style", ["shaded", "line"])
def test_mouth_corners_move_ink_up_or_down(style):
    blank = {"tone_skin": 0.9, "tone_crease": 0.9, "light": 0.0, "relief": 0.0}  # no folds beside the mouth

    def height(**changes):
        rest = draw_faces(neutral(style=style, **blank))[:, 28:46].astype(np.float32)
        moved = draw_faces(neutral(style=style, **blank, **changes))[:, 28:46].astype(np.float32)
        arrived = (rest - moved).clip(min=0).sum(axis=0)
        outer = np.concatenate([arrived[:, 12:19], arrived[:, 29:36]], axis=1).sum(axis=1)
        return (outer * np.arange(len(outer))).sum() / outer.sum()

    assert height(corner_up=1.0) < height(corner_down=1.0) - 1.0


def test_raised_brows_move_up_and_lowered_ones_down():
    def height(**changes):
        brows = 255.0 - draw_faces(neutral(hair_line=1.2, tone_brow=0.0, skin=0.8, **changes))[:, 6:18, 10:38]
        ink = np.clip(brows - 160.0, 0, None).sum(axis=(0, 2))
        return (ink * np.arange(len(ink))).sum() / ink.sum()

    raised, rest, lowered = height(brow_inner=1.0, brow_outer=1.0), height(), height(brow_lower=1.0)
    assert raised < rest - 0.3
    assert lowered > rest + 0.3


def test_wide_eyes_show_more_white_than_tight_ones():
    def white(**changes):
        return (draw_faces(neutral(tone_sclera=1.0, tone_skin=0.3, light=0.0, **changes))[:, 14:26] > 200).sum()

    assert white(lid_raise=1.0) > 1.3 * white(lid_raise=0.0) > 1.3 * white(lid_raise=0.0, lid_tighten=1.0)


def test_asymmetry_tilts_only_one_half():
    even, uneven = neutral(brow_inner=1.0), neutral(brow_inner=1.0).changed(uneven_brow=0.5)
    changed = (draw_faces(even).astype(int) - draw_faces(uneven)).__abs__().sum(axis=(0, 1))
    assert changed[:20].sum() > 0
    assert changed[28:].sum() > 0


def test_styles_differ_in_intensity_statistics():
    statistics = {}
    for name in STYLES:
        pictures = render(labels_of(70), name, 0).astype(np.float64)
        across = np.abs(np.diff(pictures, axis=2)).mean() / pictures.std(axis=(1, 2)).mean()
        statistics[name] = (pictures.mean(), pictures.std(axis=(1, 2)).mean(), across)
    assert statistics["line"][0] > statistics["shaded"][0] + 25
    assert statistics["low_light"][0] < statistics["shaded"][0] - 40
    assert statistics["line"][2] > 1.3 * statistics["shaded"][2]
    assert statistics["low_light"][1] < statistics["shaded"][1]
    assert statistics["webcam"][2] < statistics["line"][2]


def test_knobs_reach_the_pixels():
    dark = get_style("shaded").with_(offset=(-0.3, -0.3))
    inverted = get_style("shaded").with_(invert=1.0, noise=(0.0, 0.0), offset=(0.0, 0.0), gain=(0.9, 0.9))
    plain = inverted.with_(invert=0.0)
    labels = labels_of(35)
    assert render(labels, dark, 0).mean() < render(labels, "shaded", 0).mean() - 50
    total = render(labels, inverted, 0).astype(int) + render(labels, plain, 0)
    assert np.abs(total - 255).max() <= 1


def test_colour_pictures_have_the_brightness_of_the_grey_ones_and_warm_skin():
    labels = labels_of(70)
    style = get_style("shaded").with_(noise=(0.0, 0.0), cast=0.0)
    grey, colour = render(labels, style, 0).astype(float), render(labels, style, 0, channels=3).astype(float)
    assert np.abs(grey - colour.mean(axis=3)).mean() < 8
    assert (colour[:, 20:36, 14:34, 0] - colour[:, 20:36, 14:34, 2]).mean() > 10


def test_weak_compression_keeps_a_picture_and_strong_compression_leaves_block_means():
    picture = torch.rand(2, 1, 20, 24, generator=torch.Generator().manual_seed(0))
    kept = compress(picture, torch.full((2,), 1e-4))
    torch.testing.assert_close(kept, picture, atol=1e-3, rtol=0)
    flat = compress(picture, torch.full((2,), 50.0))
    assert flat.shape == picture.shape
    torch.testing.assert_close(flat, torch.full_like(flat, 0.5))
