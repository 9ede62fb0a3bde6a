"""AFE, Asian facial expressions; the set is also called AFED."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...common.errors import UserError
from ..labels import CODES, LabelCodes, LabelMapping, parse_label_map
from ..schema import RawFace
from .base import LayoutReader, broken, file_loader
from .table import Row, box_of, list_rows

_COLUMNS = ("path", "left", "top", "right", "bottom", "label")
_LISTS = {"annos/TrainTest/Train.csv": "train", "annos/TrainTest/Test.csv": "test"}


@dataclass(frozen=True)
class AfeOptions:
    """Options of the layout ``afe``.

    Attributes:
        coding: ``public`` or ``internal``; see :class:`AfeReader`. Nothing in the files tells which one they use.
        label_map: Own names for codes: pairs or a JSON file.
    """

    coding: Literal["public", "internal"] = "public"
    label_map: Any = ""


class AfeReader(LayoutReader[AfeOptions]):
    """AFE's pictures with its two lists of faces; each face is cropped to its box.

    Expected tree::

        SRC/annos/TrainTest/Train.csv      lines "path left top right bottom label", separated by blanks, no header
        SRC/annos/TrainTest/Test.csv
        SRC/src/image/<path>

    Two codings are in circulation. ``coding=public`` (the csv files that are handed out, as read by the CluP
    release): 0 anger, 1 disgust, 2 fear, 3 happiness, 4 neutral, 5 sadness, 6 surprise. ``coding=internal`` (the
    lists of the cross-domain FER benchmark, where the set is called AFED): 0 neutral, 1 happiness, 3 surprise,
    4 sadness, 5 disgust, 6 fear, 9 anger.
    """

    name = "afe"
    summary = "annos/TrainTest/Train.csv and Test.csv beside src/image"
    options_type = AfeOptions

    def detect(self, source: Path) -> bool:
        """Tells whether there is one of the lists."""
        return source.is_dir() and any((source / name).is_file() for name in _LISTS)

    def faces(self, source: Path, options: AfeOptions) -> Iterator[RawFace]:
        """Yields the training faces and then the test faces in the order of the lists."""
        lists = {source / name: split for name, split in _LISTS.items() if (source / name).is_file()}
        if not lists:
            self.refuse(source, "a folder that holds annos/TrainTest/Train.csv and Test.csv")
        images = source / "src" / "image"
        if not images.is_dir():
            self.refuse(source, "a folder that holds src/image")
        codes = CODES["afe" if options.coding == "public" else "afe-internal"]
        own = parse_label_map(options.label_map)
        return (
            _face(row, images, split, codes, own) for path, split in lists.items() for row in list_rows(path, _COLUMNS)
        )


def _face(row: Row, images: Path, split: str, codes: LabelCodes, own: LabelMapping) -> RawFace:
    path = row["path"].lstrip("/")
    label = codes.label(row["label"], f"label in {row.where}", own)
    try:
        box = box_of(row, "left", "top", "right", "bottom")
    except UserError as error:
        return broken(path, split, error)
    # One picture may hold several faces, and AFE numbers them nowhere: the box tells them apart.
    key = f"{path}#{','.join(map(str, box))}"
    return RawFace(key, file_loader(images / path, f"image of {row.where}"), label, split, box=box)
