"""RAF-DB, basic emotions: 15,339 real-world faces."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...common.errors import UserError, expected
from ..labels import CODES, LabelMapping, parse_label_map
from ..schema import RawFace
from .base import LayoutReader, broken, existing, file_loader
from .folder import labelled_folders
from .table import Row, box_of, list_rows
from .tree import split_folders, subfolders, walk_images

LIST = "list_patition_label.txt"
"""The list of labels; the spelling is the official one."""

_CODES = CODES["rafdb"]
_FILE = re.compile(r"(train|test)_\d+")


@dataclass(frozen=True)
class RafDbOptions:
    """Options of the layout ``rafdb``.

    Attributes:
        images: ``aligned`` (100 x 100 pixels), ``original`` (whole pictures, cropped to the official face box where
            ``Annotation/boundingbox`` is there), or ``auto``: aligned where it exists.
        label_map: Own names for codes: pairs or a JSON file.
    """

    images: Literal["auto", "aligned", "original"] = "auto"
    label_map: Any = ""


class RafDbReader(LayoutReader[RafDbOptions]):
    """RAF-DB's basic part with its list of labels, or the copy that is sorted into numbered folders.

    Expected tree::

        SRC/[basic/]EmoLabel/list_patition_label.txt         lines "train_00001.jpg 5"
        SRC/[basic/]Image/aligned/train_00001_aligned.jpg
        or
        SRC/[basic/]Image/original/train_00001.jpg
        SRC/[basic/]Annotation/boundingbox/train_00001_boundingbox.txt      left top right bottom; optional
        or
        SRC/[DATASET/]{train,test}/{1,2,3,4,5,6,7}/*.jpg

    Codes: 1 surprise, 2 fear, 3 disgust, 4 happiness, 5 sadness, 6 anger, 7 neutral. The split is the beginning of
    the file name (12,271 train, 3,068 test). Source: readme of RAF-DB (Li, Deng and Du, CVPR 2017).
    """

    name = "rafdb"
    summary = f"EmoLabel/{LIST} beside Image/aligned, or train and test with folders 1 to 7"
    options_type = RafDbOptions

    def detect(self, source: Path) -> bool:
        """Tells whether there is the list, or numbered folders whose first file is named as in RAF-DB."""
        if not source.is_dir():
            return False
        if _list_file(source) is not None:
            return True
        root = _numbered_root(source)
        first = next(walk_images(root), "") if root else ""
        return bool(_FILE.match(os.path.basename(first)))

    def faces(self, source: Path, options: RafDbOptions) -> Iterator[RawFace]:
        """Prefers the list where both forms are there."""
        own = parse_label_map(options.label_map)
        listing = _list_file(source)
        if listing is not None:
            return self._listed(source, listing, options.images, own)
        root = _numbered_root(source)
        if root is None:
            self.refuse(source, f"a folder that holds EmoLabel/{LIST}, or train and test with folders 1 to 7")
        tops = split_folders(root)
        folders = {name for top in tops for name in subfolders(root / top)}
        labels = {name: _CODES.label(name, f"class folder of {root}", own) for name in sorted(folders)}
        return labelled_folders(root, tops, labels)

    def _listed(self, source: Path, listing: Path, images: str, own: LabelMapping) -> Iterator[RawFace]:
        root = listing.parent.parent if listing.parent.name == "EmoLabel" else listing.parent
        aligned = existing(root, "Image/aligned", "aligned") if images != "original" else None
        original = existing(root, "Image/original", "original") if images != "aligned" else None
        folder = aligned or original
        if folder is None:
            self.refuse(source, f"a folder that holds Image/{'aligned' if images == 'auto' else images}")
        boxes = existing(root, "Annotation/boundingbox", "boundingbox") if aligned is None else None
        return (_face(row, folder, aligned is not None, boxes, own) for row in list_rows(listing, ("name", "label")))


def _face(row: Row, folder: Path, aligned: bool, boxes: Path | None, own: LabelMapping) -> RawFace:
    name, stem = row["name"], Path(row["name"]).stem
    prefix = _FILE.match(name)
    if prefix is None:
        raise expected(f"file in {row.where}", "named train_* or test_*", name, "Get the original list.")
    label = _CODES.label(row["label"], f"label in {row.where}", own)
    path = folder / (f"{stem}_aligned{Path(name).suffix}" if aligned else name)
    try:
        box = None if boxes is None else _box(boxes / f"{stem}_boundingbox.txt")
    except UserError as error:
        return broken(name, prefix[1], error)
    return RawFace(name, file_loader(path, f"image of {row.where}"), label, prefix[1], box=box)


def _box(path: Path) -> tuple[int, int, int, int] | None:
    if not path.exists():
        return None
    edges = ("left", "top", "right", "bottom")
    words = path.read_text(encoding="utf-8").split()
    row = Row(1, dict(zip(edges, words, strict=False)), str(path))
    return box_of(row, *edges)


def _list_file(source: Path) -> Path | None:
    return existing(source, f"EmoLabel/{LIST}", f"basic/EmoLabel/{LIST}", LIST) if source.is_dir() else None


def _numbered_root(source: Path) -> Path | None:
    numbers = {str(code) for code in _CODES.codes}
    for root in (source, source / "DATASET"):
        if not root.is_dir():
            continue
        names = {name for top in split_folders(root) for name in subfolders(root / top)}
        if names and names <= numbers:
            return root
    return None
