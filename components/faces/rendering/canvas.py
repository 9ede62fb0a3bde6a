"""A batch of pictures that parts are painted on, from back to front."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .geometry import Window, cover
from .styles import PARTS, Style

_CHROMA = {
    "skin": (0.16, -0.02, -0.14), "lip": (0.3, -0.12, -0.08), "mouth": (0.35, -0.1, -0.1), "hair": (0.12, 0.0, -0.12),
    "brow": (0.12, 0.0, -0.12), "beard": (0.12, 0.0, -0.12), "crease": (0.18, -0.02, -0.14),
    "nose": (0.18, -0.03, -0.13), "lid": (0.14, -0.02, -0.12), "iris": (-0.05, 0.0, 0.08),
}  # fmt: skip
"""Share of its tone that a part adds to red, green and blue."""
_VARIED = {"background": 0.0, "clothes": 0.37, "occluder": 0.71}
"""Parts whose hue differs from picture to picture, with their place on the colour circle."""


class Canvas:
    """Pictures as one tensor ``[channels, rows, columns, images]``.

    Args:
        style: Opacities of the parts.
        values: Parameters by name, each ``[images]``.
        size: Side in pixels.
        channels: 1 or 3.
    """

    def __init__(self, style: Style, values: Mapping[str, Tensor], size: int, channels: int) -> None:
        self.style, self.values, self.size, self.channels = style, values, size, channels
        self.whole = Window(0, size, 0, size)
        self.pixel = size / 48.0
        self.hatched = style.hatch[1] > 0.0
        self.line_width = values["line_width"] * (0.5 * self.pixel)
        self.tones = {part: self._tone(part) for part in PARTS}
        self.ink = values["ink"].expand(channels, 1, 1, -1)
        self.picture = self.tones["background"].expand(channels, size, size, -1).clone()

    def paint(self, part: str, window: Window, distance: Tensor, opacity: Tensor | None = None) -> None:
        """Fills a part with its tone and draws its outline, as the style has it.

        Args:
            part: One of `PARTS`.
            window: Where the distance was computed.
            distance: Pixels from the part's rim, negative inside, ``[rows, columns, images]``.
            opacity: Factor on the opacity of both, ``[images]``.
        """
        self.shade(part, window, distance, opacity)
        line = self.style.inks[part].line
        if line > 0.0:
            outline = distance.abs().sub_(self.line_width)
            self.lay(window, cover(outline, opacity), self.ink, line)

    def shade(self, part: str, window: Window, distance: Tensor, opacity: Tensor | None = None) -> None:
        """Fills a part without outline, as in :meth:`paint`."""
        fill = self.style.inks[part].fill
        if fill > 0.0:
            self.lay(window, cover(distance, opacity), self.tones[part], fill)

    def lay(self, window: Window, mask: Tensor, tone: Tensor, share: float = 1.0) -> None:
        """Blends a tone over a window.

        Args:
            window: Where.
            mask: Opacity, ``[rows, columns, images]``; its memory is reused.
            tone: ``[channels, 1, 1, images]``.
            share: Factor on the opacity.
        """
        if not window.empty:
            window.of(self.picture).lerp_(tone, mask if share == 1.0 else mask.mul_(share))

    def _tone(self, part: str) -> Tensor:
        tone = self.values[f"tone_{part}"].clamp(0.0, 1.0)
        if self.channels == 1:
            return tone.reshape(1, 1, 1, -1)
        if part in _VARIED:
            angle = (self.values["hue"] * (1.0 + _VARIED[part]) + _VARIED[part]) * 6.2832
            chroma = torch.stack([(angle + 2.0944 * channel).cos() for channel in range(3)]) * 0.25
        else:
            chroma = torch.tensor(_CHROMA.get(part, (0.0, 0.0, 0.0)))[:, None].expand(3, len(tone))
        return (tone * (1.0 + self.style.colour * chroma)).clamp_(0.0, 1.0).reshape(3, 1, 1, -1)
