"""Coordinates and signed distances for many images at once.

Tensors are laid out ``[rows, columns, images]``: parameters ``[images]`` broadcast over the last, contiguous axis and a
part of the picture is a cheap slice. Lengths are in pixels, so that a distance is also how an edge is smoothed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """A part of the picture: rows ``top .. bottom`` and columns ``left .. right``."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def empty(self) -> bool:
        """Whether there is nothing inside."""
        return self.bottom <= self.top or self.right <= self.left

    def of(self, picture: Tensor) -> Tensor:
        """Returns the window's view of ``[..., rows, columns, images]``."""
        return picture[..., self.top : self.bottom, self.left : self.right, :]


@dataclass(frozen=True)
class Frame:
    """A local coordinate system in each image: u to the side, v down, in pixels.

    Attributes:
        x: Column of the origin, ``[images]``.
        y: Row of the origin.
        cos: Cosine of the rotation.
        sin: Sine of the rotation.
        side: 1, or -1 where u runs to the left (the other half of a face).
    """

    x: Tensor
    y: Tensor
    cos: Tensor
    sin: Tensor
    side: float = 1.0

    def child(self, u: Tensor, v: Tensor, tilt: Tensor | None = None, side: float = 1.0) -> Frame:
        """Returns a frame with its origin at (u, v), turned by `tilt` (radians, towards v)."""
        x = self.x + u * self.side * self.cos - v * self.sin
        y = self.y + u * self.side * self.sin + v * self.cos
        side = self.side * side
        if tilt is None:
            return Frame(x, y, self.cos, self.sin, side)
        cos, sin = tilt.cos(), tilt.sin() * side
        return Frame(x, y, self.cos * cos - self.sin * sin, self.sin * cos + self.cos * sin, side)

    def window(self, wide: Tensor, high: Tensor, size: int) -> Window:
        """Returns the smallest window that holds the box of every image (with a margin for outlines).

        Args:
            wide: How far the box reaches to both sides along u, ``[images]``.
            high: How far it reaches along v.
            size: Side of the picture.
        """
        cos, sin = self.cos.abs(), self.sin.abs()
        across, down = cos * wide + sin * high, sin * wide + cos * high
        limits = torch.stack([self.x - across, self.y - down, -self.x - across, -self.y - down]).amin(dim=1).tolist()
        return Window(*_limits(limits[1], -limits[3], size), *_limits(limits[0], -limits[2], size))

    def coordinates(self, window: Window) -> tuple[Tensor, Tensor]:
        """Returns u and v at the pixel centres of a window, each ``[rows, columns, images]``."""
        centres = _centres(max(window.right, window.bottom))
        columns = centres[None, window.left : window.right, None] - self.x
        rows = centres[window.top : window.bottom, None, None] - self.y
        cos, sin = self.cos * self.side, self.sin * self.side
        return columns * cos + rows * sin, rows * self.cos - columns * self.sin

    def diagonal(self, window: Window, period: Tensor) -> Tensor:
        """Returns (u - v) / (sqrt(2) * period) at the pixel centres of a window: it counts diagonal lines."""
        centres = _centres(max(window.right, window.bottom))
        across, down = (self.cos * self.side + self.sin) / period, (self.sin * self.side - self.cos) / period
        columns = (centres[None, window.left : window.right, None] - self.x) * (across * 0.70711)
        return columns + (centres[window.top : window.bottom, None, None] - self.y) * (down * 0.70711)


@cache
def _centres(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float32).add_(0.5)


def _limits(low: float, high: float, size: int) -> tuple[int, int]:
    margin = 1.0 + size / 48.0  # soft edges and outlines reach a little further than their shape
    return max(0, min(size, int(low - margin))), max(0, min(size, int(high + margin + 1.0)))


def ellipse(u: Tensor, v: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Returns the distance to an ellipse's rim in pixels (first order), negative inside."""
    radius = (u / width).square_().add_((v / height).square_()).sqrt_()
    return radius.sub_(1.0).mul_(torch.minimum(width, height))


def box(u: Tensor, v: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Returns the distance to a box of half-sides `width` and `height`, negative inside."""
    return torch.maximum(u.abs().sub_(width), v.abs().sub_(height))


def lens(v: Tensor, above: Tensor, below: Tensor) -> Tensor:
    """Returns the distance to the region ``-above < v < below``, negative inside; the limits may vary by pixel."""
    return torch.maximum(v - below, torch.neg(v).sub_(above))


def arc(t: Tensor, v: Tensor, bend: Tensor | float, thickness: Tensor) -> Tensor:
    """Returns the distance to a tapered stroke along the parabola ``v = bend * t**2``.

    Args:
        t: Position along the stroke, -1 and 1 at its ends.
        v: Coordinate across it, in pixels.
        bend: How far the ends lie below the middle.
        thickness: Half the stroke's thickness in its middle.
    """
    squared = t * t
    distance = (v - squared * bend).abs_().sub_(thickness)
    return distance.add_(squared.square_().mul_(thickness + 0.5))


def cover(distance: Tensor, opacity: Tensor | None = None) -> Tensor:
    """Returns how much of each pixel lies inside, 0 to 1 (times an opacity), from its distance in pixels."""
    inside = (0.5 - distance).clamp_(0.0, 1.0)
    return inside if opacity is None else inside.mul_(opacity)
