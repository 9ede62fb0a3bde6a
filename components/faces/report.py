"""What an import did, for people and for scripts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.progress import duration


@dataclass(frozen=True)
class ImportReport:
    """What an import found, kept and left out.

    Copies, conflicts and blank faces are counted as they were found, before `overlap_removed` was taken out.

    Attributes:
        output: The Faces folder.
        layout: The layout that was read.
        classes: Class names in label order; None where the result has no labels.
        images: Stored images per split.
        per_class: Stored images per split and class; empty where the result has no labels.
        digests: Digest per split.
        skipped: Faces that could not be used, per reason.
        skipped_examples: Up to 20 of them, as "key: detail", per reason.
        skipped_file: A CSV file with all of them, in `output`; None where nothing was skipped.
        dropped: Faces left out for their label (contempt, unknown), although they could be read.
        converted: Faces stored anew as PNG, by what was done to them.
        blank: Faces of which all pixels are the same.
        duplicates_within: Surplus copies of the same picture inside each split.
        overlap: Pictures that occurred in more than one split.
        overlap_removed: Copies left out of a split because of that (``overlap="drop_from_train"``).
        label_conflicts: Pictures whose copies carry different labels.
        duplicates_file: A CSV file that lists all copies, in `output`; None where there are none.
        warnings: Things that are allowed and worth a look.
        seconds: Time taken.
    """

    output: Path
    layout: str
    classes: tuple[str, ...] | None
    images: Mapping[str, int]
    per_class: Mapping[str, Mapping[str, int]]
    digests: Mapping[str, str]
    skipped: Mapping[str, int]
    skipped_examples: Mapping[str, tuple[str, ...]]
    skipped_file: Path | None
    dropped: Mapping[str, int]
    converted: Mapping[str, int]
    blank: int
    duplicates_within: Mapping[str, int]
    overlap: int
    overlap_removed: int
    label_conflicts: int
    duplicates_file: Path | None
    warnings: tuple[str, ...]
    seconds: float

    @property
    def count(self) -> int:
        """Stored images over all splits."""
        return sum(self.images.values())

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as JSON-like values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: str(value) if isinstance(value, Path) else _plain(value) for name, value in values.items()}

    def text(self) -> str:
        """Returns the report as a few lines for people."""
        rate = self.count / max(self.seconds, 1e-9)
        lines = [
            f"{self.count:,} faces ({self.layout}) in {self.output}: {_counts(self.images)}; "
            f"{duration(self.seconds)}, {rate:,.0f} images/s"
        ]
        lines += [f"  {split}: {_counts(counts)}" for split, counts in self.per_class.items()]
        if self.dropped:
            lines.append(f"Left out for their label: {_counts(self.dropped)}")
        if self.skipped:
            lines.append(f"Skipped: {_counts(self.skipped)}; all in {self.skipped_file}")
            lines += [
                f"  {reason}: {example}" for reason, found in self.skipped_examples.items() for example in found[:3]
            ]
        if self.converted:
            lines.append(f"Stored anew without loss: {_counts(self.converted)}")
        if any(self.duplicates_within.values()):
            lines.append(f"Copies of the same picture: {_counts(self.duplicates_within)}; see {self.duplicates_file}")
        lines += [f"Warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
