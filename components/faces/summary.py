"""Looks at a Faces folder: counts, sizes, copies, overlap between splits, and a sheet of examples."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.progress import progress
from .decode import SkippedImage, content_of, decode_image
from .parallel import ordered_map
from .schema import FacesInfo
from .splits import ContentLog
from .store import LabelledFaces, UnlabelledFaces, read_info
from .writer import face_digest


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of a number."""

    minimum: int
    median: float
    maximum: int


@dataclass(frozen=True)
class SplitSummary:
    """What one split holds.

    Attributes:
        count: Faces.
        per_class: Faces per class; None in the unlabelled type.
        width: Spread of the widths in pixels; None for an empty split.
        height: Spread of the heights in pixels; None for an empty split.
        grey: Faces with one channel.
        duplicates: Surplus copies of the same picture inside the split.
        blank: Faces of which all pixels are the same.
        groups: Number of different groups (persons, videos); None where none are known.
        unreadable: Keys of stored images that cannot be decoded; such a folder is damaged.
        digest_fits: Whether keys and images are those that ``faces.json`` was written for.
    """

    count: int
    per_class: Mapping[str, int] | None
    width: Spread | None
    height: Spread | None
    grey: int
    duplicates: int
    blank: int
    groups: int | None
    unreadable: tuple[str, ...]
    digest_fits: bool


@dataclass(frozen=True)
class FacesSummary:
    """What a Faces folder holds.

    Attributes:
        root: The folder.
        classes: Class names in label order; None in the unlabelled type.
        splits: One summary per split.
        overlap: Pictures that are in more than one split, by their pixels.
        overlap_examples: Up to 20 of them, as "split: key = split: key".
        shared_groups: Groups that are in more than one split.
        label_conflicts: Pictures whose copies carry different labels.
        provenance: Where the faces come from.
    """

    root: Path
    classes: tuple[str, ...] | None
    splits: Mapping[str, SplitSummary]
    overlap: int
    overlap_examples: tuple[str, ...]
    shared_groups: int
    label_conflicts: int
    provenance: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Returns the summary as JSON-like values."""
        values = dataclasses.asdict(self)
        return {**values, "root": str(self.root)}

    def text(self) -> str:
        """Returns the summary as a few lines for people."""
        kind = f"labelled, {len(self.classes)} classes" if self.classes else "unlabelled"
        lines = [f"{self.root}: {sum(split.count for split in self.splits.values()):,} faces, {kind}"]
        for name, split in self.splits.items():
            lines += _split_lines(name, split)
        lines.append(f"Pictures in more than one split: {self.overlap:,}")
        lines += [f"  {example}" for example in self.overlap_examples[:5]]
        if any(split.groups for split in self.splits.values()):
            lines.append(f"Groups in more than one split: {self.shared_groups:,}")
        if self.label_conflicts:
            lines.append(f"Pictures with different labels: {self.label_conflicts:,}")
        return "\n".join(lines)


def summarise_faces(root: Path | str) -> FacesSummary:
    """Reads and decodes a whole Faces folder and tells what is in it.

    Args:
        root: The folder, labelled or not.

    Raises:
        UserError: It is no Faces folder, or a shard is damaged.
    """
    info = read_info(root)
    log = ContentLog()
    opened = {name: LabelledFaces(info, name) if info.classes else UnlabelledFaces(info, name) for name in info.splits}
    measured = {name: _measure(faces, log, info) for name, faces in opened.items()}
    repeats = log.repeats()
    splits = {
        name: dataclasses.replace(summary, duplicates=repeats.within.get(name, 0)) for name, summary in measured.items()
    }
    rows = _log_rows(measured, opened)
    crossing = list(repeats.crossing())[:20]
    examples = [
        " = ".join(f"{place.split}: {opened[place.split].keys[rows[place.split][place.row]]}" for place in places[:4])
        for places in crossing
    ]
    return FacesSummary(
        root=info.root,
        classes=info.classes,
        splits=splits,
        overlap=repeats.across,
        overlap_examples=tuple(examples),
        shared_groups=_shared_groups(opened),
        label_conflicts=repeats.conflicting if info.classes else 0,
        provenance=info.provenance,
    )


def _measure(faces: UnlabelledFaces, log: ContentLog, info: FacesInfo) -> SplitSummary:
    keys, labels = faces.keys, faces.labels if isinstance(faces, LabelledFaces) else None
    sizes: list[tuple[int, int]] = []
    unreadable: list[str] = []
    grey = blank = 0
    digest = hashlib.sha256()
    with progress(f"looking at {faces.split} faces", len(faces)) as bar:
        for (index, data), seen in ordered_map(_look, enumerate(faces.iter_images()), chunk=32):
            bar.advance()
            digest.update(face_digest(keys[index], data or b""))
            if seen is None:
                unreadable.append(keys[index])
                continue
            sizes.append(seen.size)
            grey += seen.grey
            blank += seen.blank
            log.add(faces.split, seen.content, keys[index], None if labels is None else int(labels[index]))
    return SplitSummary(
        count=len(faces),
        per_class=info.splits[faces.split].per_class,
        width=_spread([width for width, _ in sizes]),
        height=_spread([height for _, height in sizes]),
        grey=grey,
        duplicates=0,
        blank=blank,
        groups=None if faces.groups is None else len(set(faces.groups) - {""}),
        unreadable=tuple(unreadable),
        digest_fits=digest.hexdigest() == faces.digest,
    )


@dataclass(frozen=True)
class _Seen:
    size: tuple[int, int]
    grey: bool
    blank: bool
    content: bytes


def _look(item: tuple[int, bytes]) -> _Seen | None:
    try:
        pixels = decode_image(item[1])
    except SkippedImage:
        return None
    blank = bool(pixels.min() == pixels.max())
    return _Seen((pixels.shape[1], pixels.shape[0]), pixels.ndim == 2, blank, content_of(pixels))


def _log_rows(measured: Mapping[str, SplitSummary], opened: Mapping[str, UnlabelledFaces]) -> dict[str, Sequence[int]]:
    """Returns, per split, the row of a face by its place in the log, from which unreadable faces are missing."""
    rows: dict[str, Sequence[int]] = {}
    for name, summary in measured.items():
        broken = set(summary.unreadable)
        keys = opened[name].keys
        rows[name] = [row for row, key in enumerate(keys) if key not in broken] if broken else range(len(keys))
    return rows


def _spread(values: list[int]) -> Spread | None:
    return Spread(min(values), float(np.median(values)), max(values)) if values else None


def _shared_groups(opened: Mapping[str, UnlabelledFaces]) -> int:
    times: dict[str, int] = {}
    for faces in opened.values():
        for group in set(faces.groups or ()) - {""}:
            times[group] = times.get(group, 0) + 1
    return sum(count > 1 for count in times.values())


def _split_lines(name: str, split: SplitSummary) -> list[str]:
    lines = [f"{name}: {split.count:,} faces"]
    if split.groups:
        lines[0] += f" of {split.groups:,} groups"
    if split.per_class is not None:
        total = max(split.count, 1)
        lines += [f"  {label:<12}{count:>9,}{count / total:>8.1%}" for label, count in split.per_class.items()]
    if split.width and split.height:
        lines.append(f"  width  {split.width.minimum} to {split.width.maximum}, median {split.width.median:g} px")
        lines.append(f"  height {split.height.minimum} to {split.height.maximum}, median {split.height.median:g} px")
        lines.append(f"  grey {split.grey:,}, colour {split.count - split.grey - len(split.unreadable):,}")
    lines.append(f"  copies of the same picture {split.duplicates:,}, blank {split.blank:,}")
    if split.unreadable:
        lines.append(f"  DAMAGED: {len(split.unreadable):,} images cannot be decoded, such as {split.unreadable[0]}")
    if not split.digest_fits:
        lines.append("  DAMAGED: keys and images are not those that faces.json was written for")
    return lines
