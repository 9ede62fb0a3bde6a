"""How the seven expressions move a face: a distribution over action-unit-like parameters for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..schema import EXPRESSIONS
from .streams import bell

if TYPE_CHECKING:
    from .styles import Style

ACTION_UNITS = (
    "brow_inner",  # inner brow raised (AU1)
    "brow_outer",  # outer brow raised (AU2)
    "brow_lower",  # brows lowered and knit (AU4)
    "lid_raise",  # upper lid raised (AU5)
    "cheek_raise",  # cheeks push the lower lids up (AU6)
    "lid_tighten",  # lids narrowed (AU7)
    "lid_droop",  # upper lids hang (AU43)
    "nose_wrinkle",  # nose wrinkled, its wings raised (AU9)
    "lip_raise",  # upper lip raised (AU10)
    "corner_up",  # mouth corners pulled up and out (AU12)
    "corner_down",  # mouth corners pulled down (AU15)
    "chin_raise",  # chin boss pushed up (AU17)
    "pucker",  # mouth narrowed (AU18)
    "lip_stretch",  # mouth stretched sideways (AU20)
    "lip_press",  # lips pressed thin (AU24)
    "lips_part",  # lips parted, mouth opened with closed jaw (AU25)
    "jaw_drop",  # jaw dropped (AU26/27)
    "teeth",  # how much of an open mouth shows teeth
)
"""Names of the parameters that carry the expression, each 0 (at rest) to about 1 (as strong as it gets)."""

# Each expression has a few ways to be shown; FACS-like combinations after Ekman & Friesen (1978), exaggerated.
_WAYS: dict[str, tuple[dict[str, float], ...]] = {
    "anger": (
        {"brow_lower": 1.0, "lid_raise": 0.3, "lid_tighten": 0.6, "lip_press": 1.0, "corner_down": 0.15},
        {
            "brow_lower": 1.0,
            "lid_raise": 0.4,
            "lid_tighten": 0.5,
            "lips_part": 0.7,
            "teeth": 1.0,
            "lip_raise": 0.5,
            "corner_down": 0.5,
        },
        {"brow_lower": 0.9, "lid_tighten": 0.8, "lip_press": 0.9, "chin_raise": 0.5, "corner_down": 0.3},
    ),
    "disgust": (
        {"nose_wrinkle": 1.0, "lip_raise": 1.0, "brow_lower": 0.4, "cheek_raise": 0.5, "lid_tighten": 0.8},
        {"nose_wrinkle": 0.9, "lip_raise": 0.9, "brow_lower": 0.3, "lid_tighten": 0.9, "corner_down": 0.6},
        {"nose_wrinkle": 0.9, "lip_raise": 1.0, "lid_tighten": 0.8, "lips_part": 0.35, "teeth": 0.9, "brow_lower": 0.4},
    ),
    "fear": (
        {
            "brow_inner": 1.0,
            "brow_outer": 0.2,
            "brow_lower": 0.15,
            "lid_raise": 1.0,
            "lip_stretch": 1.0,
            "lips_part": 0.75,
            "teeth": 0.8,
            "corner_down": 0.25,
        },
        {
            "brow_inner": 0.9,
            "brow_outer": 0.2,
            "lid_raise": 1.0,
            "lip_stretch": 0.8,
            "jaw_drop": 0.35,
            "lips_part": 0.3,
            "teeth": 0.5,
        },
        {
            "brow_inner": 1.0,
            "brow_outer": 0.1,
            "lid_raise": 1.0,
            "lip_stretch": 1.0,
            "lips_part": 0.6,
            "teeth": 1.0,
            "corner_down": 0.3,
        },
    ),
    "happiness": (
        {"corner_up": 1.0, "cheek_raise": 0.8, "lips_part": 0.7, "teeth": 1.0},
        {"corner_up": 0.95, "cheek_raise": 0.7},
        {"corner_up": 1.0, "cheek_raise": 1.0, "jaw_drop": 0.35, "lips_part": 0.4, "teeth": 0.9, "brow_outer": 0.15},
    ),
    "neutral": ({}, {"lid_droop": 0.1}, {"lips_part": 0.1}),
    "sadness": (
        {"brow_inner": 0.9, "brow_outer": -0.4, "lid_droop": 0.5, "corner_down": 1.0, "chin_raise": 0.5},
        {"brow_inner": 0.8, "brow_outer": -0.3, "lid_droop": 0.7, "corner_down": 0.8},
        {"brow_inner": 1.0, "brow_outer": -0.5, "lid_tighten": 0.4, "corner_down": 1.0, "lips_part": 0.25},
    ),
    "surprise": (
        {"brow_inner": 0.9, "brow_outer": 1.0, "lid_raise": 0.9, "jaw_drop": 1.0, "pucker": 0.7},
        {"brow_inner": 0.9, "brow_outer": 0.9, "lid_raise": 0.7, "jaw_drop": 0.7, "pucker": 0.6},
        {"brow_inner": 1.0, "brow_outer": 1.0, "lid_raise": 1.0, "jaw_drop": 0.55, "pucker": 0.9},
    ),
}
WAYS = 3
RANDOM_WIDTH = 4 * len(ACTION_UNITS) + 12
"""Uniform numbers that one face's expression uses."""


def prototypes() -> np.ndarray:
    """Returns the mean action units, float64 ``[classes, ways, action units]``."""
    table = np.zeros((len(EXPRESSIONS), WAYS, len(ACTION_UNITS)))
    for row, expression in enumerate(EXPRESSIONS):
        for way, units in enumerate(_WAYS[expression]):
            for name, value in units.items():
                table[row, way, ACTION_UNITS.index(name)] = value
    return table


def sample_action_units(labels: np.ndarray, style: Style, random: np.ndarray) -> np.ndarray:
    """Draws action units for faces that show the given expressions.

    A face shows one way of its expression with an intensity between weak and strong; some faces blend in a part of
    a second expression, and every unit varies on its own. Weak and blended faces are where classes overlap.

    Args:
        labels: int64 ``[N]``.
        style: Its ``intensity``, ``blend_*`` and ``unit_noise`` set the difficulty.
        random: float64 ``[N, RANDOM_WIDTH]`` uniforms.

    Returns:
        float64 ``[N, action units]`` within [-0.6, 1.25].
    """
    table, units = prototypes(), len(ACTION_UNITS)
    way = (random[:, 0] * WAYS).astype(np.int64)
    low, high = style.intensity
    intensity = low + (high - low) * (1.0 - random[:, 1] ** 2)  # more strong faces than weak ones
    shown = table[labels, way] * (style.expressiveness * intensity)[:, None]
    other = (labels + 1 + (random[:, 2] * (len(EXPRESSIONS) - 1)).astype(np.int64)) % len(EXPRESSIONS)
    weight = np.where(random[:, 3] < style.blend_probability, style.blend_weight * random[:, 4], 0.0)[:, None]
    blended = (1.0 - weight) * shown + weight * table[other, (random[:, 5] * WAYS).astype(np.int64)]
    first = 12
    parts = [random[:, first + part * units : first + (part + 1) * units] for part in range(3)]
    noise = bell(parts[0], parts[1], parts[2]) * 3.0
    noisy = blended * (1.0 + 0.5 * style.unit_noise * noise) + 0.35 * style.unit_noise * noise
    lowest = np.where(np.isin(np.arange(units), [0, 1]), -0.6, 0.0)  # only brows also move the other way
    limited: np.ndarray = np.clip(noisy, lowest, 1.25)
    return limited
