"""Styles: every knob of a domain in one frozen dataclass, so that the gap between two domains is explicit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...common.errors import closest, expected, unknown

Range = tuple[float, float]
"""Lowest and highest value; sampled uniformly between them."""

PARTS = (
    "background", "clothes", "hair", "skin", "brow", "sclera", "iris", "lid", "lip", "mouth", "teeth", "crease",
    "nose", "beard", "glasses", "occluder",
)  # fmt: skip
"""What is painted with a tone of its own, from back to front."""


PERSON = {
    "face_width": (0.78, 0.09),
    "jaw": (0.3, 0.3),
    "chin": (0.98, 0.05),
    "forehead": (1.0, 0.06),
    "eye_distance": (0.39, 0.035),
    "eye_height": (-0.12, 0.04),
    "eye_size": (0.25, 0.03),
    "eye_open": (0.5, 0.15),
    "eye_tilt": (0.0, 0.1),
    "iris_size": (0.11, 0.012),
    "brow_height": (0.31, 0.03),
    "brow_length": (0.27, 0.03),
    "brow_thickness": (0.06, 0.02),
    "brow_arch": (0.05, 0.03),
    "brow_tilt": (0.0, 0.06),
    "nose_length": (0.34, 0.05),
    "nose_width": (0.13, 0.03),
    "mouth_height": (0.54, 0.04),
    "mouth_width": (0.33, 0.035),
    "lip_thickness": (0.06, 0.02),
    "mouth_rest": (0.0, 0.012),
    "hair_line": (0.72, 0.12),
    "hair_volume": (0.12, 0.08),
    "hair_length": (0.2, 0.6),
    "parting": (0.0, 0.4),
    "age": (0.4, 0.5),
}
"""Traits of a person: mean and the largest usual deviation (in face units; bell-shaped)."""


@dataclass(frozen=True)
class Ink:
    """How one part is painted.

    Attributes:
        tone: Range of the tone, 0 black to 1 white, added to the share of the skin's tone.
        skin: Share of the skin's own tone in the tone (so that dark skin has dark lips).
        fill: Opacity of the filled area.
        line: Opacity of the outline, in the tone of ``Style.ink``.
    """

    tone: Range
    skin: float = 0.0
    fill: float = 1.0
    line: float = 0.0


@dataclass(frozen=True)
class Style:
    """A domain: how faces are built, posed, lit, painted and photographed.

    Two styles differ in every one of these ranges; widen, narrow or move them to tune the gap. Lengths are in face
    units (half the height of a face), angles in radians, tones from 0 black to 1 white.

    Attributes:
        name: Its name.
        inks: For each of `PARTS`, how it is painted.
        ink: Tone of outlines.
        line_width: Outline thickness in 1/48 of the image.
        hatch: Strength of hatching in hair and shadow.
        hatch_period: Distance of hatch lines in 1/48 of the image.
        skin: Tone of the skin.
        intensity: How strong expressions are, from weak to strong.
        expressiveness: Factor on all of them.
        blend_probability: Share of faces that mix in a second expression.
        blend_weight: Largest weight of the second expression.
        unit_noise: Standard deviation of each action unit around its expression.
        asymmetry: Largest relative difference between the face's halves.
        identity: Factor on how much people differ from one another.
        traits: (mean, largest usual deviation) of traits of `PERSON` that this style draws its own way.
        shift: Largest shift of the face in image halves.
        scale: Half-height of the face in image halves.
        roll: Largest in-plane rotation.
        yaw: Largest turn to the side.
        pitch: Largest nod.
        light: Strength of directional light.
        light_side: Largest horizontal component of its direction.
        relief: How much the face darkens towards its rim.
        gradient: Strength of the background's gradient.
        glasses: Share of people with glasses.
        beard: Share of people with a beard.
        occlusion: Share of images with an occluded patch.
        blur: Blur radius (standard deviation) in 1/48 of the image.
        motion: Additional blur along one axis.
        vignette: Darkening of corners.
        gamma: Tone curve, negative brightens, positive darkens the middle, within [-1, 1].
        gain: Contrast around 0.5.
        offset: Brightness added after contrast.
        noise: Standard deviation of sensor noise.
        blocks: Strength of block compression (quantisation step of an 8x8 DCT).
        grain: Strength of coarse (two pixels wide) texture such as paper.
        invert: Share of images with inverted tones.
        colour: Saturation in three-channel drawing.
        cast: Largest colour cast in three-channel drawing.
    """

    name: str
    inks: Mapping[str, Ink] = field(repr=False)
    ink: Range = (0.05, 0.2)
    line_width: Range = (0.8, 1.2)
    hatch: Range = (0.0, 0.0)
    hatch_period: Range = (2.5, 4.0)
    skin: Range = (0.45, 0.85)
    intensity: Range = (0.4, 1.0)
    expressiveness: float = 1.0
    blend_probability: float = 0.25
    blend_weight: float = 0.45
    unit_noise: float = 0.16
    asymmetry: float = 0.3
    identity: float = 1.0
    traits: Mapping[str, Range] = field(default_factory=dict)
    shift: float = 0.06
    scale: Range = (0.9, 1.06)
    roll: float = 0.15
    yaw: float = 0.35
    pitch: float = 0.2
    light: Range = (0.1, 0.35)
    light_side: float = 1.0
    relief: Range = (0.15, 0.35)
    gradient: Range = (0.0, 0.3)
    glasses: float = 0.15
    beard: float = 0.15
    occlusion: float = 0.03
    blur: Range = (0.0, 0.5)
    motion: Range = (0.0, 0.0)
    vignette: Range = (0.0, 0.1)
    gamma: Range = (-0.2, 0.2)
    gain: Range = (0.85, 1.15)
    offset: Range = (-0.05, 0.05)
    noise: Range = (0.0, 0.02)
    blocks: Range = (0.0, 0.0)
    grain: Range = (0.0, 0.0)
    invert: float = 0.0
    colour: float = 1.0
    cast: float = 0.05

    def __post_init__(self) -> None:
        missing = [part for part in PARTS if part not in self.inks]
        if missing:
            raise expected("inks", "given for every part", sorted(self.inks), f"Add {', '.join(missing)}.")
        for name in self.traits:
            if name not in PERSON:
                fix = closest(name, tuple(PERSON)).strip() or f"Choose from {', '.join(PERSON)}."
                raise expected("traits", "names of PERSON", name, fix)
        for name, value in vars(self).items():
            if isinstance(value, tuple) and not (len(value) == 2 and value[0] <= value[1]):
                raise expected(name, "a range (low, high) with low <= high", value, "Swap the two numbers.")
        for name in ("blend_probability", "glasses", "beard", "occlusion", "invert"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise expected(name, "a share between 0 and 1", getattr(self, name), "Pass a number such as 0.2.")

    def with_(self, **changes: object) -> Style:
        """Returns a copy with some knobs changed, for experiments with the gap."""
        return replace(self, **changes)  # type: ignore[arg-type]


_PAINTED: dict[str, Ink] = {
    "background": Ink((0.1, 0.9)),
    "clothes": Ink((0.1, 0.8)),
    "hair": Ink((0.05, 0.45)),
    "skin": Ink((0.0, 0.0), skin=1.0),
    "brow": Ink((0.0, 0.06), skin=0.25, fill=0.95),
    "sclera": Ink((0.4, 0.5), skin=0.55),
    "iris": Ink((0.02, 0.2)),
    "lid": Ink((0.0, 0.08), skin=0.2, fill=0.9),
    "lip": Ink((-0.04, 0.06), skin=0.62, fill=0.85),
    "mouth": Ink((0.0, 0.1)),
    "teeth": Ink((0.45, 0.55), skin=0.45),
    "crease": Ink((0.0, 0.04), skin=0.4, fill=0.8),
    "nose": Ink((0.0, 0.05), skin=0.5, fill=0.7),
    "beard": Ink((0.02, 0.15), skin=0.2, fill=0.7),
    "glasses": Ink((0.05, 0.3), fill=0.9),
    "occluder": Ink((0.1, 0.9)),
}

_DIM: dict[str, Ink] = {**_PAINTED, "background": Ink((0.05, 0.5)), "clothes": Ink((0.05, 0.4))}

_DRAWN: dict[str, Ink] = {
    "background": Ink((0.0, 0.0), skin=1.0),
    "clothes": Ink((-0.03, 0.0), skin=1.0, line=0.9),
    "hair": Ink((-0.06, 0.0), skin=1.0, line=0.8),
    "skin": Ink((0.0, 0.03), skin=1.0, line=1.0),
    "brow": Ink((0.05, 0.3), fill=0.9),
    "sclera": Ink((0.0, 0.03), skin=1.0, line=0.9),
    "iris": Ink((0.1, 0.5), fill=0.5, line=0.7),
    "lid": Ink((0.05, 0.2)),
    "lip": Ink((-0.02, 0.02), skin=1.0, line=0.45),
    "mouth": Ink((-0.08, 0.0), skin=1.0, line=1.0),
    "teeth": Ink((0.0, 0.03), skin=1.0, line=0.5),
    "crease": Ink((0.1, 0.3), fill=0.9),
    "nose": Ink((0.1, 0.3), fill=0.9),
    "beard": Ink((0.3, 0.5), fill=0.2),
    "glasses": Ink((0.05, 0.25), fill=0.9),
    "occluder": Ink((0.6, 0.95), line=0.6),
}

_THERMAL: dict[str, Ink] = {
    **_PAINTED,
    "background": Ink((0.02, 0.2)),
    "clothes": Ink((0.2, 0.4)),
    "hair": Ink((0.15, 0.4)),
    "brow": Ink((-0.36, -0.28), skin=0.95, fill=0.9),
    "sclera": Ink((0.12, 0.2), skin=1.0, fill=0.9),
    "iris": Ink((0.02, 0.1), skin=1.0, fill=0.9),
    "lid": Ink((0.1, 0.2), skin=1.0, fill=0.7),
    "lip": Ink((0.05, 0.15), skin=1.0),
    "mouth": Ink((0.9, 1.0)),
    "teeth": Ink((-0.25, -0.2), skin=0.8),
    "crease": Ink((-0.3, -0.2), skin=1.0, fill=0.8),
    "nose": Ink((-0.3, -0.2), skin=1.0, fill=0.8),
    "beard": Ink((-0.25, -0.15), skin=0.9, fill=0.7),
    "glasses": Ink((0.02, 0.15), fill=0.95),
    "occluder": Ink((0.1, 0.3)),
}

STYLES: dict[str, Style] = {
    "shaded": Style("shaded", _PAINTED),
    "line": Style(
        "line", _DRAWN,
        traits={"brow_thickness": (0.032, 0.012), "lip_thickness": (0.045, 0.015), "iris_size": (0.085, 0.02)},
        skin=(0.78, 0.98), ink=(0.02, 0.35), line_width=(0.7, 1.5), hatch=(0.4, 1.0),
        light=(0.0, 0.04), relief=(0.0, 0.03), gradient=(0.0, 0.1), roll=0.2, yaw=0.3, scale=(0.88, 1.06),
        blur=(0.0, 0.35), gain=(0.8, 1.1), gamma=(0.0, 0.2), noise=(0.0, 0.03), grain=(0.03, 0.1),
        glasses=0.12, beard=0.1, colour=0.15,
    ),
    "low_light": Style(
        "low_light", _DIM, skin=(0.5, 0.85), light=(0.4, 0.85), light_side=1.4, relief=(0.2, 0.6),
        gradient=(0.0, 0.2), roll=0.25, yaw=0.45, pitch=0.3, shift=0.1, scale=(0.84, 1.02), blur=(0.3, 0.7),
        motion=(0.0, 1.4), vignette=(0.2, 0.7), gamma=(0.3, 0.8), gain=(0.4, 0.75), offset=(-0.24, -0.12),
        noise=(0.02, 0.045), glasses=0.25, occlusion=0.08, cast=0.3,
    ),
    "thermal": Style(
        "thermal", _THERMAL, skin=(0.4, 0.6), light=(0.0, 0.1), relief=(0.1, 0.35), gradient=(0.0, 0.1),
        blur=(0.4, 0.9), gain=(0.8, 1.2), noise=(0.01, 0.03), invert=0.0, glasses=0.2, cast=0.1,
    ),
    "webcam": Style(
        "webcam", _PAINTED, skin=(0.4, 0.9), light=(0.2, 0.5), relief=(0.2, 0.4), roll=0.2, pitch=0.35,
        shift=0.12, scale=(0.78, 0.98), blur=(0.4, 1.0), gamma=(-0.5, 0.2), gain=(0.7, 1.3), offset=(-0.1, 0.15),
        noise=(0.02, 0.05), blocks=(0.2, 0.65), glasses=0.25, cast=0.15,
    ),
}  # fmt: skip
"""The built-in styles by name."""


def get_style(style: str | Style) -> Style:
    """Returns a built-in style by its name; a :class:`Style` is passed through.

    Raises:
        UserError: No style has this name; the message names the closest one.
    """
    if isinstance(style, Style):
        return style
    if style not in STYLES:
        raise unknown("style", style, tuple(STYLES))
    return STYLES[style]
