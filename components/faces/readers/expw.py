"""ExpW, Expression in the Wild: 91,793 faces in pictures from the web."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.errors import UserError, expected
from ..labels import CODES, LabelMapping, parse_label_map
from ..schema import RawFace
from .base import LayoutReader, broken, existing, file_loader
from .table import Row, box_of, list_rows

logger = logging.getLogger("ferry")

_COLUMNS = ("name", "face", "top", "left", "right", "bottom", "confidence", "label")


@dataclass(frozen=True)
class ExpWOptions:
    """Options of the layout ``expw``.

    Attributes:
        min_confidence: Faces whose box has a lower confidence are left out; 0 keeps all.
        label_map: Own names for codes: pairs or a JSON file.
    """

    min_confidence: float = 0.0
    label_map: Any = ""


class ExpWReader(LayoutReader[ExpWOptions]):
    """ExpW's pictures with its list of faces; each face is cropped to its box.

    Expected tree::

        SRC/label/label.lst          lines "name face_id top left right bottom confidence label"
        SRC/image/origin/*.jpg

    Codes: 0 anger, 1 disgust, 2 fear, 3 happiness, 4 sadness, 5 surprise, 6 neutral. There is no official split;
    faces of one picture share a group, so that splits by group keep them together. Source: readme of ExpW (Zhang,
    Luo, Loy and Tang, IJCV 2018).
    """

    name = "expw"
    summary = "label/label.lst beside image/origin"
    options_type = ExpWOptions

    def detect(self, source: Path) -> bool:
        """Tells whether there is the list."""
        return source.is_dir() and _list_file(source) is not None

    def faces(self, source: Path, options: ExpWOptions) -> Iterator[RawFace]:
        """Yields the faces in the order of the list."""
        listing = _list_file(source) if source.is_dir() else None
        if listing is None:
            self.refuse(source, "a folder that holds label/label.lst")
        images = existing(source, "image/origin", "origin")
        if images is None:
            self.refuse(source, "a folder that holds image/origin")
        return self._stream(listing, images, options.min_confidence, parse_label_map(options.label_map))

    def _stream(self, listing: Path, images: Path, least: float, own: LabelMapping) -> Iterator[RawFace]:
        doubtful = 0
        for row in list_rows(listing, _COLUMNS):
            if _confidence(row) < least:
                doubtful += 1
            else:
                yield _face(row, images, own)
        if doubtful:
            logger.info("%s: %d faces below the confidence %g were left out", listing, doubtful, least)


def _face(row: Row, images: Path, own: LabelMapping) -> RawFace:
    name = row["name"]
    key = f"{name}#{row['face']}"
    label = CODES["expw"].label(row["label"], f"label in {row.where}", own)
    try:
        box = box_of(row, "left", "top", "right", "bottom")
    except UserError as error:
        return broken(key, "", error)
    return RawFace(key, file_loader(images / name, f"image of {row.where}"), label, group=name, box=box)


def _confidence(row: Row) -> float:
    try:
        return float(row["confidence"])
    except ValueError:
        raise expected(
            f"confidence in {row.where}", "a number", row["confidence"], "Get the original label.lst."
        ) from None


def _list_file(source: Path) -> Path | None:
    return existing(source, "label/label.lst", "label.lst")
