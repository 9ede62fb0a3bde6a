"""The pictures of the report, each as inline SVG that stays readable at the width of a phone."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from .arrays import Floats, Integers
from .calibration import Reliability
from .formats import count, percent, short
from .intervals import Interval
from .svg import BAD, CLASSES, INK, LINE, MODELS, SOFT, UNITS, canvas, plain, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 320.0

MAX_VECTOR_POINTS = 1000
"""A scatter chart of more points than this holds them as one small image."""

_MARKERS = (("o", 5.2), ("s", 4.6), ("^", 5.8), ("D", 4.4), ("v", 5.8), ("P", 6.2), ("X", 5.8), ("*", 8.0))
_LETTER = 6.1
_LARGEST = 1e300
_LABEL_STEP = 13.0
_DASHED = (0, (4, 3))


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
    left = min(130.0, max((len(name) for name in groups), default=3) * _LETTER + 10)
    step, gap = 13.0, 9.0
    height = sum(step * len(bars) + gap for bars in groups.values()) or gap
    middles, borders, y = [], [], gap / 2
    places: dict[int, list[tuple[Bar, float]]] = {}
    with canvas(WIDTH, height + 26) as figure:
        axes = _axes(figure, left, 6, WIDTH - left - 44, height)
        for bars in groups.values():
            for row, bar in enumerate(bars):
                places.setdefault(bar.index, []).append((bar, y + step * (row + 0.5)))
            middles.append(y + step * len(bars) / 2)
            y += step * len(bars) + gap
            borders.append(y - gap / 2)
        for index, bars_at in places.items():
            _intervals(axes, index, bars_at)
        axes.set(xlim=(0, 1), ylim=(height, 0))
        axes.set_yticks(middles, [_cut(name, left - 6) for name in groups])
        axes.set_yticks(borders, minor=True)
        axes.tick_params("y", labelcolor=INK, labelsize=11)
        axes.grid(axis="y", which="minor")
        axes.grid(axis="x")
        axes.spines["bottom"].set_visible(False)
        _in_percent(axes, "x")
        words = (f"{name}: {', '.join(percent(bar.value) for bar in bars)}" for name, bars in groups.items())
        return render(figure, label, "; ".join(words))


def reliability_chart(curve: Reliability, name: str) -> Markup:
    """Draws accuracy against confidence per bin, the distance to the diagonal, and where the images are."""
    edges, counts = np.array(curve.edges), np.array(curve.counts)
    right, claimed = (np.array([v or 0.0 for v in values]) for values in (curve.accuracy, curve.confidence))
    middles, widths = (edges[:-1] + edges[1:]) / 2, np.diff(edges) * 0.9
    most = max(1, int(counts.max(initial=0)))
    with canvas(WIDTH, 302) as figure:
        upper, lower = _axes(figure, 38, 8, 268, 196), _axes(figure, 38, 226, 268, 42)
        filled = counts > 0
        upper.bar(middles[filled], right[filled], widths[filled], color=MODELS[1])
        upper.bar(
            middles[filled],
            np.abs(claimed - right)[filled],
            widths[filled],
            np.minimum(claimed, right)[filled],
            facecolor="none",
            edgecolor=BAD,
            linewidth=0.8,
            hatch="//",
        )
        upper.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=_DASHED)
        upper.text(0.015, 0.985, "accuracy per bin, %", va="top")
        upper.grid(axis="y")
        _in_percent(upper, "y")
        lower.bar(middles[filled], counts[filled], widths[filled], color=MODELS[0])
        share = percent(most / max(1, int(counts.sum())), 0)
        lower.text(0.015, 1.06, f"images per bin (most: {share})", transform=lower.transAxes)
        lower.set(ylim=(0, most), yticks=[], xlabel="confidence, %")
        for axes in (upper, lower):
            axes.set_xlim(0, 1)
            _in_percent(axes, "x")
        upper.tick_params("x", labelbottom=False)
        return render(figure, f"Reliability diagram of {name}", _reliability_words(curve))


def line_chart(
    points: Sequence[tuple[float, float]],
    label: str,
    x_name: str,
    references: Mapping[str, float] | None = None,
    key: str = "",
) -> Markup:
    """Draws one curve with named reference levels.

    Args:
        points: (x, y) in order; values that are not finite leave gaps out.
        label: What the picture shows.
        x_name: Name of the x axis.
        references: Name and height of dashed lines, for instance ``{"ln K": 5.01}``.
        key: Tells apart curves of one page that may be the same.
    """
    usable = [(x, y) for x, y in points if abs(x) < _LARGEST and abs(y) < _LARGEST]
    levels = {name: value for name, value in (references or {}).items() if abs(value) < _LARGEST}
    low, high = _range([y for _, y in usable] + list(levels.values()))
    with canvas(WIDTH, 190) as figure:
        axes = _axes(figure, 48, 10, WIDTH - 58, 144)
        for name, value in levels.items():
            _level(axes, f"{name} = {short(value)}", value, below=(value - low) / (high - low) > 0.9)
        x, y = np.array(usable or np.zeros((0, 2))).T
        axes.plot(x, y, color=MODELS[1], marker="o" if len(x) == 1 else "", clip_on=False)
        if len(x) and x[0] < x[-1]:
            axes.set_xlim(x[0], x[-1])
        axes.set(ylim=(low, high), xlabel=plain(x_name))
        _round_ticks(axes, x=[x[0]] if len(x) and x[0] >= x[-1] else None)
        axes.grid(axis="y")
        return render(figure, label, _curve_words(usable, levels), key)


def histogram_chart(edges: Floats, everything: Integers, kept: Integers, x_name: str, label: str) -> Markup:
    """Draws a histogram of all values with the kept ones in front."""
    from matplotlib.ticker import MaxNLocator

    with canvas(WIDTH, 190) as figure:
        axes = _axes(figure, 48, 10, WIDTH - 58, 144)
        middles, widths = (edges[:-1] + edges[1:]) / 2, np.diff(edges) * 0.9
        axes.bar(middles, everything, widths, color=MODELS[0])
        axes.bar(middles, kept, widths, color=MODELS[1])
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, max(1, int(everything.max(initial=0)))), xlabel=plain(x_name))
        _round_ticks(axes)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="y")
        return render(figure, label, f"{count(int(kept.sum()))} of {count(int(everything.sum()))} are kept")


def scatter_chart(points: Floats, groups: Integers, names: Sequence[str], label: str) -> Markup:
    """Draws points [N, 2], with a shape and a colour for each group and its name at its middle."""
    side = 300.0
    low, high = points.min(axis=0), points.max(axis=0)
    placed = 14 + (side - 28) * (points - low) / np.where(high > low, high - low, 1)
    with canvas(side, side) as figure:
        axes = _axes(figure, 0.5, 0.5, side - 1, side - 1)
        axes.set(xlim=(0, side), ylim=(0, side), xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=LINE)
        middles = {}
        for index, name in enumerate(names):
            chosen = placed[groups == index]
            if not len(chosen):
                continue
            middles[index] = (plain(name), np.median(chosen, axis=0))
            marker, size = _MARKERS[index % len(_MARKERS)]
            axes.plot(
                *chosen.T, marker, markersize=size, color=CLASSES[index % len(CLASSES)], alpha=0.72,
                rasterized=len(points) > MAX_VECTOR_POINTS,
            )  # fmt: skip
        for name, x, y in _spread(list(middles.values()), side):
            axes.text(x, y, name, color=INK, fontsize=11.5, ha="center", va="center", gid="halo")
        sizes = (f"{name}: {count(int((groups == index).sum()))}" for index, (name, _) in middles.items())
        return render(figure, label, f"Points by group: {', '.join(sizes)}")


@functools.cache
def legend_mark(index: int, kind: str = "s") -> Markup:
    """Returns the small marker that stands for a model (``s``) or a class (``c``) in a legend."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.patches import PathPatch
    from matplotlib.transforms import Affine2D

    colours = CLASSES if kind == "c" else MODELS
    marker, size = _MARKERS[index % len(_MARKERS)]
    form = MarkerStyle(marker)
    with canvas(10, 10) as figure:
        # A patch, because a marker needs an id and the same mark stands in many places of a page.
        place = Affine2D().scale(size / UNITS).translate(5 / UNITS, 5 / UNITS) + figure.dpi_scale_trans
        path = form.get_path().transformed(form.get_transform())
        figure.add_artist(
            PathPatch(path, facecolor=colours[index % len(colours)], edgecolor="none", linewidth=0, transform=place)
        )
        return render(figure)


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Places axes; all in units of the drawing, from its upper left corner."""
    wide, tall = figure.get_size_inches() * UNITS
    axes = figure.add_axes((left / wide, 1 - (top + height) / tall, width / wide, height / tall))
    axes.patch.set_visible(False)
    return axes


def _round_ticks(axes: Axes, x: Sequence[float] | None = None) -> None:
    """Puts a few round numbers on both axes, or the numbers `x` on the lower one."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    if x is not None:
        axes.xaxis.set_major_locator(FixedLocator(x))


def _tick(value: float) -> str:
    return count(round(value)) if 1e4 <= abs(value) < 1e7 and value == round(value) else short(value)


def _level(axes: Axes, text: str, value: float, *, below: bool) -> None:
    axes.axhline(value, color=SOFT, linewidth=1, linestyle=_DASHED)
    axes.annotate(
        text,
        (1, value),
        (-2, -3 if below else 3),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        va="top" if below else "bottom",
    )


def _in_percent(axes: Axes, which: str) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.set(**{f"{which}lim": (0, 1), f"{which}ticks": [0, 0.25, 0.5, 0.75, 1]})
    (axes.xaxis if which == "x" else axes.yaxis).set_major_formatter(PercentFormatter(1, 0, symbol=""))


def _intervals(axes: Axes, index: int, bars: Sequence[tuple[Bar, float]]) -> None:
    """Draws the values of one model at their heights."""
    known = []
    for bar, y in bars:
        if bar.value is None:
            axes.text(0.015, y, "no image", va="center")
            continue
        low, high = bar.bounds or (bar.value, bar.value)
        known.append((bar.value, y, max(0.0, bar.value - low), max(0.0, high - bar.value)))
        axes.annotate(percent(bar.value), (1, y), (6, 0), textcoords="offset points", va="center")
    if known:
        values, places, *reach = np.array(known).T
        marker, size = _MARKERS[index % len(_MARKERS)]
        colour = MODELS[index % len(MODELS)]
        axes.errorbar(
            values, places, xerr=reach, fmt=marker, markersize=size, color=colour, elinewidth=1.6, clip_on=False
        )


def _cut(text: str, width: float) -> str:
    """Returns the text, cut with an ellipsis where it is wider than `width`."""
    room = max(1, int(width / _LETTER))
    text = plain(text)
    return text if len(text) <= room else text[: max(1, room - 1)] + "\N{HORIZONTAL ELLIPSIS}"


def _spread(labels: list[tuple[str, Floats]], side: float) -> list[tuple[str, float, float]]:
    """Moves labels down, from the highest on, until none covers another; they stay within the frame."""
    placed: list[tuple[str, float, float]] = []
    for name, (x, height) in sorted(labels, key=lambda item: -float(item[1][1])):
        half = len(name) * _LETTER / 2 + 2
        middle, y = min(max(float(x), half), side - half), float(height)
        for other, other_x, other_y in placed:
            if abs(middle - other_x) < half + len(other) * _LETTER / 2 and other_y - y < _LABEL_STEP:
                y = other_y - _LABEL_STEP
        placed.append((name, middle, max(y, 8.0)))
    return placed


def _range(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    missing = 0.02 * max(abs(low), abs(high)) - (high - low)  # what hardly changes shall look so
    low, high = low - max(missing, 0) / 2, high + max(missing, 0) / 2
    margin = 0.06 * (high - low) or 1e-6
    return (0.0 if 0 <= low < margin * 3 else low - margin), high + margin


def _curve_words(points: Sequence[tuple[float, float]], levels: Mapping[str, float]) -> str:
    if not points:
        return "no values"
    named = "".join(f"; {name} = {short(value)}" for name, value in levels.items())
    return f"from {short(points[0][1])} to {short(points[-1][1])}{named}"


def _reliability_words(curve: Reliability) -> str:
    return "no labelled image" if curve.ece is None else f"expected calibration error {percent(curve.ece)}"
