"""A Faces folder as a source: to merge, split or filter it anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

from ..labels import LabelMapping, labels_of, parse_label_map
from ..schema import EXPRESSIONS, FACES_FILE, RawFace
from ..store import LabelledFaces, UnlabelledFaces, open_faces, open_unlabelled, read_info
from .base import LayoutReader


@dataclass(frozen=True)
class FacesOptions:
    """Options of the layout ``faces``.

    Attributes:
        label_map: What class names mean that are not words for expressions: pairs or a JSON file.
    """

    label_map: Any = ""


class FacesReader(LayoutReader[FacesOptions]):
    """A folder that Ferry itself wrote, with or without labels.

    Expected tree::

        SRC/faces.json
        SRC/<split>-00000-of-00003.parquet
    """

    name = "faces"
    summary = "faces.json beside Parquet files"
    options_type = FacesOptions

    def detect(self, source: Path) -> bool:
        """Tells whether there is a ``faces.json``."""
        return (source / FACES_FILE).is_file()

    def faces(self, source: Path, options: FacesOptions) -> Iterator[RawFace]:
        """Yields the faces of all splits in their stored order."""
        if not self.detect(source):
            self.refuse(source, f"a folder that holds {FACES_FILE}")
        info = read_info(source)
        self.labelled = info.classes is not None
        own = parse_label_map(options.label_map)
        labels = labels_of(info.classes or (), f"classes of {source}", own)
        return (face for split in info.splits for face in self._split(source, split, labels))

    def _split(self, source: Path, split: str, labels: LabelMapping) -> Iterator[RawFace]:
        faces = open_faces(source, split) if self.labelled else open_unlabelled(source, split)
        groups = faces.groups or repeat("")
        rows = zip(faces.keys, groups, _named(faces, labels), faces.iter_images(), strict=False)
        for key, group, (label, votes), image in rows:
            yield RawFace(key, partial(bytes, image), label, split, group or None, votes=votes)


def _named(faces: UnlabelledFaces, labels: LabelMapping) -> Iterator[tuple[str | None, tuple[float, ...] | None]]:
    """Yields label and votes of every face."""
    if not isinstance(faces, LabelledFaces):
        yield from repeat((None, None), len(faces))
        return
    names = [labels[name] for name in faces.classes]
    votes = faces.votes
    for index, label in enumerate(faces.labels):
        yield names[label], None if votes is None else _shares(votes[index], names)


def _shares(row: Sequence[float], names: Sequence[str]) -> tuple[float, ...] | None:
    """Returns votes over the faces' own classes as votes over the seven expressions; None where there are none."""
    shares = dict.fromkeys(EXPRESSIONS, 0.0)
    for name, share in zip(names, row, strict=True):
        if name in shares and share == share:
            shares[name] += float(share)
    total = sum(shares.values())
    return tuple(share / total for share in shares.values()) if total > 0 else None
