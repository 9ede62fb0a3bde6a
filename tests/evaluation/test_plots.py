"""The pictures: text stays text, colours are the page's, places are right, same bytes, nothing of matplotlib leaks."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import ferry.evaluation
import matplotlib
import numpy as np
import pytest
from ferry.evaluation import reliability_curve, svg
from ferry.evaluation.plots import (
    MAX_VECTOR_POINTS,
    Bar,
    histogram_chart,
    interval_chart,
    legend_mark,
    line_chart,
    reliability_chart,
    scatter_chart,
)

CSS = (Path(ferry.evaluation.__file__).parent / "report.css").read_text(encoding="utf-8")
HOSTILE = '<b>$\\frac{1}$ & "x"\x00\x0b\n日本'


def curve(seed=0):
    rng = np.random.default_rng(seed)
    return reliability_curve(rng.normal(size=(200, 3)) * 2, rng.integers(0, 3, 200), ("a", "b", "c"), from_logits=True)


def cloud(number):
    rng = np.random.default_rng(0)
    return rng.normal(size=(number, 2)), np.arange(number) % 3, ["one", "two", "three"], "PCA of a"


CHARTS = {
    "interval": lambda: interval_chart({"a": [Bar(0, 0.5, (0.4, 0.6)), Bar(1, None)], "b": [Bar(0, 1.0)]}, "Recall"),
    "reliability": lambda: reliability_chart(curve(), "a"),
    "line": lambda: line_chart([(0, 5.0), (10, 4.0), (20, 3.0)], "Loss", "step", {"ln K": 5.01}),
    "histogram": lambda: histogram_chart(
        np.linspace(0, 1, 5), np.array([1, 2, 3, 4]), np.array([0, 0, 3, 4]), "x", "H"
    ),
    "scatter": lambda: scatter_chart(*cloud(30)),
    "image": lambda: scatter_chart(*cloud(MAX_VECTOR_POINTS + 1)),
}


@cache
def drawn(name):
    return CHARTS[name]()


def parts(drawing, tag):
    return ElementTree.fromstring(drawing).iter(tag)


def texts(drawing):
    return [element.text for element in parts(drawing, "text")]


@pytest.mark.parametrize("name", CHARTS)
def test_same_input_gives_the_same_bytes_whatever_the_readers_settings_are(name):
    first = drawn(name)
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": None, "font.size": 30, "axes.grid": True}):
        before = dict(matplotlib.rcParams)
        assert CHARTS[name]() == first
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", CHARTS)
def test_takes_fonts_and_colours_from_the_page(name):
    drawing = re.sub("base64,[^\"']*", "", drawn(name))
    assert "font-family" not in drawing
    assert not re.search(r"#[0-9a-f]{6}\b|rgb\(|white|black", drawing)
    used = set(re.findall(r"var\(--(\w+)\)", drawing))
    assert used <= set(svg.VARIABLES.values())
    assert used
    assert not re.search(r"<\?xml|<!DOCTYPE|<!--|<style|<metadata|xmlns", drawing)


def test_colours_are_those_of_the_style_sheet():
    light, dark = (dict(re.findall(r"--(\w+): (#\w+);", part)) for part in CSS.split("@media", 2)[:2])
    for kind, colours in (("s", svg.MODELS), ("c", svg.CLASSES)):
        for index, colour in enumerate(colours):
            variable = svg.VARIABLES[colour]  # one colour may have two names, which then agree in the dark as well
            assert light[f"{kind}{index}"] == light[variable] == colour
            assert dark[f"{kind}{index}"] == dark[variable] != colour
    for colour in (svg.SOFT, svg.LINE, svg.GRID, svg.BAD):
        assert light[svg.VARIABLES[colour]] == colour
    assert light["ink"] == svg.INK


@pytest.mark.parametrize("name", CHARTS)
def test_every_reference_has_its_one_target(name):
    drawing = drawn(name)
    ids = re.findall(r' id="([^"]*)"', drawing)
    used = re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', drawing)
    assert len(ids) == len(set(ids))
    assert {a or b for a, b in used} | set(re.search('labelledby="(.*?)"', drawing)[1].split()) == set(ids)


def test_ids_of_two_pictures_differ():
    first, second = (re.findall(r' id="([^"]*)"', reliability_chart(curve(seed), "a")) for seed in (0, 1))
    assert first
    assert not set(first) & set(second)


def test_levels_ticks_and_the_curve_are_in_place():
    drawing = drawn("line")
    assert {"ln K = 5.01", "step", "0", "10", "20"} <= set(texts(drawing))
    path = next(e.get("d") for e in parts(drawing, "path") if "--s1" in e.get("style", ""))
    xs, ys = np.array(re.findall(r"([\d.]+) ([\d.]+)", path), float).T
    assert xs[0] == 48
    assert xs[-1] == 310
    ticks = {e.text: float(e.get("y")) for e in parts(drawing, "text") if e.text in "345"}
    assert ys[0] - ys[-1] == pytest.approx(ticks["5"] - ticks["3"], abs=1)


def test_a_curve_that_hardly_changes_looks_flat_and_its_ticks_differ():
    drawing = line_chart([(0, 59.985), (10, 59.999)], "Perplexity", "step", {"K": 60.0})
    path = next(e.get("d") for e in parts(drawing, "path") if "--s1" in e.get("style", ""))
    ys = [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", path)]
    assert abs(ys[0] - ys[-1]) < 3  # of 144
    ticks = [text for text in texts(drawing) if re.fullmatch(r"[\d.]+", text)]
    assert len(ticks) == len(set(ticks)) > 3


def test_intervals_reach_from_bound_to_bound():
    drawing = interval_chart({"a": [Bar(1, 0.5, (0.25, 1.0))]}, "Recall")
    at = {e.text: float(e.get("x")) for e in parts(drawing, "text")}
    path = next(e.get("d") for e in parts(drawing, "path") if "--s1" in e.get("style", "") and "M" in e.get("d"))
    ends = [float(x) for x, _ in re.findall(r"([\d.]+) ([\d.]+)", path)]
    assert ends == pytest.approx([at["25"], at["100"]], abs=0.1)
    point = next(parts(drawing, "use"))
    assert float(point.get("x")) == pytest.approx(at["50"], abs=0.1)


def test_an_undefined_value_says_so_and_draws_nothing():
    drawing = interval_chart({"a": [Bar(1, None)]}, "Recall of nothing")
    assert "no image" in texts(drawing)
    assert "--s1" not in drawing


def test_bars_are_as_tall_as_their_counts():
    drawing = drawn("histogram")
    bars = [e.get("d") for e in parts(drawing, "path") if "--s0" in e.get("style", "")]
    heights = [np.ptp([float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", bar)]) for bar in bars]
    assert np.array(heights) / heights[0] == pytest.approx([1, 2, 3, 4], abs=0.02)
    assert {"0", "2", "4"} <= set(texts(drawing))


def test_each_point_is_drawn_once_and_each_group_named():
    drawing = scatter_chart(*cloud(300))
    assert len(list(parts(drawing, "use"))) == 300
    assert set(texts(drawing)) == {"one", "two", "three"}
    assert drawing.count('class="halo"') == 3
    assert len(drawing) < 60 * 300


def test_many_points_are_an_image_that_is_no_larger_for_more_of_them():
    small, large = scatter_chart(*cloud(MAX_VECTOR_POINTS)), scatter_chart(*cloud(20_000))
    assert "<image" not in small
    image = next(parts(large, "image"))
    assert image.get("href").startswith("data:image/png;base64,")
    assert not list(parts(large, "use"))
    assert set(texts(large)) == {"one", "two", "three"}
    assert len(large) < 300_000


def test_long_curves_stay_small():
    rng = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in enumerate(rng.normal(size=20_000))]
    drawing = line_chart(points, "Loss", "step")
    assert len(drawing) < 40_000
    assert {"5000", "10,000"} <= set(texts(drawing))


def test_names_from_outside_are_text_and_nothing_else():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        points, groups, _, _ = cloud(30)
        drawings = [
            scatter_chart(points, groups, [HOSTILE, "b", "c"], HOSTILE),
            interval_chart({HOSTILE: [Bar(0, 0.5)]}, HOSTILE),
            line_chart([(0, 1), (1, 2)], HOSTILE, HOSTILE),
            reliability_chart(curve(), HOSTILE),
        ]
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert not list(root.iter("b"))
        assert any("<b>$\\frac{1}$" in text for text in root.itertext())
    assert svg.plain(HOSTILE) in texts(drawings[0])
    assert svg.plain(HOSTILE) in texts(drawings[2])


@pytest.mark.parametrize(
    "values",
    [[], [3.0], [2.0, 2.0], [0.0, 0.0], [math.nan], [1e-320, 2e-320], [1e299, -1e299], [1e308, 1.0], [-1.0, math.inf]],
)
def test_any_values_make_a_picture(values):
    drawing = line_chart([(float(x), y) for x, y in enumerate(values)], "Loss", "step", {"K": 5.0})
    assert not re.search(r"\b(nan|inf)\b", drawing.lower())
    assert line_chart([(4.0, y) for y in values], "Loss", "step")


def test_one_point_is_a_dot():
    assert len(list(parts(line_chart([(3, 1.25)], "Loss", "epoch"), "use"))) == 1


def test_points_in_one_place_and_empty_bins_make_a_picture():
    assert scatter_chart(np.ones((3, 2)), np.zeros(3, int), ["a", "b"], "PCA")
    empty = reliability_curve(np.zeros((0, 2)), np.zeros(0, int), ("a", "b"), from_logits=True)
    assert "no labelled image" in reliability_chart(empty, "a")
    assert interval_chart({}, "Recall of no class")
    assert histogram_chart(np.linspace(0, 1, 3), np.zeros(2, int), np.zeros(2, int), "x", "H")


def test_marks_differ_in_colour_and_shape():
    for kind, number in (("s", 6), ("c", 8)):
        marks = [legend_mark(index, kind) for index in range(number)]
        assert all(" id=" not in mark for mark in marks)  # the same mark stands in many places of a page
        assert len({next(e.get("style") for e in parts(mark, "path")) for mark in marks}) == number
        assert len({next(e.get("d") for e in parts(mark, "path")) for mark in marks}) == number


def test_matplotlib_is_imported_when_drawing_and_pyplot_never():
    code = (
        "import sys, ferry.evaluation, ferry.evaluation.report\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from ferry.evaluation.plots import legend_mark\n"
        "legend_mark(0)\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
