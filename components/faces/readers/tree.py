"""Folders of images: walked in a fixed order, with the names that people give to splits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ...common.errors import unknown

IMAGE_EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
)
"""Files with other extensions are not looked at."""

SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
"""Words for the splits, lower case, with the name that Ferry uses."""

_NOT_DATA = frozenset(("__macosx", "@eadir", "$recycle.bin"))


def split_name(word: str, where: str) -> str:
    """Returns the name of the split that `word` means; empty for no word.

    Raises:
        UserError: The word means no split.
    """
    key = word.strip().casefold()
    if key and key not in SPLITS:
        raise unknown(where, word, sorted(SPLITS))
    return SPLITS.get(key, "")


def is_image(name: str) -> bool:
    """Tells whether a file is an image by its extension, whatever its case."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def entries(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """Returns what is in a folder, sorted by name, without hidden files and what operating systems leave behind."""
    with os.scandir(folder) as scan:
        kept = [item for item in scan if not item.name.startswith(".") and item.name.lower() not in _NOT_DATA]
    return sorted(kept, key=lambda item: item.name)


def subfolders(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the names of the folders inside `folder`, sorted."""
    return [item.name for item in entries(folder) if item.is_dir()]


def split_folders(folder: Path) -> dict[str, str]:
    """Returns the folders inside `folder` that are named after a split, with the split: train, validation, test."""
    named = {name: SPLITS[name.casefold()] for name in subfolders(folder) if name.casefold() in SPLITS}
    order = ("train", "validation", "test")
    return dict(sorted(named.items(), key=lambda item: (order.index(item[1]), item[0])))


def walk_images(root: str | os.PathLike[str]) -> Iterator[str]:
    """Yields the paths of all images below `root`, relative and with ``/``, sorted folder by folder.

    Links to folders are followed, each real folder once. Memory holds the listings of the folders on the current
    path only.
    """
    yield from _walk(os.fspath(root), "", set())


def has_images(root: str | os.PathLike[str]) -> bool:
    """Tells whether there is an image anywhere below `root`."""
    return next(walk_images(root), None) is not None


def direct_images(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the names of the images that lie in `folder` itself."""
    return [item.name for item in entries(folder) if is_image(item.name) and item.is_file()]


def _walk(root: str, below: str, seen: set[str]) -> Iterator[str]:
    folder = os.path.join(root, below)
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    # Names and kinds instead of entries: a folder may hold a million files.
    listing = [(item.name, item.is_dir()) for item in entries(folder)]
    for name, is_folder in listing:
        path = f"{below}/{name}" if below else name
        if is_folder:
            yield from _walk(root, path, seen)
        elif is_image(name):
            yield path
