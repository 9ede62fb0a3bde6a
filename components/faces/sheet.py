"""Draws examples of a Faces folder onto one PNG: a row per class, or a grid where there are no labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..common.errors import expected
from ..common.files import atomic_file
from .decode import SkippedImage, face_pixels
from .store import LabelledFaces, UnlabelledFaces, open_faces, open_unlabelled, read_info

_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (120, 120, 120)
_GAP = 4
_TITLE_WIDTH = 130
_FONT_SIZE = 14
_MAX_TILE, _MAX_PER_ROW = 1024, 100


def contact_sheet(
    root: Path | str, output_png: Path | str, per_class: int = 8, *, split: str = "", tile: int = 96
) -> Path:
    """Draws a sheet of examples, spread evenly over the data set; the same folder always gives the same sheet.

    Args:
        root: A Faces folder, labelled or not.
        output_png: The picture to write.
        per_class: Faces in a row: one row per class, or as many rows as columns where there are no labels.
        split: Name of the split; empty takes the only one, or ``"train"``.
        tile: Side of one face, in pixels.

    Returns:
        The path of the picture.

    Raises:
        UserError: `root` is no Faces folder, or a number is out of range.
    """
    if not 1 <= per_class <= _MAX_PER_ROW:
        raise expected("per_class", f"between 1 and {_MAX_PER_ROW}", per_class, "Pass for example 8.")
    if not 8 <= tile <= _MAX_TILE:
        raise expected("tile", f"between 8 and {_MAX_TILE} pixels", tile, "Pass for example 96.")
    labelled = read_info(root).classes is not None
    faces = open_faces(root, split) if labelled else open_unlabelled(root, split)
    rows = _rows(faces, per_class)
    side = tile + _GAP
    left = _TITLE_WIDTH if isinstance(faces, LabelledFaces) else 0
    top = _FONT_SIZE + 3 * _GAP
    sheet = Image.new("RGB", (left + per_class * side + _GAP, top + len(rows) * side + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    draw.text((_GAP, _GAP), f"{faces.root.name}, {faces.split}: {len(faces):,} faces", _INK, font)
    for line, (title, indices) in enumerate(rows):
        y = top + line * side
        draw.text((_GAP, y + tile // 2 - _FONT_SIZE), title, _INK if indices else _FAINT, font)
        for column, index in enumerate(indices):
            sheet.paste(_tile(faces.image(index), tile), (left + column * side + _GAP, y))
    with atomic_file(output_png) as file:
        sheet.save(file, "PNG")
    return Path(output_png)


def _rows(faces: UnlabelledFaces, per_class: int) -> list[tuple[str, list[int]]]:
    if isinstance(faces, LabelledFaces):
        members = [np.flatnonzero(faces.labels == label) for label in range(len(faces.classes))]
        return [
            (f"{name}\n{len(inside):,}", _spread_over(inside, per_class))
            for name, inside in zip(faces.classes, members, strict=True)
        ]
    chosen = _spread_over(np.arange(len(faces)), per_class * per_class)
    return [("", chosen[start : start + per_class]) for start in range(0, len(chosen), per_class)] or [("", [])]


def _spread_over(indices: np.ndarray, count: int) -> list[int]:
    if len(indices) <= count:
        return [int(index) for index in indices]
    steps: Sequence[int] = ((np.arange(count) + 0.5) * len(indices) / count).astype(np.int64).tolist()
    return [int(indices[step]) for step in steps]


def _tile(data: bytes, side: int) -> Image.Image:
    try:
        return Image.fromarray(np.ascontiguousarray(face_pixels(data, side, 3).transpose(1, 2, 0)))
    except SkippedImage:  # a sheet of a damaged folder still shows the rest; `summarise_faces` names the damage
        tile = Image.new("RGB", (side, side), _PAPER)
        draw = ImageDraw.Draw(tile)
        draw.line((0, 0, side, side), _FAINT)
        draw.line((0, side, side, 0), _FAINT)
        return tile
