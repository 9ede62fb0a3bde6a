"""Small inline SVG drawings for an HTML page.

Drawn here rather than by a plotting library, because the pictures take their colours and fonts from the page (light,
dark, print), stay a few kilobytes each, and keep their text as text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

MARKERS = 8
"""Different marker shapes and colours; classes beyond them start again."""

_TEXT_WIDTH = 6.1

_SHAPES = (
    "m-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0-5.2 0",
    "m-2.3-2.3h4.6v4.6h-4.6z",
    "m0-3l2.9 5h-5.8z",
    "m0-3.2l3.2 3.2l-3.2 3.2l-3.2-3.2z",
    "m0 3l2.9-5h-5.8z",
    "m-1-3h2v2h2v2h-2v2h-2v-2h-2v-2h2z",
    "m-3.2-1.2h6.4v2.4h-6.4z",
    "m-1.2-3.2h2.4v6.4h-2.4z",
)


class Drawing:
    """A drawing in a fixed coordinate system that scales to the width of its place.

    Args:
        width: Width of the coordinate system; text is 11 units high, so about 340 reads well on a phone.
        height: Height of the coordinate system.
        label: What the picture shows, for people who do not see it; empty for a mark beside a name.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width, self.height, self.label = width, height, label
        self._parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str = "axis") -> None:
        """Draws a line; `style` is a CSS class."""
        self._parts.append(f'<path class="{style}" d="M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}"/>')

    def rectangle(self, x: float, y: float, width: float, height: float, style: str) -> None:
        """Draws a rectangle; nothing where it has no area."""
        if width > 0 and height > 0:
            size = f'width="{_n(width)}" height="{_n(height)}"'
            self._parts.append(f'<rect class="{style}" x="{_n(x)}" y="{_n(y)}" {size}/>')

    def curve(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Draws a line through points, or a dot for a single one."""
        if len(points) == 1:
            self.marker(points[0][0], points[0][1], 0, style.replace("line", "fill"))
        elif points:
            path = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
            self._parts.append(f'<path class="{style}" d="M{path}"/>')

    def marker(self, x: float, y: float, shape: int, style: str) -> None:
        """Draws one marker."""
        self.markers([(x, y)], shape, style)

    def markers(self, points: Iterable[tuple[float, float]], shape: int, style: str) -> None:
        """Draws many markers of one shape as a single path, which keeps thousands of them small."""
        form = _SHAPES[shape % MARKERS]
        path = "".join(f"M{_n(x)} {_n(y)}{form}" for x, y in points)
        if path:
            self._parts.append(f'<path class="{style}" d="{path}"/>')

    def text(self, x: float, y: float, text: str, anchor: str = "start", style: str = "") -> None:
        """Writes text; it is escaped here."""
        extra = f' class="{style}"' if style else ""
        place = f'x="{_n(x)}" y="{_n(y)}"' + (f' text-anchor="{anchor}"' if anchor != "start" else "")
        self._parts.append(f"<text {place}{extra}>{escape(text)}</text>")

    def render(self) -> Markup:
        """Returns the drawing as an ``svg`` element; without a label it is a small mark that readers skip."""
        box = f'viewBox="0 0 {_n(self.width)} {_n(self.height)}"'
        role = f'role="img" aria-label="{escape(self.label)}"' if self.label else 'class="mark" aria-hidden="true"'
        return Markup(f"<svg {box} {role}>{''.join(self._parts)}</svg>")  # noqa: S704 (all text is escaped)


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Returns round values between `low` and `high`, about as many as wanted.

    Example:
        >>> ticks(0, 1)
        [0.0, 0.25, 0.5, 0.75, 1.0]
        >>> ticks(3.4, 5.1)
        [3.5, 4.0, 4.5, 5.0]
    """
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / wanted))
    step = min((power * factor for factor in (1, 2, 2.5, 5, 10)), key=lambda size: abs(span / size - wanted))
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def text_width(text: str) -> float:
    """Returns about how wide a text is in a drawing."""
    return len(text) * _TEXT_WIDTH


def shorten(text: str, width: float) -> str:
    """Returns the text, cut with an ellipsis where it is wider than `width`."""
    room = max(1, int(width / _TEXT_WIDTH))
    return text if len(text) <= room else text[: max(1, room - 1)] + "\N{HORIZONTAL ELLIPSIS}"


def _n(value: float) -> str:
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text
