"""Readers over an S3 prefix: unlabelled images are streamed, everything else is first copied into a local folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ...common.errors import UserError, expected
from ..addresses import ObjectInfo, Refused, S3Source
from ..object_store import ObjectStore
from ..parallel import ordered_map
from ..schema import RawFace, Reader
from .base import LayoutReader, NoOptions, failing
from .sync import synchronise
from .tree import is_image

_WORKERS = 32  # threads that wait for a network
_PREFETCH_BYTES = 2 << 20  # of one object
_AHEAD_BYTES = 64 << 20  # of all that is under way


class S3FlatReader(LayoutReader[NoOptions]):
    """Unlabelled images under a prefix, streamed object by object; nothing is stored on the way.

    Expected tree::

        s3://BUCKET/PREFIX/**/*.jpg

    Args:
        source: Bucket and prefix.
        store: The store; from the environment by default, and only when the first face is read.
    """

    name = "flat"
    summary = "images under an S3 prefix, without labels"
    labelled = False
    options_type = NoOptions

    def __init__(self, source: S3Source, store: ObjectStore | None = None) -> None:
        self._source, self._store = source, store

    def detect(self, source: Path) -> bool:
        """Tells whether there is an image under the prefix."""
        return next(self._images(self._opened()), None) is not None

    def read(self, source: Path, options: Mapping[str, Any]) -> Iterator[RawFace]:
        """Yields the images in the order of their keys; downloads run a little ahead of the reader.

        Args:
            source: Not used: bucket and prefix are known.
            options: Must be empty.

        Raises:
            RetryableError: The store cannot be reached.
            UserError: A key or the bucket is wrong, or there is no image.
        """
        self.check_options(options)
        return self._stream(self._opened())

    def _stream(self, store: ObjectStore) -> Iterator[RawFace]:
        start, empty = len(self._source.below), True
        fetched = ordered_map(
            partial(self._fetch, store), self._images(store), _WORKERS, chunk=1, weight=_ahead, budget=_AHEAD_BYTES
        )
        for item, load in fetched:
            empty = False
            yield RawFace(item.key[start:], load)
        if empty:
            fix = "Check bucket and prefix. Images have one of the usual extensions, such as .jpg or .png."
            raise expected("source", "a prefix with images", self._source.uri, fix)

    def _fetch(self, store: ObjectStore, item: ObjectInfo) -> Callable[[], bytes]:
        """Downloads ahead, except large objects: those are fetched when asked for, to bound the memory."""
        if not _ahead(item):
            return partial(store.get, self._source.bucket, item)
        try:
            return partial(bytes, store.get(self._source.bucket, item))
        except Refused:
            raise
        except UserError as error:
            return failing(error)

    def _images(self, store: ObjectStore) -> Iterator[ObjectInfo]:
        listing = store.list(self._source.bucket, self._source.below)
        return (item for item in listing if is_image(item.key))

    def _opened(self) -> ObjectStore:
        self._store = self._store or ObjectStore()
        return self._store


def _ahead(item: ObjectInfo) -> int:
    """Returns how many bytes of an object are fetched before they are asked for."""
    return item.size if item.size <= _PREFETCH_BYTES else 0


class S3Reader:
    """Any layout under a prefix, by way of a local copy.

    Attributes:
        name: The layout's name; ``auto`` until the copy is there.
        labelled: Whether the layout gives labels; known once :meth:`read` was called.

    Args:
        source: Bucket and prefix.
        layout: The layout's name or ``auto``.
        choose: Returns the reader of a layout for a local source.
        store: The store; from the environment by default, and only when it is needed.
        cache: Folder for copies; ``$FERRY_CACHE``, else ``~/.cache/ferry`` by default.
    """

    def __init__(
        self,
        source: S3Source,
        layout: str,
        choose: Callable[[str, Path], Reader],
        store: ObjectStore | None = None,
        cache: Path | None = None,
    ) -> None:
        self.name, self.labelled, self._layout = layout, True, layout
        self._source, self._choose, self._store, self._cache = source, choose, store, cache

    def detect(self, source: Path) -> bool:
        """Tells whether the copy fits the layout."""
        reader, copy = self._updated()
        return reader.detect(copy)

    def read(self, source: Path, options: Mapping[str, Any]) -> Iterator[RawFace]:
        """Brings the copy up to date and reads it; `source` is not used."""
        reader, copy = self._updated()
        faces = reader.read(copy, options)
        self.labelled = reader.labelled
        return faces

    def _updated(self) -> tuple[Reader, Path]:
        self._store = self._store or ObjectStore()
        copy = synchronise(self._store, self._source, self._cache).path
        reader = self._choose(self._layout, copy)
        self.name = reader.name
        return reader, copy
