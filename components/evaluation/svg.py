"""From a matplotlib figure to SVG inside an HTML page, which then gives it colours (light, dark, print) and fonts.

A figure is drawn in the light colours of the page's style sheet. Each becomes the style sheet's variable of that name,
and the darkest the colour of the text around the picture, so that one drawing suits every page.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = 72
"""Units of a drawing's coordinate system per inch of the figure: one point of type is one unit."""

INK, SOFT, LINE, GRID, BAD = "#1c2230", "#596273", "#d9dde4", "#e8ebf0", "#b3261e"
MODELS = ("#6f7785", "#0b62a4", "#c77400", "#14856a", "#c2410c", "#9a4d86")
"""Colours of models, apart for colour-blind people: the source's, the adapted one's, others."""
CLASSES = ("#c2410c", "#117733", "#6a3d9a", "#d99a00", "#6f7785", "#0b62a4", "#2aa3c4", "#c4548f")
"""Colours of classes; those beyond them start again."""

VARIABLES = {
    **{colour: f"c{index}" for index, colour in enumerate(CLASSES)},
    **{colour: f"s{index}" for index, colour in enumerate(MODELS)},
    **{SOFT: "soft", LINE: "line", GRID: "grid", BAD: "bad"},
}
"""Name of each colour's variable in the style sheet."""

_RASTER_DPI = 2 * UNITS

_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "ferry",  # ids, else random
    "text.parse_math": False,  # a name may hold dollar signs
    "font.size": 10.5,
    "text.color": SOFT,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 1.0,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 1.0,
    "xtick.labelcolor": SOFT,
    "xtick.major.size": 0,
    "xtick.major.pad": 5,
    "ytick.labelcolor": SOFT,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "ytick.major.pad": 5,
    "lines.linewidth": 1.8,
    "lines.markeredgewidth": 0,
    "lines.solid_joinstyle": "round",
    "hatch.linewidth": 0.9,
    "path.simplify_threshold": 0.5,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_REFERENCE = re.compile(r"(?<=url\(#)[^)]+(?=\))")
_NUMBER = re.compile(r"-?\d+\.\d+")


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """Gives an empty transparent figure in the report's style; draw and :func:`render` it inside the ``with``.

    The reader's own matplotlib settings do not matter and are back afterwards.

    Args:
        width: Width in units; text is about 11 units high, so about 340 reads well on a phone.
        height: Height in units.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    with warnings.catch_warnings(), style.context(["default", _STYLE]):
        # The page's font shows the text; matplotlib's only measures it and need not have every letter.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(width / UNITS, height / UNITS), dpi=_RASTER_DPI)
        figure.patch.set_visible(False)
        yield figure


def render(figure: Figure, title: str = "", words: str = "", key: str = "") -> Markup:
    """Returns a figure as an ``svg`` element that is as wide as its place.

    The same figure gives the same bytes. Ids start with a digest of the picture, so that pictures of one page do not
    meet.

    Args:
        figure: From :func:`canvas`.
        title: What the picture shows, for people who do not see it; empty for a mark beside a name, which they skip.
        words: What is to be seen in it.
        key: Tells apart pictures that would else be the same.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    source = buffer.getvalue()
    prefix = "v" + hashlib.sha256("\0".join((source, title, words, key)).encode()).hexdigest()[:10]
    drawn = ElementTree.fromstring(source)  # noqa: S314 (written by matplotlib a line above)
    names: dict[str, str] = {}
    root = ElementTree.Element("svg", {"viewBox": drawn.attrib["viewBox"]})
    if title:
        root.attrib |= {"role": "img", "aria-labelledby": f"{prefix}t {prefix}d"}
        for tag, text in (("title", title), ("desc", words)):
            ElementTree.SubElement(root, tag, {"id": f"{prefix}{tag[0]}"}).text = plain(text)
    else:
        root.attrib |= {"class": "mark", "aria-hidden": "true"}
    root.extend(_tidy(child, prefix, names) for child in drawn)
    _name(root, names)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 (the serialiser escapes all text)


def plain(text: str) -> str:
    """Returns the text without line breaks and signs that XML does not allow.

    Example:
        >>> plain(f"two{chr(10)}lines")
        'two lines'
    """
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _tidy(element: ElementTree.Element, prefix: str, names: dict[str, str]) -> ElementTree.Element:
    """Copies an element: page colours, no font, short numbers, no white space; collects the ids that are in use."""
    tag = element.tag.rpartition("}")[2]
    attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
    for key, value in attributes.items():
        for target in [value[1:]] if key == "href" and value.startswith("#") else _REFERENCE.findall(value):
            names.setdefault(target, f"{prefix}{len(names)}")
        if key == "style":
            attributes[key] = _style(value)
        elif key in ("d", "x", "y", "width", "height", "transform"):
            attributes[key] = re.sub(r"\s*([A-Za-z])\s+", r"\1", _NUMBER.sub(_short, value)).strip()
    if attributes.get("transform", "").startswith("rotate(-0"):
        del attributes["transform"]
    copy = ElementTree.Element(tag, attributes)
    copy.text = (element.text or "") if tag == "text" else None
    for child in element:
        if not child.tag.endswith(("}style", "}metadata")):
            copy.append(_tidy(child, prefix, names))
    styles = {child.get("style") for child in copy}
    if len(styles) == 1 and len(copy) > 1 and None not in styles and all(child.tag == "use" for child in copy):
        copy.set("style", styles.pop() or "")  # once for a thousand markers
        for child in copy:
            del child.attrib["style"]
    return copy


def _name(root: ElementTree.Element, names: dict[str, str]) -> None:
    """Gives the ids that are in use their unique names and drops the others; ``halo`` becomes a class."""
    known = set(root.get("aria-labelledby", "").split())
    for element in root.iter():
        identity = element.attrib.pop("id", None)
        if identity == "halo":
            element.set("class", identity)
        elif identity in names or identity in known:
            element.set("id", names.get(identity, identity))
        for key, value in element.attrib.items():
            if key == "href" and value.startswith("#"):
                element.set(key, f"#{names[value[1:]]}")
            else:
                element.set(key, _REFERENCE.sub(lambda found: names[found[0]], value))


def _style(value: str) -> str:
    """Takes colours from the style sheet and keeps of a font its size alone."""
    rules = []
    for rule in value.split("; "):
        name, _, what = rule.partition(": ")
        if name == "font":  # before matplotlib 3.10: size and families in one
            size = re.search(r"[\d.]+px", what)
            name, what = "font-size", size[0] if size else "10px"
        if name != "font-family":
            rules.append(f"{name}:{re.sub('#[0-9a-f]{6}$', _colour, what)}")
    return ";".join(rules)


def _colour(found: re.Match[str]) -> str:
    if found[0] == INK:
        return "currentColor"
    return f"var(--{VARIABLES[found[0]]})" if found[0] in VARIABLES else found[0]


def _short(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
