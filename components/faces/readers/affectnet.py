"""AffectNet: faces from the web with eleven labels, in the two forms that were handed out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...common.errors import UserError, expected
from ..labels import CODES, LabelMapping, parse_label_map
from ..schema import CONTEMPT, RawFace
from .base import LayoutReader, broken, existing, file_loader
from .table import Row, box_of, header_of, raw_rows_of, rows_of
from .tree import walk_images

logger = logging.getLogger("ferry")

COLUMNS = (
    "subdirectory_filepath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
"""Columns of training.csv and validation.csv, lower case."""

_CODES = CODES["affectnet"]
_SETS = {"train_set": "train", "val_set": "validation", "test_set": "test"}
_LISTS = {"training.csv": "train", "validation.csv": "validation"}
_LIST_FOLDERS = ("", "Manually_Annotated_file_lists/")
_IMAGE_FOLDERS = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images", "Manually_Annotated")


@dataclass(frozen=True)
class AffectNetOptions:
    """Options of the layout ``affectnet``.

    Attributes:
        classes: 8: faces that show contempt come with that label, and the import decides about them. 7: they are
            left out here, as in the usual seven-class protocol.
        label_map: Own names for codes: pairs or a JSON file.
    """

    classes: int = 8
    label_map: Any = ""

    def __post_init__(self) -> None:
        if self.classes not in (7, 8):
            raise expected("affectnet.classes", "7 or 8", self.classes, "7 leaves contempt out, 8 keeps it.")


class AffectNetReader(LayoutReader[AffectNetOptions]):
    """AffectNet as folders with annotations, or as lists in csv beside the pictures.

    Expected tree::

        SRC/{train_set,val_set}/images/<id>.jpg              cropped faces
        SRC/{train_set,val_set}/annotations/<id>_exp.npy     the code
        or
        SRC/training.csv, SRC/validation.csv                 subDirectory_filePath,face_x,face_y,face_width,
                                                             face_height,facial_landmarks,expression,valence,arousal
        SRC/Manually_Annotated_Images/<subDirectory_filePath>

    The lists may also lie in ``Manually_Annotated_file_lists``, the pictures in
    ``Manually_Annotated/Manually_Annotated_Images``; the faces are cropped to their boxes. Codes: 0 neutral,
    1 happiness, 2 sadness, 3 surprise, 4 fear, 5 disgust, 6 anger, 7 contempt, 8 none, 9 uncertain, 10 no-face; the
    last three become ``unknown``. Source: data description of AffectNet (Mollahosseini, Hasani and Mahoor, TAC 2019).
    The labels of the official test set are not public: the validation set is what papers report on.
    """

    name = "affectnet"
    summary = "train_set and val_set with images and annotations, or training.csv and validation.csv"
    options_type = AffectNetOptions

    def detect(self, source: Path) -> bool:
        """Tells whether there are annotation folders, or lists with AffectNet's columns."""
        if not source.is_dir():
            return False
        if any((source / name / "annotations").is_dir() for name in _SETS):
            return True
        return any(header_of(path)[:1] == [COLUMNS[0]] for path in _lists(source))

    def faces(self, source: Path, options: AffectNetOptions) -> Iterator[RawFace]:
        """Prefers the folders where both forms are there."""
        own = parse_label_map(options.label_map)
        sets = {name: split for name, split in _SETS.items() if (source / name / "annotations").is_dir()}
        faces = self._of_folders(source, sets, own) if sets else self._of_lists(source, own)
        return faces if options.classes == 8 else _without_contempt(faces)

    def _of_folders(self, source: Path, sets: dict[str, str], own: LabelMapping) -> Iterator[RawFace]:
        for name in sets:
            if not (source / name / "images").is_dir():
                self.refuse(source, f"a folder that holds {name}/images")
        return (
            _annotated(source, name, split, path, own)
            for name, split in sets.items()
            for path in walk_images(source / name / "images")
        )

    def _of_lists(self, source: Path, own: LabelMapping) -> Iterator[RawFace]:
        lists = _lists(source) if source.is_dir() else {}
        if not lists:
            self.refuse(source, "a folder that holds train_set and val_set, or training.csv and validation.csv")
        images = existing(source, *_IMAGE_FOLDERS)
        if images is None:
            self.refuse(source, "a folder that holds Manually_Annotated_Images")
        return (_listed(row, images, split, own) for path, split in lists.items() for row in _rows(path))


def _lists(source: Path) -> dict[Path, str]:
    found = {name: existing(source, *(f"{folder}{name}" for folder in _LIST_FOLDERS)) for name in _LISTS}
    return {path: _LISTS[name] for name, path in found.items() if path is not None}


def _rows(path: Path) -> Iterator[Row]:
    # Copies without the header are in circulation; the columns are the same.
    return rows_of(path, COLUMNS) if COLUMNS[0] in header_of(path) else raw_rows_of(path, COLUMNS)


def _annotated(source: Path, folder: str, split: str, path: str, own: LabelMapping) -> RawFace:
    key = f"{folder}/images/{path}"
    annotation = source / folder / "annotations" / f"{os.path.splitext(path)[0]}_exp.npy"
    try:
        label = _CODES.label(_stored_code(annotation), str(annotation), own)
    except UserError as error:
        return broken(key, split, error)
    return RawFace(key, file_loader(source / key), label, split)


def _stored_code(path: Path) -> str:
    try:
        stored = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise expected("annotation", "there for every image", str(path), "Unpack the annotations again.") from None
    except (OSError, ValueError, EOFError) as error:
        raise expected(str(path), "a number in npy format", str(error), "Unpack the annotations again.") from None
    text = str(stored.item()) if stored.size == 1 else str(stored)
    return text.removesuffix(".0")  # some releases store the code as text, others as a float


def _listed(row: Row, images: Path, split: str, own: LabelMapping) -> RawFace:
    path = row[COLUMNS[0]].replace("\\", "/")
    label = _CODES.label(row["expression"], f"expression in {row.where}", own)
    loader = file_loader(images / path, f"image of {row.where}")
    return RawFace(path, loader, label, split, box=_box(row))


def _box(row: Row) -> tuple[int, int, int, int] | None:
    """Returns the face's box; None where the list has none, which is usual for pictures without a face."""
    try:
        left, top, width, height = (float(row[name]) for name in COLUMNS[1:5])
    except ValueError:
        return None
    edges = {"left": left, "top": top, "right": left + width, "bottom": top + height}
    try:
        return box_of(Row(row.number, {name: str(edge) for name, edge in edges.items()}, row.where), *edges)
    except UserError:
        return None


def _without_contempt(faces: Iterator[RawFace]) -> Iterator[RawFace]:
    left_out = 0
    for face in faces:
        if face.label == CONTEMPT:
            left_out += 1
        else:
            yield face
    logger.info("affectnet: %d faces that show contempt were left out (classes=7)", left_out)
