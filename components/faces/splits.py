"""Splits by content, and finds pictures that occur more than once, within a split or on both sides of a border."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

TRAIN, TEST, VALIDATION = "train", "test", "validation"
TARGET = "target"
"""Split of a holdout that holds those faces of the target whose label is known."""

_KEEP_ORDER = (TRAIN, VALIDATION, TEST)


def hash_side(identity: bytes, holdout_fraction: float) -> str:
    """Returns the split of a picture or group, decided by its identity alone.

    No seed and no count of the data enter, so that the same picture lands on the same side in every import, also when
    the data set has grown.

    Args:
        identity: The content of a picture (16 bytes), or the encoded name of its group.
        holdout_fraction: Expected share of the test split, between 0 and 1.
    """
    number = int.from_bytes(hashlib.blake2b(identity, digest_size=8, person=b"ferry-split").digest(), "big")
    return TEST if number < holdout_fraction * 2.0**64 else TRAIN


@dataclass(frozen=True)
class Place:
    """Where one face is: its split, its row there, and its label (-1 where it has none)."""

    split: str
    row: int
    label: int


@dataclass(frozen=True)
class Repeats:
    """Pictures that occur more than once.

    Attributes:
        pictures: The places of each such picture, in order of import.
        within: Surplus copies inside each split.
        across: Pictures that occur in more than one split.
        conflicting: Pictures whose copies carry different labels.
    """

    pictures: tuple[tuple[Place, ...], ...]
    within: Mapping[str, int]
    across: int
    conflicting: int

    def crossing(self) -> Iterator[tuple[Place, ...]]:
        """Yields the places of each picture that occurs in more than one split."""
        for places in self.pictures:
            if len({place.split for place in places}) > 1:
                yield places

    def surplus_of_overlap(self) -> dict[str, list[int]]:
        """Returns the rows per split that must go so that no picture is in two splits.

        The test split stays whole, then the validation split; rows leave the training split first.
        """
        rows: dict[str, list[int]] = {}
        for places in self.crossing():
            kept = max((place.split for place in places), key=_rank)
            for place in places:
                if place.split != kept:
                    rows.setdefault(place.split, []).append(place.row)
        return rows


def _rank(split: str) -> tuple[int, str]:
    return (_KEEP_ORDER.index(split) if split in _KEEP_ORDER else 0, split)


class ContentLog:
    """Remembers which pictures and keys were seen, in 34 bytes per face, and finds repetitions afterwards.

    A million faces take 34 MB; a Python set would take six times that. Sorting comes only at the end, in numpy.
    """

    def __init__(self) -> None:
        self._contents, self._keys = bytearray(), bytearray()
        self._splits, self._labels = array("B"), array("b")
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self._splits)

    def add(self, split: str, content: bytes, key: str, label: int | None = None) -> None:
        """Notes one face, in the order in which it is written.

        Args:
            split: Its split.
            content: 16 bytes of :func:`ferry.faces.decode.content_of`.
            key: Its key.
            label: Its label, where it has one.
        """
        if split not in self._names:
            self._names.append(split)
        self._contents += content
        self._keys += hashlib.blake2b(f"{split}\0{key}".encode(), digest_size=16).digest()
        self._splits.append(self._names.index(split))
        self._labels.append(-1 if label is None else label)

    def repeats(self) -> Repeats:
        """Finds the pictures that occur more than once."""
        rows = self._rows()
        pictures: list[tuple[Place, ...]] = []
        within = dict.fromkeys(self._names, 0)
        across = conflicting = 0
        for group in _equal_rows(self._contents):
            places = tuple(self._place(int(index), rows) for index in group)
            sides = {place.split for place in places}
            pictures.append(places)
            across += len(sides) > 1
            conflicting += len({place.label for place in places}) > 1
            for side in sides:
                within[side] += sum(place.split == side for place in places) - 1
        return Repeats(tuple(pictures), within, across, conflicting)

    def repeated_keys(self) -> dict[str, list[int]]:
        """Returns the rows per split whose key was seen before in the same split."""
        rows = self._rows()
        found: dict[str, list[int]] = {}
        for group in _equal_rows(self._keys):
            for index in group[1:]:
                place = self._place(int(index), rows)
                found.setdefault(place.split, []).append(place.row)
        return found

    def _rows(self) -> np.ndarray:
        """Returns the row of each face inside its split."""
        splits = np.frombuffer(self._splits, np.uint8)
        rows = np.empty(len(splits), np.int64)
        for code in range(len(self._names)):
            inside = np.flatnonzero(splits == code)
            rows[inside] = np.arange(len(inside))
        return rows

    def _place(self, index: int, rows: np.ndarray) -> Place:
        return Place(self._names[self._splits[index]], int(rows[index]), self._labels[index])


def describe(
    repeats: Repeats, keys: Callable[[Place], str], classes: Sequence[str] | None, crossing_only: bool = False
) -> Iterator[tuple[int, str, str, str]]:
    """Yields one line per copy for a table: number of the picture, split, key, label name."""
    pictures = repeats.crossing() if crossing_only else iter(repeats.pictures)
    for number, places in enumerate(pictures, start=1):
        for place in places:
            label = "" if classes is None or place.label < 0 else classes[place.label]
            yield number, place.split, keys(place), label


def _equal_rows(digests: bytearray) -> list[np.ndarray]:
    """Returns the indices of equal 16-byte digests, each group in rising order, groups by their first index."""
    halves = np.frombuffer(digests, np.uint64).reshape(-1, 2)
    if len(halves) < 2:
        return []
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal digests stay in order of import
    ordered = halves[order]
    border = np.flatnonzero((ordered[1:] != ordered[:-1]).any(axis=1)) + 1
    starts = np.concatenate(([0], border))
    ends = np.concatenate((border, [len(order)]))
    several = ends - starts > 1
    groups = [order[start:end] for start, end in zip(starts[several], ends[several], strict=True)]
    return sorted(groups, key=lambda group: int(group[0]))
