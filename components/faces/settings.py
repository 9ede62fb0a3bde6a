"""The settings of an import, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..common.errors import expected
from ..common.parameters import convert, from_mapping
from .decode import Limits
from .schema import CONTEMPT, EXPRESSIONS, UNKNOWN, check_split_name


@dataclass(frozen=True)
class ImportConfig:
    """How a data set is imported.

    Attributes:
        splits: ``"as_given"`` keeps the splits of the layout (everything is ``train`` where it has none); ``"hash"``
            splits anew into train and test by content, or by group where groups are known, so that neither a picture
            nor a person is on both sides.
        holdout_fraction: Share of the test split for ``splits="hash"``.
        take: Only this split is imported; empty takes all. Faces of a layout without splits belong to any.
        merge: All faces go into one split of this name, whatever their splits were; empty keeps the splits apart.
        contempt: Whether faces labelled as contempt are dropped, or kept as an eighth class behind the seven.
        unknown: Whether faces with an unknown or ambiguous label are dropped, or kept as a last class.
        labels: ``"drop"`` writes the unlabelled type, in an order that does not tell the classes. `contempt` and
            `unknown` still decide which faces are taken.
        overlap: What to do where the same picture is in two splits: ``"error"``, ``"allow"``, or
            ``"drop_from_train"`` (the copies leave the training split; a test split always stays whole).
        max_skipped: Largest share of faces that may be skipped.
        max_bytes: Largest image file, in bytes.
        max_pixels: Most pixels of a picture, before a box is cut out.
        min_side: Shortest side of a face, in pixels.
        workers: Threads that read and decode; 0 chooses.
    """

    splits: Literal["as_given", "hash"] = "as_given"
    holdout_fraction: float = 0.2
    take: str = ""
    merge: str = ""
    contempt: Literal["drop", "keep"] = "drop"
    unknown: Literal["drop", "keep"] = "drop"
    labels: Literal["keep", "drop"] = "keep"
    overlap: Literal["error", "allow", "drop_from_train"] = "error"
    max_skipped: float = 0.05
    max_bytes: int = 64 << 20
    max_pixels: int = 50_000_000
    min_side: int = 8
    workers: int = 0

    def __post_init__(self) -> None:
        for name, hint in (
            ("splits", Literal["as_given", "hash"]),
            ("contempt", Literal["drop", "keep"]),
            ("unknown", Literal["drop", "keep"]),
            ("labels", Literal["keep", "drop"]),
            ("overlap", Literal["error", "allow", "drop_from_train"]),
        ):
            convert(name, getattr(self, name), hint)
        if not 0.0 < self.holdout_fraction < 1.0:
            raise expected("holdout_fraction", "between 0 and 1", self.holdout_fraction, "Pass for example 0.2.")
        if not 0.0 <= self.max_skipped <= 1.0:
            raise expected("max_skipped", "between 0 and 1", self.max_skipped, "Pass a share such as 0.05 for 5 %.")
        for name in (self.take, self.merge):
            if name:
                check_split_name(name)
        if self.merge and self.splits == "hash":
            raise expected("merge", "empty with splits='hash'", self.merge, "Merge the splits, or split anew.")
        if self.workers < 0:
            raise expected("workers", "0 or more", self.workers, "Pass 0 to let Ferry choose.")
        self.limits()

    def limits(self) -> Limits:
        """Returns the limits of a single image."""
        return Limits(self.max_bytes, self.max_pixels, self.min_side)

    def vocabulary(self) -> tuple[str, ...]:
        """Returns the class names; the seven keep their indices whatever is kept beside them."""
        extra = [name for name, kept in ((CONTEMPT, self.contempt), (UNKNOWN, self.unknown)) if kept == "keep"]
        return (*EXPRESSIONS, *extra)


def configured(config: ImportConfig | None, settings: dict[str, Any], allow_overlap: bool) -> ImportConfig:
    """Builds the settings from what a caller gave: all at once, or one by one."""
    if config is not None and settings:
        raise expected("config", "the only place of settings", sorted(settings), "Give config, or single settings.")
    if allow_overlap:
        if config is not None or settings.get("overlap", "allow") != "allow":
            raise expected("allow_overlap", "the only setting of overlap", True, "Use overlap='allow' alone.")
        settings = {**settings, "overlap": "allow"}
    return config or from_mapping(ImportConfig, settings)
