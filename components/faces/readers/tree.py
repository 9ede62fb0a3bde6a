"""Folders of images: walked in a fixed order, with the names that people give to splits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ...common.errors import expected, unknown

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
    """Returns what is in a folder, sorted by name, without hidden files and what operating systems leave behind.

    Raises:
        UserError: The folder cannot be read.
    """
    try:
        with os.scandir(folder) as scan:
            kept = [item for item in scan if not item.name.startswith(".") and item.name.lower() not in _NOT_DATA]
    except PermissionError as error:
        raise expected(str(folder), "a readable folder", str(error.strerror), "Change its permissions.") from error
    return sorted(kept, key=lambda item: item.name)


def is_folder(item: os.DirEntry[str]) -> bool:
    """Tells whether an entry is a folder or a link to one."""
    try:
        return item.is_dir()
    except OSError:  # a link that leads to itself
        return False


def subfolders(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the names of the folders inside `folder`, sorted."""
    return [item.name for item in entries(folder) if is_folder(item)]


def lost_links(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the names of links in `folder` that lead nowhere and may have been meant for a folder or an image."""
    return [item.name for item in entries(folder) if _is_lost(item)]


def split_folders(folder: Path) -> dict[str, str]:
    """Returns the folders inside `folder` that are named after a split, with the split: train, validation, test."""
    named = {name: SPLITS[name.casefold()] for name in subfolders(folder) if name.casefold() in SPLITS}
    order = ("train", "validation", "test")
    return dict(sorted(named.items(), key=lambda item: (order.index(item[1]), item[0])))


def walk_images(root: str | os.PathLike[str]) -> Iterator[str]:
    """Yields the paths of all images below `root`, relative and with ``/``, sorted folder by folder.

    Links to folders are followed, each real folder once. A link that leads nowhere, or back to a folder in which it
    lies, is yielded like an image: whoever loads it finds the fault, so that it is skipped with a reason and counted.
    Memory holds the listings of the folders on the current path only.
    """
    yield from _walk(os.fspath(root), "", set())


def has_images(root: str | os.PathLike[str]) -> bool:
    """Tells whether there is an image anywhere below `root`."""
    return next(walk_images(root), None) is not None


def direct_images(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the names of the images that lie in `folder` itself."""
    return [item.name for item in entries(folder) if is_image(item.name) and not is_folder(item)]


def _walk(root: str, below: str, seen: set[str]) -> Iterator[str]:
    folder = os.path.join(root, below) if below else root
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    # Names and kinds instead of entries: a folder may hold a million files.
    listing = [(item.name, _kind(item, real)) for item in entries(folder)]
    for name, kind in listing:
        path = f"{below}/{name}" if below else name
        if kind == "folder":
            yield from _walk(root, path, seen)
        elif kind == "lost" or is_image(name):
            yield path


def _kind(item: os.DirEntry[str], parent: str) -> str:
    """Returns folder, file, or lost for a link that leads nowhere or to a folder that holds `parent`, a real path."""
    if is_folder(item):
        circle = item.is_symlink() and f"{parent}/".startswith(f"{os.path.realpath(item.path).rstrip('/')}/")
        return "lost" if circle else "folder"
    return "lost" if _is_lost(item) else "file"


def _is_lost(item: os.DirEntry[str]) -> bool:
    if not item.is_symlink() or os.path.exists(item.path):
        return False
    return is_image(item.name) or not os.path.splitext(item.name)[1]
