"""A table of image files with, perhaps, labels, boxes, splits and groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.errors import expected
from ..labels import LabelCodes, LabelMapping, labels_of, parse_label_map
from ..schema import UNKNOWN, RawFace
from .base import LayoutReader, existing, file_loader
from .table import Row, box_of, header_of, rows_of
from .tree import split_name

BOX = ("left", "top", "right", "bottom")
COLUMNS = ("path", "label", *BOX, "split", "group")
"""The columns that a manifest may have; others are passed over."""

_NAMES = ("manifest.csv", "manifest.tsv")


@dataclass(frozen=True)
class ManifestOptions:
    """Options of the layout ``manifest``.

    Attributes:
        root: The folder that relative paths start from; the manifest's own where empty.
        classes: Names of the expressions for labels that are numbers, the first for 0: "anger,disgust,fear".
        label_map: Own names for labels: pairs or a JSON file.
    """

    root: str = ""
    classes: tuple[str, ...] = ()
    label_map: Any = ""


class ManifestReader(LayoutReader[ManifestOptions]):
    """A csv file (comma, semicolon, tab or bar) whose first row names the columns.

    Expected tree::

        SRC.csv, or SRC/manifest.csv, or SRC/manifest.tsv

        path,label,left,top,right,bottom,split,group
        faces/0001.jpg,happy,10,12,90,98,train,person-1

    Only ``path`` is needed, relative to the file or absolute. Labels are words for expressions in any case; an empty
    one means ``unknown``; numbers need the option ``classes``. A box is four numbers of pixels or four empty cells.
    ``split`` is train, test, val, valid or validation. ``group`` is the person or video.
    """

    name = "manifest"
    summary = "a csv file with a column path"
    options_type = ManifestOptions

    def detect(self, source: Path) -> bool:
        """Tells whether `source` is, or holds under its usual name, a csv file with a column path."""
        table = _table(source)
        return table is not None and "path" in header_of(table)

    def faces(self, source: Path, options: ManifestOptions) -> Iterator[RawFace]:
        """Reads the labels of all rows first, so that a word nobody knows stops the import before it starts."""
        table = _table(source)
        if table is None:
            self.refuse(source, "a csv file, or a folder that holds manifest.csv")
        names = header_of(table)
        if any(name in names for name in BOX) and not all(name in names for name in BOX):
            missing = ", ".join(name for name in BOX if name not in names)
            raise expected(f"columns of {table}", "complete for boxes", ", ".join(names), f"Add {missing}.")
        rows = rows_of(table, ("path",))
        self.labelled = "label" in names
        labels = _labels(table, options) if self.labelled else {}
        return (self._face(row, Path(options.root) if options.root else table.parent, labels) for row in rows)

    def _face(self, row: Row, root: Path, labels: LabelMapping) -> RawFace:
        if not row["path"]:
            raise expected(f"path in {row.where}", "the path of an image", "", "Fill in the cell or remove the row.")
        box = box_of(row, *BOX) if any(row[name] for name in BOX) else None
        key = _key(row["path"], root) + (f"#{','.join(map(str, box))}" if box else "")
        return RawFace(
            key,
            file_loader(root / row["path"], f"image of {row.where}"),
            (labels[row["label"]] if row["label"] else UNKNOWN) if self.labelled else None,
            split_name(row["split"], f"split in {row.where}"),
            row["group"] or None,
            box,
        )


def _labels(table: Path, options: ManifestOptions) -> LabelMapping:
    """Returns what every label text of the table means."""
    own = parse_label_map(options.label_map)
    first_rows: dict[str, str] = {}
    for row in rows_of(table):
        if row["label"]:
            first_rows.setdefault(row["label"], row.where)
    meanings = labels_of((word for word in first_rows if not _is_number(word)), f"labels in {table}", own)
    names = labels_of(options.classes, "manifest.classes", own)
    codes = LabelCodes("classes", {index: names[name] for index, name in enumerate(options.classes)}, "")
    for word, where in first_rows.items():
        if _is_number(word):
            if not options.classes and word not in own:
                fix = "Name the numbers with the option classes, the first name for 0: classes=anger,disgust,fear."
                raise expected(f"label in {where}", "the name of an expression", word, fix)
            meanings[word] = codes.label(word, f"label in {where}", own)
    return meanings


def _is_number(word: str) -> bool:
    return word.lstrip("+-").isdecimal()


def _key(path: str, root: Path) -> str:
    """Returns the path relative to the root where it lies below it, so that keys do not depend on the machine."""
    text = path.replace("\\", "/") if os.sep == "\\" else path
    if not os.path.isabs(text):
        return os.path.normpath(text).replace(os.sep, "/")
    absolute = Path(os.path.abspath(root))
    return Path(text).relative_to(absolute).as_posix() if Path(text).is_relative_to(absolute) else text


def _table(source: Path) -> Path | None:
    if source.is_dir():
        return existing(source, *_NAMES)
    return source if source.suffix.lower() in (".csv", ".tsv", ".txt") else None
