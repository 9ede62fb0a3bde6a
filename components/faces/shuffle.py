"""An order of faces that tells nothing about their classes, in bounded memory."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from .schema import FaceRecord
from .tables import as_table, records_of

SORTED_BYTES = 32 << 20
_MOST_BUCKETS = 128  # each is an open file
_BUFFERED_BYTES = 64 << 10  # of each
_RECORD_BYTES = 400  # that Python needs for a record beside its image and texts, with what it is sorted by


def memory_of(record: FaceRecord) -> int:
    """Returns the bytes of memory, about, that a record takes while it is sorted."""
    parts = record.image, record.key, record.path or record.key, record.group or ""  # paths are stored in any case
    return sum(map(sys.getsizeof, parts)) + 32 * len(record.votes or ()) + _RECORD_BYTES


def shuffled(records: Iterable[FaceRecord], size: int, schema: pa.Schema, folder: Path) -> Iterator[FaceRecord]:
    """Yields records in the order of the digests of their keys: fixed by the set of keys, and as good as random.

    Layouts come class after class, so without labels their order would still tell them. Where the records are more
    than :data:`SORTED_BYTES` they go through buckets on the disk, one for each range of digests, and those of a bucket
    that is still too large through smaller ones.

    Args:
        records: In any order, keys unique.
        size: At least the sum of their :func:`memory_of`.
        schema: Of the records as a table.
        folder: Where the buckets are kept meanwhile.
    """
    return _in_order(records, size, schema, folder, ())


def _in_order(
    records: Iterable[FaceRecord], size: int, schema: pa.Schema, folder: Path, cuts: tuple[int, ...]
) -> Iterator[FaceRecord]:
    if size <= SORTED_BYTES:
        yield from sorted(records, key=_place)
        return
    count = min(_MOST_BUCKETS, 1 + 2 * size // SORTED_BYTES)  # half full, because ranges do not get equal shares
    cuts = (*cuts, count)
    buckets = [_Bucket(folder / f".bucket-{len(cuts)}-{number}", schema) for number in range(count)]
    for record in records:
        buckets[_range_of(record, cuts)].add(record)
    for bucket in buckets:
        bucket.close()
    for bucket in buckets:
        if bucket.size < size:
            yield from _in_order(bucket.records(), bucket.size, schema, folder, cuts)
        else:  # a single record, or copies of one, which no range can part
            yield from sorted(bucket.records(), key=_place)


def _place(record: FaceRecord) -> bytes:
    return hashlib.sha256(record.key.encode()).digest()


def _range_of(record: FaceRecord, cuts: tuple[int, ...]) -> int:
    """Returns the range of digests that a record is in, where every range of one cut is cut again by the next."""
    number, rest = 0, int.from_bytes(_place(record)[:16], "big")
    for count in cuts:
        number, rest = divmod(rest * count, 1 << 128)
    return number


class _Bucket:
    """Keeps records on the disk until they are read, once."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.size = 0
        self._path, self._schema = path, schema
        self._buffer: list[FaceRecord] = []
        self._buffered = 0
        self._file = pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._file, schema)

    def add(self, record: FaceRecord) -> None:
        memory = memory_of(record)
        self.size += memory
        self._buffered += memory
        self._buffer.append(record)
        if self._buffered >= _BUFFERED_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._stream.close()
        self._file.close()

    def records(self) -> Iterator[FaceRecord]:
        """Yields the records in the order in which they came and removes the file."""
        with pa.OSFile(str(self._path)) as file:
            for batch in pa.ipc.open_stream(file):
                yield from records_of(batch)
        self._path.unlink()

    def _flush(self) -> None:
        if self._buffer:
            self._stream.write_table(as_table(self._buffer, self._schema))
            self._buffer, self._buffered = [], 0
