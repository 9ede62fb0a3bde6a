"""Local copies of S3 prefixes, brought up to date object by object.

A copy lies below ``$FERRY_CACHE`` (else ``~/.cache/ferry``). Objects whose ETag and size have not changed are not
fetched again, so an interrupted copy goes on where it stopped; what the store no longer has is removed.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ...common.errors import RetryableError, disk_errors, expected
from ...common.progress import progress
from ..addresses import ObjectInfo, S3Source, is_plain_name
from ..cache import default_cache
from ..object_store import ObjectStore
from ..parallel import ordered_map

logger = logging.getLogger("ferry")

_WORKERS = 32
_COMMIT_EVERY = 200
_NO_FILE_NAME = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)


@dataclass(frozen=True)
class Copy:
    """A local copy of a prefix.

    Attributes:
        path: The folder; the file where the URI names a single object.
        fetched: Objects downloaded by this call.
        kept: Objects that were there already.
        removed: Files whose object is gone.
        skipped: Objects whose keys are no usable file names.
    """

    path: Path
    fetched: int = 0
    kept: int = 0
    removed: int = 0
    skipped: int = 0


def synchronise(store: ObjectStore, source: S3Source, cache: Path | None = None) -> Copy:
    """Makes the local copy of a prefix equal to the store.

    Memory does not grow with the number of objects: what is known about them is kept in a small database beside the
    files. Several objects are downloaded at a time, each checked before its file appears. Of several processes that
    ask for the same prefix, one works and the others wait.

    Args:
        store: The store.
        source: Bucket and prefix, or the key of one object.
        cache: Folder for copies; ``$FERRY_CACHE``, else ``~/.cache/ferry`` by default.

    Raises:
        RetryableError: The store cannot be reached, a transfer failed several times, or the disk is full. What was
            downloaded before is kept.
        UserError: A key or the bucket is wrong, or there is nothing under the prefix.
    """
    single = store.find(source.bucket, source.prefix)
    below = source.prefix[: source.prefix.rfind("/") + 1] if single else source.below
    root = _copy_folder(store, source, cache)
    with disk_errors(str(root)):
        (root / "files").mkdir(parents=True, exist_ok=True)
        with _alone(root), closing(_Index(root / "index.sqlite")) as index, _index_errors(root):
            listing = iter([single]) if single else store.list(source.bucket, below)
            copy = _Copying(store, source, len(below), root / "files", index).run(listing)
    if not copy.fetched and not copy.kept:
        raise expected("source", "a prefix with objects", source.uri, "Check bucket and prefix.")
    logger.info("%s: %d objects fetched, %d were there, %d removed", source.uri, copy.fetched, copy.kept, copy.removed)
    if copy.skipped:
        logger.warning("%s: %d objects were skipped, their keys are no file names", source.uri, copy.skipped)
    return replace(copy, path=copy.path / single.key[len(below) :]) if single else copy


class _Copying:
    """One run of a synchronisation."""

    def __init__(self, store: ObjectStore, source: S3Source, start: int, files: Path, index: _Index) -> None:
        self.store, self.source, self.start, self.files, self.index = store, source, start, files, index
        self.kept = self.skipped = 0

    def run(self, listing: Iterator[ObjectInfo]) -> Copy:
        fetched = 0
        with progress(f"copying {self.source.uri}", None, "objects") as bar:
            for item, saved in ordered_map(self._fetch, self._missing(listing), _WORKERS, chunk=1):
                if saved:
                    self.index.add(self._name(item), item)
                fetched += saved
                self.skipped += not saved
                bar.advance()
        removed = self._remove_others()
        return Copy(self.files, fetched, self.kept, removed, self.skipped)

    def _missing(self, listing: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        for item in listing:
            name = self._name(item)
            if not name or name.endswith("/"):
                continue  # the marker of an empty folder
            if not is_plain_name(name):
                self.skipped += 1
                continue
            self.index.see(name)
            if self.index.has(name, item) and _size(self.files / name) == item.size:
                self.kept += 1
            else:
                yield item

    def _fetch(self, item: ObjectInfo) -> bool:
        """Downloads one object, in a thread; False where the file system cannot have a file of that name."""
        try:
            self.store.save(self.source.bucket, item, self.files / self._name(item))
        except OSError as error:
            if error.errno not in _NO_FILE_NAME:
                raise
            return False
        return True

    def _remove_others(self) -> int:
        """Removes files that the listing did not name, whatever left them there."""
        self.index.forget_unseen()
        removed = 0
        for folder, _, names in os.walk(self.files):
            for name in names:
                path = Path(folder, name)
                if not self.index.was_seen(path.relative_to(self.files).as_posix()):
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def _name(self, item: ObjectInfo) -> str:
        return item.key[self.start :]


class _Index:
    """What the copy holds, as ETag and size by name; used from one thread."""

    def __init__(self, path: Path) -> None:
        try:
            self._base = _database(path)
        except sqlite3.OperationalError as error:
            raise RetryableError(f"Expected `{path}` to be free, but got '{error}'. Run it again later.") from error
        except sqlite3.DatabaseError:  # damaged; it only remembers what can be asked again
            path.unlink(missing_ok=True)
            self._base = _database(path)
        self._changes = 0

    def has(self, name: str, item: ObjectInfo) -> bool:
        row = self._base.execute("SELECT etag, size FROM objects WHERE name = ?", (name,)).fetchone()
        return bool(row == (item.etag, item.size))

    def see(self, name: str) -> None:
        self._base.execute("INSERT OR IGNORE INTO seen VALUES (?)", (name,))

    def was_seen(self, name: str) -> bool:
        return self._base.execute("SELECT 1 FROM seen WHERE name = ?", (name,)).fetchone() is not None

    def add(self, name: str, item: ObjectInfo) -> None:
        self._base.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", (name, item.etag, item.size))
        self._changes += 1
        if self._changes % _COMMIT_EVERY == 0:
            self._base.commit()

    def forget_unseen(self) -> None:
        self._base.execute("DELETE FROM objects WHERE name NOT IN (SELECT name FROM seen)")

    def close(self) -> None:
        try:
            self._base.commit()
        finally:
            self._base.close()


def _database(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path, timeout=60)
    base.execute("CREATE TABLE IF NOT EXISTS objects (name TEXT PRIMARY KEY, etag TEXT, size INTEGER)")
    base.execute("CREATE TEMP TABLE seen (name TEXT PRIMARY KEY)")
    return base


@contextmanager
def _index_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise RetryableError(
            f"Expected `{root}` to have room for an index, but got '{error}'. Free some space and run it again."
        ) from error


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Lets one process at a time work on a copy, where the system has file locks."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with open(root / "lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("Waiting for another process that copies the same objects.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a network file system without locks
            pass
        yield


def _copy_folder(store: ObjectStore, source: S3Source, cache: Path | None) -> Path:
    identity = f"{store.config.endpoint}\n{source.uri}"
    return (cache or default_cache()) / "s3" / hashlib.sha256(identity.encode()).hexdigest()[:16]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
