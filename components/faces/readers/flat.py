"""Images without labels, in any tree of folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..labels import looks_like_label
from ..schema import RawFace
from .base import LayoutReader, NoOptions, file_loader
from .tree import has_images, subfolders, walk_images


class FlatReader(LayoutReader[NoOptions]):
    """All images below a folder, without labels; the folders mean nothing.

    Expected tree::

        SRC/**/*.jpg
    """

    name = "flat"
    summary = "images in any tree of folders, without labels"
    labelled = False
    options_type = NoOptions

    def detect(self, source: Path) -> bool:
        """Tells whether there are images, and no folder whose name looks like a label."""
        if not source.is_dir() or not has_images(source):
            return False
        tops = subfolders(source)
        names = {*tops, *(name for top in tops for name in subfolders(source / top))}
        return not any(looks_like_label(name) for name in names)

    def faces(self, source: Path, options: NoOptions) -> Iterator[RawFace]:
        """Yields every image below `source`."""
        if not source.is_dir():
            self.refuse(source, "a folder")
        root = os.fspath(source)
        return (RawFace(path, file_loader(f"{root}/{path}")) for path in walk_images(root))
