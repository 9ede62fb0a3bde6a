"""The pictures of the report, each as inline SVG that stays readable at the width of a phone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from .arrays import Floats, Integers
from .calibration import Reliability
from .formats import count, percent, short
from .intervals import Interval
from .svg import MARKERS, Drawing, shorten, text_width, ticks

WIDTH = 320.0

ROW_COLOURS = 6
"""Colours of models: 0 is the source's, 1 the adapted one's."""

_CURVE_POINTS = 240


@dataclass(frozen=True)
class Bar:
    """One value with its interval in an interval chart.

    Attributes:
        index: The model's place in the palette: colour and shape.
        value: The value, 0 to 1, or None where it is undefined.
        bounds: Its interval, or None.
    """

    index: int
    value: float | None
    bounds: Interval | None = None


def interval_chart(groups: Mapping[str, Sequence[Bar]], label: str) -> Markup:
    """Draws values with intervals on a scale from 0 to 100 %, grouped (for instance by class).

    Args:
        groups: Heading and values of each group, in order.
        label: What the picture shows.
    """
    left = min(130.0, max((text_width(name) for name in groups), default=20.0) + 10)
    step, gap = 13.0, 9.0
    height = sum(step * len(bars) + gap for bars in groups.values()) + 26
    drawing = Drawing(WIDTH, height, label)
    right = WIDTH - 44
    _percent_axis(drawing, left, right, 6, height - 20)
    y = 6.0
    for name, bars in groups.items():
        drawing.text(left - 6, y + step * len(bars) / 2 + 4, shorten(name, left - 6), "end")
        for bar in bars:
            _interval(drawing, bar, y + step / 2, left, right)
            y += step
        y += gap
        drawing.line(left, y - gap / 2, right, y - gap / 2, "grid")
    return drawing.render()


def reliability_chart(curve: Reliability, name: str) -> Markup:
    """Draws accuracy against confidence per bin, the distance to the diagonal, and where the images are."""
    size, left, top = 200.0, 38.0, 8.0
    drawing = Drawing(WIDTH, 300, f"Reliability diagram of {name}: {_reliability_words(curve)}")
    bottom = top + size
    for tick in ticks(0, 1):
        y, x = bottom - size * tick, left + 264 * tick
        drawing.line(left, y, left + 264, y, "grid")
        drawing.text(left - 5, y + 4, f"{100 * tick:.0f}", "end", "small")
        drawing.text(x, 282, f"{100 * tick:.0f}", "middle", "small")
    total = max(1, sum(curve.counts))
    most = max(1, *curve.counts)
    width = 264 / len(curve.counts)
    for index, number in enumerate(curve.counts):
        confidence, accuracy = curve.confidence[index], curve.accuracy[index]
        if confidence is None or accuracy is None:
            continue
        x = left + width * index
        drawing.rectangle(x + 1, bottom - size * accuracy, width - 2, size * accuracy, "s1 solid")
        low, high = sorted((accuracy, confidence))
        drawing.rectangle(x + 1, bottom - size * high, width - 2, size * (high - low), "gap")
        drawing.rectangle(x + 1, 268 - 44 * number / most, width - 2, 44 * number / most, "s0 solid")
    drawing.line(left, bottom, left + 264, top, "reference")
    drawing.line(left, bottom, left + 264, bottom)
    drawing.line(left, 268, left + 264, 268)
    drawing.text(left + 4, top + 11, "accuracy per bin, %", style="small")
    drawing.text(left + 4, 222, f"images per bin (most: {percent(most / total, 0)})", style="small")
    drawing.text(left + 132, 296, "confidence, %", "middle", "small")
    return drawing.render()


def line_chart(
    points: Sequence[tuple[float, float]], label: str, x_name: str, references: Mapping[str, float] | None = None
) -> Markup:
    """Draws one curve with named reference levels.

    Args:
        points: (x, y) in order; values that are not finite leave gaps out.
        label: What the picture shows.
        x_name: Name of the x axis.
        references: Name and height of dashed lines, for instance ``{"ln K": 5.01}``.
    """
    usable = _thin([(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)])
    levels = {name: value for name, value in (references or {}).items() if math.isfinite(value)}
    values = [y for _, y in usable] + list(levels.values())
    low, high = _range(values)
    first, last = (usable[0][0], usable[-1][0]) if usable else (0.0, 1.0)
    drawing = Drawing(WIDTH, 190, f"{label}: {_curve_words(usable)}")
    left, right, top, bottom = 48.0, WIDTH - 10, 10.0, 154.0
    span = (last - first) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * (x - first) / span, bottom - (bottom - top) * (y - low) / (high - low)

    for tick in ticks(low, high):
        y = place(first, tick)[1]
        drawing.line(left, y, right, y, "grid")
        drawing.text(left - 5, y + 4, short(tick), "end", "small")
    for tick in ticks(first, last) if last > first else [first]:
        drawing.text(place(tick, low)[0], bottom + 14, short(tick), "middle", "small")
    for name, value in levels.items():
        y = place(first, value)[1]
        drawing.line(left, y, right, y, "reference")
        drawing.text(right - 2, y - 4 if y > top + 14 else y + 12, f"{name} = {short(value)}", "end", "small")
    drawing.curve([place(x, y) for x, y in usable], "line s1")
    drawing.line(left, bottom, right, bottom)
    drawing.text((left + right) / 2, 186, x_name, "middle", "small")
    return drawing.render()


def histogram_chart(edges: Floats, everything: Integers, kept: Integers, x_name: str, label: str) -> Markup:
    """Draws a histogram of all values with the kept ones in front."""
    drawing = Drawing(WIDTH, 190, label)
    left, right, top, bottom = 48.0, WIDTH - 10, 10.0, 154.0
    most = max(1, int(everything.max(initial=0)))
    for tick in ticks(0, most):
        y = bottom - (bottom - top) * tick / most
        drawing.line(left, y, right, y, "grid")
        drawing.text(left - 5, y + 4, count(round(tick)) if tick == round(tick) else "", "end", "small")
    width = (right - left) / max(1, len(everything))
    for index, (all_of, used) in enumerate(zip(everything, kept, strict=True)):
        x = left + width * index
        for number, style in ((int(all_of), "s0 solid"), (int(used), "s1 solid")):
            tall = (bottom - top) * number / most
            drawing.rectangle(x + 0.7, bottom - tall, width - 1.4, tall, style)
    for tick in ticks(float(edges[0]), float(edges[-1])):
        x = left + (right - left) * (tick - edges[0]) / (edges[-1] - edges[0])
        drawing.text(x, bottom + 14, short(tick), "middle", "small")
    drawing.line(left, bottom, right, bottom)
    drawing.text((left + right) / 2, 186, x_name, "middle", "small")
    return drawing.render()


def scatter_chart(points: Floats, groups: Integers, names: Sequence[str], label: str) -> Markup:
    """Draws points [N, 2], with a shape and a colour for each group and its name at its middle."""
    side = 300.0
    drawing = Drawing(side, side, label)
    drawing.rectangle(0.5, 0.5, side - 1, side - 1, "frame")
    low, high = points.min(axis=0), points.max(axis=0)
    scale = np.where(high > low, high - low, 1)
    placed = 14 + (side - 28) * (points - low) / scale
    placed[:, 1] = side - placed[:, 1]
    for index in range(len(names)):
        chosen = placed[groups == index]
        drawing.markers([(float(x), float(y)) for x, y in chosen], index, f"point c{index % MARKERS}")
    middles = [
        np.median(placed[groups == index], axis=0) if (groups == index).any() else None for index in range(len(names))
    ]
    for name, x, y in _spread([(name, m) for name, m in zip(names, middles, strict=True) if m is not None], side):
        drawing.text(x, y, name, "middle", "halo")
    return drawing.render()


def legend_mark(index: int, kind: str = "s") -> Markup:
    """Returns the small marker that stands for a model (``s``) or a class (``c``) in a legend."""
    drawing = Drawing(10, 10, "")
    shape, style = (index, f"c{index % MARKERS} point") if kind == "c" else (row_shape(index), row_style(index))
    drawing.marker(5, 5, shape, style)
    return drawing.render()


def row_style(index: int) -> str:
    """CSS classes of a model's colour."""
    return f"s{index % ROW_COLOURS} fill"


def row_shape(index: int) -> int:
    """Marker shape of a model."""
    return index % MARKERS


def _interval(drawing: Drawing, bar: Bar, y: float, left: float, right: float) -> None:
    if bar.value is None:
        drawing.text(left + 4, y + 4, "no image", style="small")
        return
    if bar.bounds is not None:
        low, high = (left + (right - left) * bound for bound in bar.bounds)
        drawing.line(low, y, high, y, f"s{bar.index % ROW_COLOURS} whisker")
    drawing.marker(left + (right - left) * bar.value, y, row_shape(bar.index), row_style(bar.index))
    drawing.text(right + 6, y + 4, percent(bar.value), style="small")


def _spread(labels: list[tuple[str, Floats]], side: float) -> list[tuple[str, float, float]]:
    """Moves labels down, in order of height, until none covers another; they stay within the frame."""
    placed: list[tuple[str, float, float]] = []
    for name, (x, y) in sorted(labels, key=lambda item: float(item[1][1])):
        half = text_width(name) / 2 + 2
        left, top = min(max(float(x), half), side - half), float(y) + 4
        for other, other_x, other_y in placed:
            if abs(left - other_x) < half + text_width(other) / 2 and top - other_y < 13:
                top = other_y + 13
        placed.append((name, left, min(top, side - 4)))
    return placed


def _percent_axis(drawing: Drawing, left: float, right: float, top: float, bottom: float) -> None:
    for tick in ticks(0, 1):
        x = left + (right - left) * tick
        drawing.line(x, top, x, bottom, "grid")
        drawing.text(x, bottom + 14, f"{100 * tick:.0f}", "middle", "small")


def _range(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or max(abs(high) * 0.1, 1e-6)
    return (0.0 if 0 <= low < margin * 3 else low - margin), high + margin


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= _CURVE_POINTS:
        return points
    chosen = np.unique(np.linspace(0, len(points) - 1, _CURVE_POINTS).round().astype(int))
    return [points[index] for index in chosen]


def _curve_words(points: Sequence[tuple[float, float]]) -> str:
    if not points:
        return "no values"
    return f"from {short(points[0][1])} to {short(points[-1][1])}"


def _reliability_words(curve: Reliability) -> str:
    return "no labelled image" if curve.ece is None else f"expected calibration error {percent(curve.ece)}"
