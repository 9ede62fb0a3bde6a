"""Writes the Faces artifact: a stream of records in, Parquet shards and ``faces.json`` out, in bounded memory."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..common.errors import expected
from ..common.files import atomic_folder, write_json
from .schema import (
    FACES_FILE,
    FaceRecord,
    FacesInfo,
    SplitInfo,
    check_classes,
    check_split_name,
    table_schema,
)
from .shuffle import memory_of, shuffled
from .tables import as_table, records_of

SHARD_BYTES = 64 << 20
ROW_GROUP_BYTES = 2 << 20
ROW_GROUP_ROWS = 1024

_ROW_OVERHEAD = 200  # bytes that one record costs beside its image and key; keeps the buffers bounded for tiny images


class FacesWriter:
    """Writes a Faces folder as a stream; the folder appears whole when the block ends, or not at all.

    Memory is bounded: one row group per split, and some 40 MB more at the end where `shuffle` asks for another order.
    The columns ``group`` and ``votes`` appear as soon as one record has them; what was written before is then rewritten
    at the end, so that all shards share one schema.

    Args:
        root: The folder to make.
        classes: Class names in label order; None writes the unlabelled type.
        provenance: Where the faces come from (JSON-like), kept in ``faces.json``.
        overwrite: Replace a Faces folder that exists at `root`.
        shuffle: Whether the faces of a split are stored in the order of their keys' digests, not in that of
            :meth:`add`: for faces whose labels were dropped, because most layouts come class after class.
        shard_bytes: A shard is closed when its images exceed this.
        row_group_bytes: A row group is written when its images exceed this.

    Example:
        >>> with FacesWriter("faces", classes=("happiness", "sadness"), provenance={}) as writer:  # doctest: +SKIP
        ...     writer.add("train", FaceRecord(image=data, key="a.jpg", label=0))
    """

    def __init__(
        self,
        root: Path | str,
        *,
        classes: Sequence[str] | None,
        provenance: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        shuffle: bool = False,
        shard_bytes: int = SHARD_BYTES,
        row_group_bytes: int = ROW_GROUP_BYTES,
    ) -> None:
        self.root = Path(root)
        self.classes = None if classes is None else check_classes(classes)
        self.provenance = dict(provenance or {})
        self.info: FacesInfo | None = None
        self._overwrite, self._shuffle, self._limits = overwrite, shuffle, (shard_bytes, row_group_bytes)
        self._stack = ExitStack()
        self._splits: dict[str, _SplitWriter] = {}
        self._dropped: dict[str, set[int]] = {}
        self._group = self._votes = False

    def __enter__(self) -> FacesWriter:
        check_output(self.root, self._overwrite)
        self.folder = self._stack.enter_context(atomic_folder(self.root))
        """Where the artifact is being made; other files may be put beside the shards."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
            else:
                for split in self._splits.values():
                    split.abandon()
        except BaseException as failed:
            self._stack.__exit__(type(failed), failed, failed.__traceback__)
            raise
        self._stack.__exit__(kind, error, trace)

    def begin(self, split: str) -> None:
        """Makes `split` exist even where no face follows: an empty holdout is a legal split."""
        if split not in self._splits:
            self._splits[check_split_name(split)] = self._split_writer(split)

    def add(self, split: str, record: FaceRecord) -> None:
        """Appends one face to a split.

        Raises:
            UserError: The label, the votes or the key do not fit the classes of this folder.
            RetryableError: The disk is full.
        """
        self._check(record)
        if (record.group is not None and not self._group) or (record.votes is not None and not self._votes):
            self._group = self._group or record.group is not None
            self._votes = self._votes or record.votes is not None
            for writer in self._splits.values():
                writer.use_schema(self._schema())
        self.begin(split)
        self._splits[split].add(record)

    def keys(self, split: str, rows: Collection[int]) -> dict[int, str]:
        """Returns the keys of faces that were already added, by their row in the split; reads them from the disk."""
        return self._splits[split].keys(rows)

    def drop(self, split: str, rows: Iterable[int]) -> None:
        """Leaves faces that were already added out of the finished split.

        Args:
            split: The split.
            rows: Row numbers in the order of :meth:`add`, from 0.
        """
        self._dropped.setdefault(split, set()).update(rows)

    def _schema(self) -> pa.Schema:
        return table_schema(self.classes, self._group, self._votes)

    def _split_writer(self, name: str) -> _SplitWriter:
        return _SplitWriter(self.folder, name, self.classes, self._schema(), *self._limits)

    def _check(self, record: FaceRecord) -> None:
        if not record.key or not _is_utf8(record.key):
            raise expected(
                "key", "non-empty UTF-8 text", record.key, "Give every face a key, such as its relative path."
            )
        if not record.image:
            raise expected("image", "encoded image bytes", record.image, f"Leave {record.key!r} out.")
        if self.classes is None and (record.label is not None or record.votes is not None):
            fix = "Pass the class names, or records without label and votes."
            raise expected("label", "absent in the unlabelled type", record.label, fix)
        if self.classes is not None and (record.label is None or not 0 <= record.label < len(self.classes)):
            rule = f"an index into the {len(self.classes)} classes"
            raise expected("label", rule, record.label, f"Check the face {record.key!r}.")
        if record.votes is not None and self.classes is not None and len(record.votes) != len(self.classes):
            rule = f"one share for each of the {len(self.classes)} classes"
            raise expected("votes", rule, record.votes, f"Check the face {record.key!r}.")

    def _finish(self) -> None:
        if not self._splits:
            raise expected("splits", "at least one", [], "Add faces, or begin a split that may stay empty.")
        for name, writer in self._splits.items():
            writer.close()
            dropped = self._dropped.get(name, set())
            if self._shuffle or dropped or any(schema != self._schema() for schema in writer.schemas):
                self._splits[name] = self._rewritten(writer, dropped)
        splits = {name: writer.publish() for name, writer in self._splits.items()}
        self.info = FacesInfo(self.root, self.classes, splits, self.provenance)
        write_json(self.folder / FACES_FILE, self.info.as_json())

    def _rewritten(self, old: _SplitWriter, dropped: Collection[int]) -> _SplitWriter:
        new = self._split_writer(old.name)
        new.suffix = ".rewritten"
        records: Iterator[FaceRecord] = (record for row, record in enumerate(old.records()) if row not in dropped)
        if self._shuffle:
            records = shuffled(records, old.memory, self._schema(), self.folder)
        for record in records:
            new.add(record)
        new.close()
        old.discard()
        return new


class _SplitWriter:
    """The shards of one split, under temporary names until their number is known."""

    def __init__(
        self,
        folder: Path,
        name: str,
        classes: tuple[str, ...] | None,
        schema: pa.Schema,
        shard_bytes: int,
        row_group_bytes: int,
    ) -> None:
        self.folder, self.name, self.suffix = folder, name, ""
        self.shards: list[Path] = []
        self.schemas: list[pa.Schema] = []
        self._classes, self._schema = classes, schema
        self._shard_bytes, self._row_group_bytes = shard_bytes, row_group_bytes
        self._writer: pq.ParquetWriter | None = None
        self._buffer: list[FaceRecord] = []
        self._buffered = self._written = 0
        self._count = self.memory = 0
        self._per_class = [0] * len(classes or ())
        self._digest = hashlib.sha256()

    def add(self, record: FaceRecord) -> None:
        self._buffer.append(record)
        self._buffered += len(record.image) + len(record.key) + _ROW_OVERHEAD
        self.memory += memory_of(record)
        self._count += 1
        if record.label is not None:
            self._per_class[record.label] += 1
        self._digest.update(face_digest(record.key, record.image))
        if self._buffered >= self._row_group_bytes or len(self._buffer) >= ROW_GROUP_ROWS:
            self._flush()

    def use_schema(self, schema: pa.Schema) -> None:
        self.close()
        self._schema = schema

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer, self._written = None, 0

    def abandon(self) -> None:
        """Closes the open file without caring for its content; another error is already on its way."""
        if self._writer is not None:
            try:
                self._writer.close()
            except (OSError, pa.ArrowException):
                pass

    def keys(self, rows: Collection[int]) -> dict[int, str]:
        self.close()
        wanted, found, start = sorted(rows), {}, 0
        for path in self.shards:
            column = pq.ParquetFile(path).read(columns=["key"])["key"]
            inside = wanted[bisect_left(wanted, start) : bisect_left(wanted, start + len(column))]
            found.update({row: column[row - start].as_py() for row in inside})
            start += len(column)
        return found

    def discard(self) -> None:
        for path in self.shards:
            path.unlink()

    def records(self) -> Iterator[FaceRecord]:
        self.close()
        for path in self.shards:
            with pq.ParquetFile(path) as file:
                for index in range(file.num_row_groups):
                    yield from records_of(file.read_row_group(index))

    def publish(self) -> SplitInfo:
        """Gives the shards their final names; an empty split gets one shard without rows."""
        if not self.shards:
            self._open_shard()
            self.close()
        names = tuple(f"{self.name}-{i:05d}-of-{len(self.shards):05d}.parquet" for i in range(len(self.shards)))
        for path, name in zip(self.shards, names, strict=True):
            os.replace(path, self.folder / name)
        per_class = None if self._classes is None else dict(zip(self._classes, self._per_class, strict=True))
        return SplitInfo(self._count, self._digest.hexdigest(), per_class, names)

    def _flush(self) -> None:
        if not self._buffer:
            return
        writer = self._writer or self._open_shard()
        writer.write_table(as_table(self._buffer, self._schema))
        self._written += self._buffered
        self._buffer, self._buffered = [], 0
        if self._written >= self._shard_bytes:
            self.close()

    def _open_shard(self) -> pq.ParquetWriter:
        path = self.folder / f".{self.name}-{len(self.shards):05d}{self.suffix}.parquet"
        names = ["image.bytes", "image.path", "label", "key", "group", "votes.list.element"]
        columns = [name for name in names if name.split(".")[0] in self._schema.names]
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            # Images are compressed already; trying again costs time and gains nothing.
            compression={name: "NONE" if name == "image.bytes" else "ZSTD" for name in columns},
            use_dictionary=[name for name in columns if name in ("label", "group")],
            write_statistics=[name for name in columns if name in ("label", "key")],
            write_page_checksum=True,
        )
        self.shards.append(path)
        self.schemas.append(self._schema)
        return self._writer


def write_faces(
    root: Path | str,
    splits: Mapping[str, Iterable[FaceRecord]],
    *,
    classes: Sequence[str] | None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> FacesInfo:
    """Writes a Faces folder from records that are at hand or come one by one.

    Args:
        root: The folder to make; it appears whole or not at all.
        splits: Records per split; a split may be empty.
        classes: Class names in label order; None writes the unlabelled type.
        provenance: Where the faces come from (JSON-like).
        overwrite: Replace a Faces folder that exists at `root`.

    Returns:
        What ``faces.json`` says.

    Raises:
        UserError: `root` exists, or a record does not fit the classes.
        RetryableError: The disk is full; nothing under `root` has changed.
    """
    with FacesWriter(root, classes=classes, provenance=provenance, overwrite=overwrite) as writer:
        for split, records in splits.items():
            writer.begin(split)
            for record in records:
                writer.add(split, record)
    return read_back(writer)


def read_back(writer: FacesWriter) -> FacesInfo:
    """Returns what a writer wrote, once its block has ended."""
    if writer.info is None:
        raise RuntimeError("The block of this FacesWriter has not ended.")
    return writer.info


def check_output(root: Path, overwrite: bool) -> None:
    """Raises UserError where `root` holds something that must not be replaced.

    Even with `overwrite` only a Faces folder is replaced, so that a mistyped path cannot delete other files.
    """
    if not root.exists() and not root.is_symlink():
        return
    if root.is_dir() and not root.is_symlink() and not any(root.iterdir()):
        return
    if not (root / FACES_FILE).is_file() or root.is_symlink():
        fix = "Something else is there, and it is never replaced: choose another folder."
        raise expected("output", "a new folder", str(root), fix)
    if not overwrite:
        fix = "A Faces folder is already there: pass overwrite=True (--overwrite), or choose another folder."
        raise expected("output", "a new folder", str(root), fix)


def face_digest(key: str, image: bytes) -> bytes:
    """Returns the 64 bytes by which one face enters the digest of its split: SHA-256 of the key and of the image."""
    return hashlib.sha256(key.encode()).digest() + hashlib.sha256(image).digest()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
