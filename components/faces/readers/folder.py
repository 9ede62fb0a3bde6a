"""Image folders with one folder per expression."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..labels import canonical, labels_of, parse_label_map
from ..schema import UNKNOWN, RawFace
from .base import LayoutReader, file_loader
from .tree import direct_images, has_images, lost_links, split_folders, subfolders, walk_images

logger = logging.getLogger("ferry")


@dataclass(frozen=True)
class FolderOptions:
    """Options of the layout ``folder``.

    Attributes:
        label_map: What folder names mean that are not words for expressions: pairs or a JSON file.
    """

    label_map: Any = ""


class FolderReader(LayoutReader[FolderOptions]):
    """One folder of images per expression, with or without folders for the splits above.

    Expected tree::

        SRC/<expression>/**/*.jpg
        or
        SRC/{train,test,val,valid,validation}/<expression>/**/*.jpg

    ``<expression>`` is a word in any case: angry, Anger, happy, HAPPINESS, sad, surprised, 1_surprise, ... Images are
    jpg, jpeg, png, bmp, webp, tif, tiff, gif, ppm or pgm. Numbers alone are refused, because they mean different
    expressions in different data sets: name them with ``label_map``.
    """

    name = "folder"
    summary = "folders named after expressions, perhaps below train, test and val"
    options_type = FolderOptions

    def detect(self, source: Path) -> bool:
        """Tells whether all class folders carry names of expressions, or two of them and at least half."""
        if not source.is_dir():
            return False
        tops = [source / name for name in split_folders(source)] or [source]
        names = {name for top in tops for name in subfolders(top)}
        known = sum(canonical(name) is not None for name in names)
        return 0 < known == len(names) or (known >= 2 and 2 * known >= len(names))

    def faces(self, source: Path, options: FolderOptions) -> Iterator[RawFace]:
        """Maps all folder names first, so that a name nobody knows stops the import before it starts."""
        if not source.is_dir():
            self.refuse(source, "a folder")
        tops = {name: split for name, split in split_folders(source).items() if subfolders(source / name)}
        tops = tops or {"": ""}
        folders = {top: [name for name in subfolders(source / top) if has_images(source / top / name)] for top in tops}
        if not any(folders.values()):
            self.refuse(source, "a folder that holds folders of images")
        self._mention_strays(source, tops)
        labels = labels_of(
            (name for names in folders.values() for name in names),
            f"class folders of {source}",
            parse_label_map(options.label_map),
        )
        return labelled_folders(source, tops, labels)

    @staticmethod
    def _mention_strays(source: Path, tops: Mapping[str, str]) -> None:
        if "" not in tops:
            others = [name for name in subfolders(source) if name not in tops]
            if others:
                logger.warning(
                    "%s: the folders %s are not read, they are no splits with class folders", source, ", ".join(others)
                )
        loose = sum(len(direct_images(source / top)) for top in {*tops, ""})
        if loose:
            logger.warning("%s: %d images outside of class folders are not read", source, loose)


def labelled_folders(source: Path, tops: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[RawFace]:
    """Yields the faces of the class folders below each split's folder, and links that were meant for class folders.

    Args:
        source: The root; keys are relative to it.
        tops: Relative folder ("" for the root itself) to the split.
        labels: Class folder name to label; folders that are not named here are left out.
    """
    root = os.fspath(source)
    for top, split in tops.items():
        for name in subfolders(source / top):
            if name not in labels:
                continue
            folder = f"{top}/{name}" if top else name
            for path in walk_images(f"{root}/{folder}"):
                key = f"{folder}/{path}"
                yield RawFace(key, file_loader(f"{root}/{key}"), labels[name], split)
        for name in lost_links(source / top):
            key = f"{top}/{name}" if top else name
            yield RawFace(key, file_loader(f"{root}/{key}"), UNKNOWN, split)
