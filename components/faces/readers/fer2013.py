"""FER2013: 35,887 grey faces of 48 x 48 pixels, as one csv file or as folders."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ...common.errors import UserError, expected, unknown
from ..labels import CODES, LabelMapping, labels_of, parse_label_map
from ..schema import RawFace
from .base import LayoutReader, existing, failing
from .folder import labelled_folders
from .table import Row, header_of, rows_of
from .tree import split_folders, subfolders, walk_images

SIDE = 48
"""Height and width of every FER2013 face in pixels."""

CSV_NAMES = ("fer2013.csv", "icml_face_data.csv", "fer2013/fer2013.csv")
COLUMNS = ("emotion", "pixels", "usage")

UsageTest = Literal["auto", "both", "private"]

_USAGES = {"training": "train", "publictest": "validation", "privatetest": "test"}


@dataclass(frozen=True)
class Fer2013Options:
    """Options of the layout ``fer2013``.

    Attributes:
        usage_test: ``private``: the test split is PrivateTest and PublicTest is validation, as in the challenge.
            ``both``: both together are the test split, as CluP does. ``auto``: ``private`` for csv files; folders
            keep the split that they stand in.
        label_map: Own names for codes or folders: pairs or a JSON file.
    """

    usage_test: UsageTest = "auto"
    label_map: Any = ""


class Fer2013Reader(LayoutReader[Fer2013Options]):
    """FER2013 as the csv file of the challenge, or as the folders of the usual Kaggle copy.

    Expected tree::

        SRC/fer2013.csv              columns emotion,pixels,Usage
        or
        SRC/icml_face_data.csv       columns emotion, Usage, pixels (names with a leading blank)
        or
        SRC/{train,test}/{angry,disgust,fear,happy,neutral,sad,surprise}/*.jpg

    Codes of ``emotion``: 0 anger, 1 disgust, 2 fear, 3 happiness, 4 sadness, 5 surprise, 6 neutral. ``Usage`` is
    Training, PublicTest or PrivateTest. File names in the folders begin with the same words. Source: data page of
    the Kaggle challenge "Challenges in Representation Learning: Facial Expression Recognition" (Goodfellow et al.,
    ICONIP 2013).
    """

    name = "fer2013"
    summary = "fer2013.csv, icml_face_data.csv, or train and test with files Training_*.jpg and *Test_*.jpg"
    options_type = Fer2013Options

    def detect(self, source: Path) -> bool:
        """Tells whether there is the csv file, or a first image named after a usage in every split."""
        if find_csv(source) is not None:
            return True
        return source.is_dir() and has_usage_folders(source)

    def faces(self, source: Path, options: Fer2013Options) -> Iterator[RawFace]:
        """Prefers the csv file where both forms are there."""
        own = parse_label_map(options.label_map)
        csv = find_csv(source)
        if csv is not None:
            return csv_faces(csv, options.usage_test, own)
        tops = split_folders(source) if source.is_dir() else {}
        folders = [name for top in tops for name in subfolders(source / top)]
        if not folders:
            self.refuse(source, "a folder that holds fer2013.csv, icml_face_data.csv, or train and test")
        faces = labelled_folders(source, tops, labels_of(folders, f"class folders of {source}", own))
        return (with_split(face, options.usage_test) for face in faces)


def find_csv(source: Path) -> Path | None:
    """Returns the csv file with the pixels, which may be `source` itself, or None."""
    if source.is_dir():
        path = existing(source, *CSV_NAMES)
        return path if path is not None and path.is_file() else None
    is_csv = source.suffix.lower() == ".csv" and set(COLUMNS) <= set(header_of(source))
    return source if is_csv else None


def has_usage_folders(source: Path) -> bool:
    """Tells whether the first image of every split's folder is named after a usage, as in the Kaggle copy."""
    tops = split_folders(source)
    firsts = [next(walk_images(source / top), "") for top in tops]
    return bool(firsts) and all(_usage_of_file(first) for first in firsts)


def csv_faces(path: Path, usage_test: UsageTest, own: LabelMapping) -> Iterator[RawFace]:
    """Returns an iterator over the faces of a csv file; keys are the usage and the row's index from 0.

    Raises:
        UserError: A column is missing, or (while iterating) a row has an unknown code or usage.
    """
    rows = rows_of(path, COLUMNS)
    return (face_of_row(row, index, usage_test, own) for index, row in enumerate(rows))


def face_of_row(row: Row, index: int, usage_test: UsageTest, own: LabelMapping) -> RawFace:
    """Returns the face of one row; pixels that do not fit make it a face that cannot be read."""
    label = CODES["fer2013"].label(row["emotion"], f"emotion in {row.where}", own)
    split = split_of_usage(row["usage"], usage_test, f"Usage in {row.where}")
    key = f"{row['usage']}_{index:05d}"
    try:
        pixels = _pixels(row)
    except UserError as error:
        return RawFace(key, failing(error), label, split)
    return RawFace(key, partial(_as_png, pixels), label, split, pixels=pixels)


def split_of_usage(usage: str, usage_test: UsageTest, where: str) -> str:
    """Returns the split for a word of the column Usage.

    Raises:
        UserError: The word is not Training, PublicTest or PrivateTest.
    """
    split = _USAGES.get(usage.casefold())
    if split is None:
        raise unknown(where, usage, ("Training", "PublicTest", "PrivateTest"))
    return "test" if split == "validation" and usage_test == "both" else split


def with_split(face: RawFace, usage_test: UsageTest) -> RawFace:
    """Returns a face from a folder with its split: the folder's, unless the option asks for the file name's."""
    usage = "" if usage_test == "auto" else _usage_of_file(face.key)
    return replace(face, split=split_of_usage(usage, usage_test, face.key)) if usage else face


def _usage_of_file(path: str) -> str:
    word = os.path.basename(path).partition("_")[0]
    return word if word.casefold() in _USAGES else ""


def _pixels(row: Row) -> np.ndarray:
    where = f"pixels in {row.where}"
    try:
        values = bytes(map(int, row["pixels"].split()))
    except ValueError:
        raise expected(where, "whole numbers from 0 to 255", row["pixels"][:40], "Get the original file.") from None
    if len(values) != SIDE * SIDE:
        raise expected(where, f"{SIDE} x {SIDE} numbers", len(values), "Get the original file.")
    return np.frombuffer(values, dtype=np.uint8).reshape(SIDE, SIDE)


def _as_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
