"""Readers of the public layouts of face data sets, and of S3 prefixes that hold them.

``reader("auto", source)`` recognises the layout; every reader streams :class:`~ferry.faces.schema.RawFace` in a
deterministic order and loads an image only when it is asked for.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...common.errors import expected, unknown
from ..schema import Reader
from .afe import AfeReader
from .affectnet import AffectNetReader
from .base import LayoutReader, found
from .expw import ExpWReader
from .faces import FacesReader
from .fer2013 import Fer2013Reader
from .ferplus import FerPlusReader
from .flat import FlatReader
from .folder import FolderReader
from .manifest import ManifestReader
from .rafdb import RafDbReader
from .sfew import SfewReader

AUTO = "auto"

_ORDER: tuple[type[LayoutReader[Any]], ...] = (
    FacesReader,
    FerPlusReader,
    Fer2013Reader,
    AffectNetReader,
    RafDbReader,
    ExpWReader,
    AfeReader,
    SfewReader,
    ManifestReader,
    FolderReader,
    FlatReader,
)

READERS: Mapping[str, type[LayoutReader[Any]]] = MappingProxyType({kind.name: kind for kind in _ORDER})
"""Reader types by layout, the most specific layout first: the order in which ``auto`` tries them."""


def layouts() -> tuple[str, ...]:
    """Returns the names of all layouts, without ``auto``."""
    return tuple(READERS)


def reader(layout: str, source: Path | str, cache: Path | None = None) -> Reader:
    """Returns the reader of a layout.

    Args:
        layout: A name from :func:`layouts`, or ``"auto"`` to recognise it.
        source: Folder or file, or ``s3://bucket/prefix``. From S3, the layout ``flat`` is streamed; for all others
            (and ``auto``) the prefix is copied into a local folder first, when the reader is used.
        cache: Folder for such copies; ``$FERRY_CACHE``, else ``~/.cache/ferry`` by default.

    Raises:
        UserError: There is no such layout (with the closest match), or ``auto`` recognises none (with what was found
            and what every layout looks like).
    """
    if layout != AUTO and layout not in READERS:
        raise unknown("layout", layout, (AUTO, *READERS))
    if is_s3(source):
        return _s3_reader(layout, str(source), cache)
    return READERS[layout]() if layout != AUTO else _recognised(Path(source))


def is_s3(source: Path | str) -> bool:
    """Tells whether a source is an S3 URI; a Path that lost one of the slashes counts too."""
    return re.match(r"(s3|minio):/", str(source), re.IGNORECASE) is not None


def default_options(layout: str) -> dict[str, Any]:
    """Returns the options of a layout with their defaults.

    Raises:
        UserError: There is no such layout.
    """
    if layout not in READERS:
        raise unknown("layout", layout, tuple(READERS))
    return dataclasses.asdict(READERS[layout].options_type())


def check_options(layout: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a layout, typed and complete.

    Raises:
        UserError: There is no such layout, an option is unknown (with the closest match), or a value is wrong.
    """
    if layout not in READERS:
        raise unknown("layout", layout, tuple(READERS))
    return dataclasses.asdict(READERS[layout]().check_options(options))


def describe(layout: str) -> str:
    """Returns the expected tree of a layout as text, for help pages.

    Raises:
        UserError: There is no such layout.
    """
    if layout not in READERS:
        raise unknown("layout", layout, tuple(READERS))
    return READERS[layout].expected_tree()


def _recognised(source: Path) -> Reader:
    if not source.exists():
        raise expected("source", "an existing file or folder", str(source), "Check the path.")
    for kind in _ORDER:
        candidate = kind()
        if candidate.detect(source):
            return candidate
    known = "\n".join(f"  {kind.name}: {kind.summary}" for kind in _ORDER)
    fix = f"Name the layout (--layout), or arrange the files in one of these ways:\n{known}"
    raise expected("source", "in a known layout", f"{source} ({found(source)})", fix)


def _s3_reader(layout: str, uri: str, cache: Path | None) -> Reader:
    from ..addresses import S3Source
    from .s3 import S3FlatReader, S3Reader

    source = S3Source.parse(uri)
    return S3FlatReader(source) if layout == FlatReader.name else S3Reader(source, layout, reader, cache=cache)


__all__ = ["AUTO", "READERS", "Reader", "check_options", "default_options", "describe", "is_s3", "layouts", "reader"]
