"""An order of faces that tells nothing about their classes, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from .schema import FaceRecord

SORTED_BYTES = 128 << 20
_MOST_BUCKETS = 128  # each is an open file


class Bucket(Protocol):
    """Keeps records on the disk."""

    def add(self, record: FaceRecord) -> None:
        """Takes one in."""

    def records(self) -> Iterator[FaceRecord]:
        """Returns them in the order in which they came."""

    def discard(self) -> None:
        """Frees the disk."""


def mixed(
    records: Iterable[FaceRecord], size: int, bucket: Callable[[int], Bucket], sorted_bytes: int = 0
) -> Iterator[FaceRecord]:
    """Yields records in the order of the digests of their keys: fixed by the set of keys, and as good as random.

    Layouts come class after class, so without labels their order would still tell them. Where the records are more
    than fit into memory they go through buckets on the disk, each of which is sorted by itself.

    Args:
        records: In any order, keys unique.
        size: Their bytes, about.
        bucket: Makes the bucket of a number.
        sorted_bytes: What may be in memory at once, 0 for the usual; more where the records exceed 128 times that.
    """
    count = min(_MOST_BUCKETS, 1 + size // (sorted_bytes or SORTED_BYTES))
    if count == 1:
        yield from sorted(records, key=_place)
        return
    buckets = [bucket(number) for number in range(count)]
    for record in records:
        buckets[_place(record)[0] * count // 256].add(record)
    for one in buckets:
        yield from sorted(one.records(), key=_place)
        one.discard()


def _place(record: FaceRecord) -> bytes:
    return hashlib.sha256(record.key.encode()).digest()
