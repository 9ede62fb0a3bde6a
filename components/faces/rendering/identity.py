"""Everything about a picture that is not its expression: the person, the pose, the light, the camera."""

from __future__ import annotations

import numpy as np

from .streams import bell
from .styles import PARTS, PERSON, Style

PERSON_WIDTH = 3 * len(PERSON) + len(PARTS) + 8
"""Uniform numbers that describe one person."""

_PERSONAL_TONES = (
    "hair",
    "skin",
    "brow",
    "sclera",
    "iris",
    "lid",
    "lip",
    "mouth",
    "teeth",
    "crease",
    "nose",
    "beard",
    "glasses",
)

_SCENE = ("line_width", "hatch", "hatch_period", "ink", "scale", "light", "relief", "gradient", "blur", "motion",
          "vignette", "gamma", "gain", "offset", "noise", "blocks", "grain")  # fmt: skip
_LOW_IS_USUAL = ("motion", "hatch")
SCENE_WIDTH = len(_SCENE) + len(PARTS) + 40
"""Uniform numbers that describe one picture."""


def sample_person(style: Style, random: np.ndarray) -> dict[str, np.ndarray]:
    """Draws the traits of people.

    Args:
        style: Its ``identity``, ``glasses``, ``beard``, ``skin`` and tones count.
        random: float64 ``[N, PERSON_WIDTH]`` uniforms, one row per person.

    Returns:
        Traits by name, each ``[N]``.
    """
    values: dict[str, np.ndarray] = {}
    for index, name in enumerate(PERSON):
        mean, spread = style.traits.get(name, PERSON[name])
        parts = random[:, 3 * index : 3 * index + 3]
        values[name] = mean + style.identity * spread * 1.5 * bell(parts[:, 0], parts[:, 1], parts[:, 2])
    rest = random[:, 3 * len(PERSON) :]
    values["skin"] = _between(style.skin, rest[:, 0])
    values["has_glasses"] = (rest[:, 1] < style.glasses).astype(np.float64)
    values["glasses_round"] = rest[:, 2]
    values["has_beard"] = (rest[:, 3] < style.beard).astype(np.float64) * (0.5 + 0.5 * rest[:, 4])
    values["moustache"] = (rest[:, 5] < style.beard).astype(np.float64)
    for index, part in enumerate(PARTS):
        if part in _PERSONAL_TONES:
            ink = style.inks[part]
            values[f"tone_{part}"] = _between(ink.tone, rest[:, 8 + index]) + ink.skin * values["skin"]
    return values


def sample_scene(style: Style, skin: np.ndarray, random: np.ndarray) -> dict[str, np.ndarray]:
    """Draws pose, light, background and camera.

    Args:
        style: Ranges.
        skin: Tones of the people's skin, ``[N]``.
        random: float64 ``[N, SCENE_WIDTH]`` uniforms, one row per picture.

    Returns:
        Parameters by name, each ``[N]``.
    """
    values: dict[str, np.ndarray] = {}
    for index, name in enumerate(_SCENE):
        column = random[:, index]
        values[name] = _between(getattr(style, name), column * column if name in _LOW_IS_USUAL else column)
    for index, part in enumerate(PARTS):
        if part not in _PERSONAL_TONES:
            ink = style.inks[part]
            values[f"tone_{part}"] = _between(ink.tone, random[:, len(_SCENE) + index]) + ink.skin * skin
    rest = random[:, len(_SCENE) + len(PARTS) :]
    for index, (name, largest) in enumerate(_pose(style).items()):
        parts = rest[:, 3 * index : 3 * index + 3]
        values[name] = 1.2 * largest * bell(parts[:, 0], parts[:, 1], parts[:, 2])
    rest = rest[:, 24:]
    for index, name in enumerate(("gradient_x", "gradient_y", "blob_x", "blob_y", "patch_x", "patch_y")):
        values[name] = 2.0 * rest[:, index] - 1.0
    values["patch_size"] = (rest[:, 6] < style.occlusion) * (0.15 + 0.15 * rest[:, 7])
    values["inverted"] = (rest[:, 8] < style.invert).astype(np.float64)
    for index in range(4):
        values[f"noise_{index}"] = rest[:, 9 + index]
    values["motion_axis"] = (rest[:, 13] < 0.5).astype(np.float64)
    values["hue"] = rest[:, 14]
    values["cast"] = style.cast * (2.0 * rest[:, 15] - 1.0)
    return values


def _pose(style: Style) -> dict[str, float]:
    return {
        "shift_x": style.shift,
        "shift_y": style.shift,
        "roll": style.roll,
        "yaw": style.yaw,
        "pitch": style.pitch,
        "light_x": style.light_side,
        "light_y": 0.6,
        "gaze": 0.03,
    }


def _between(limits: tuple[float, float], where: np.ndarray) -> np.ndarray:
    return limits[0] + (limits[1] - limits[0]) * where
