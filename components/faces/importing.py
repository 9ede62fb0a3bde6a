"""Imports a data set of faces: reads a layout, checks and decodes every image, splits, and writes a Faces folder."""

from __future__ import annotations

import csv
import logging
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from ..common.errors import RetryableError, UserError, expected
from ..common.progress import progress
from .addresses import Refused
from .decode import Limits, Prepared, SkippedImage, prepare, prepare_pixels
from .duplicates import check_overlap, write_duplicates
from .parallel import default_workers, ordered_map
from .report import ImportReport
from .schema import CONTEMPT, EXPRESSIONS, UNKNOWN, FaceRecord, FacesInfo, RawFace, Reader, anonymous_key
from .settings import ImportConfig, configured
from .splits import TEST, TRAIN, ContentLog, Repeats, hash_side
from .writer import FacesWriter, check_output, read_back

logger = logging.getLogger("ferry")

SKIPPED_FILE = "skipped.csv"
DUPLICATES_FILE = "duplicates.csv"

_EXAMPLES = 20
_HOPELESS = 1000  # so many faces skipped from the start, and not one read: the rest will not be better
_REMOTE_WORKERS = 4  # at least: threads that decode, and fetch what is too large to be fetched ahead


def import_faces(
    source: Path | str,
    output: Path | str,
    layout: str | Reader = "auto",
    *,
    options: Mapping[str, Any] | None = None,
    config: ImportConfig | None = None,
    allow_overlap: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> ImportReport:
    """Imports a data set of faces into a Faces folder, in bounded memory.

    The folder appears whole or not at all. Images that cannot be used are skipped with a reason and counted; all of
    them are listed in ``skipped.csv`` beside the result. Pictures that occur more than once are listed in
    ``duplicates.csv``.

    Args:
        source: A folder or file in one of the known layouts, or ``s3://bucket/prefix``.
        output: The Faces folder to make.
        layout: A layout's name, ``"auto"`` to recognise it, or a reader.
        options: Options of the layout, such as the file of FER+ votes.
        config: All settings at once; otherwise they are given as keywords.
        allow_overlap: The same as ``overlap="allow"``.
        overwrite: Replace a Faces folder that exists at `output`.
        **settings: Fields of :class:`ImportConfig`, for example ``splits="hash"``.

    Returns:
        What was found, kept and left out.

    Raises:
        UserError: The source is empty or unreadable, too many images cannot be used, a picture is in two splits,
            or `output` exists.
        RetryableError: The disk is full or the object store does not answer; nothing at `output` has changed.

    Example:
        >>> report = import_faces("fer2013", "faces/fer2013", overlap="drop_from_train")  # doctest: +SKIP
        >>> print(report.text())  # doctest: +SKIP
    """
    config = configured(config, settings, allow_overlap)
    output = Path(output)
    check_output(output, overwrite)
    remote = isinstance(source, str) and "://" in source
    started = time.monotonic()
    reader, faces = _opened(source if remote else Path(source), layout, options)
    labelled = bool(reader.labelled)
    classes = config.vocabulary() if labelled and config.labels == "keep" else None
    provenance = {"source": str(source), "layout": reader.name, "labels": "as given" if classes else "none"}
    run = _Import(config, labelled, classes, output)
    shuffle = labelled and classes is None
    with FacesWriter(output, classes=classes, provenance=provenance, overwrite=overwrite, shuffle=shuffle) as writer:
        run.stream(faces, writer, config.workers or (max(_REMOTE_WORKERS, default_workers()) if remote else 0))
        repeats = run.settle(writer)
        writer.provenance.update(run.counts(repeats))
    return run.report(read_back(writer), reader.name, repeats, time.monotonic() - started)


def _opened(
    place: Path | str, layout: str | Reader, options: Mapping[str, Any] | None
) -> tuple[Reader, Iterator[RawFace]]:
    """Returns the reader of a source and its faces, of which there is at least one."""
    reader = _reader(layout, place)
    logger.debug("Reading %s as layout %s.", place, reader.name)
    faces = iter(reader.read(place, dict(options or {})))  # type: ignore[arg-type]
    first = next(faces, None)
    if first is None:
        raise expected("source", "a data set with at least one face", str(place), "Check the path and the layout.")
    return reader, chain([first], faces)


@dataclass
class _Import:
    """The state of one import: what was counted so far."""

    config: ImportConfig
    labelled: bool
    classes: tuple[str, ...] | None
    output: Path
    seen: int = 0
    blank: int = 0
    removed: int = 0
    log: ContentLog = field(default_factory=ContentLog)
    passed_over: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    converted: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def stream(self, faces: Iterable[RawFace], writer: FacesWriter, workers: int) -> None:
        """Reads, decodes and writes all faces, one after the other."""
        limits = self.config.limits()

        def work(face: RawFace) -> Prepared | SkippedImage | None:
            return self._prepared(face, limits)

        with (
            open(writer.folder / SKIPPED_FILE, "w", newline="", encoding="utf-8") as file,
            progress("importing faces", None) as bar,
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", module=r"PIL\.")  # the reason of a skipped image says it better
            table = _skipped_table(file)
            for face, result in ordered_map(work, self._wanted(faces), workers or default_workers()):
                bar.advance()
                if isinstance(result, SkippedImage):
                    self._skip(face, result, table)
                elif result is None:
                    self.dropped[face.label or ""] += 1
                else:
                    self._write(face, result, writer)

    def settle(self, writer: FacesWriter) -> Repeats:
        """Looks at the whole: too many skipped, keys that occur twice, the same picture in two splits."""
        doubled = self.log.repeated_keys()
        with open(writer.folder / SKIPPED_FILE, "a", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            for split, rows in doubled.items():
                for key in writer.keys(split, rows).values():
                    self._skip(RawFace(key, bytes), SkippedImage("key occurs twice", f"in {split}"), table)
                writer.drop(split, rows)
        self._check_skipped(writer)
        repeats = self.log.repeats()
        check_overlap(repeats, writer, self.classes, self.config.overlap, self.output)
        if repeats.pictures:
            write_duplicates(writer.folder / DUPLICATES_FILE, repeats, writer, self.classes)
        if self.config.overlap == "drop_from_train":
            for split, rows in repeats.surplus_of_overlap().items():
                self.removed += len(set(rows) - set(doubled.get(split, [])))
                writer.drop(split, rows)
        if not self.skipped:
            (writer.folder / SKIPPED_FILE).unlink()
        return repeats

    def counts(self, repeats: Repeats) -> dict[str, Any]:
        """Returns what belongs into the provenance: it depends on the data and the settings alone."""
        config = {name: getattr(self.config, name) for name in ("splits", "contempt", "unknown", "overlap")}
        if self.config.splits == "hash":
            config["holdout_fraction"] = self.config.holdout_fraction
        config |= {name: value for name in ("take", "merge") if (value := getattr(self.config, name))}
        return {
            "settings": config,
            "skipped": dict(self.skipped),
            "dropped": dict(self.dropped),
            "converted": dict(self.converted),
            "overlap": repeats.across,
            "overlap_removed": self.removed,
        }

    def report(self, info: FacesInfo, layout: str, repeats: Repeats, seconds: float) -> ImportReport:
        """Returns the report of the finished import."""
        per_class = {name: dict(split.per_class) for name, split in info.splits.items() if split.per_class is not None}
        return ImportReport(
            output=self.output,
            layout=layout,
            classes=self.classes,
            images={name: split.count for name, split in info.splits.items()},
            per_class=per_class,
            digests={name: split.digest for name, split in info.splits.items()},
            skipped=dict(self.skipped.most_common()),
            skipped_examples={reason: tuple(found) for reason, found in self.examples.items()},
            skipped_file=self.output / SKIPPED_FILE if self.skipped else None,
            dropped=dict(sorted(self.dropped.items())),
            converted=dict(self.converted.most_common()),
            blank=self.blank,
            duplicates_within=dict(repeats.within),
            overlap=repeats.across,
            overlap_removed=self.removed,
            label_conflicts=repeats.conflicting,
            duplicates_file=self.output / DUPLICATES_FILE if repeats.pictures else None,
            warnings=tuple(self._warnings(info, repeats)),
            seconds=seconds,
        )

    def _wanted(self, faces: Iterable[RawFace]) -> Iterator[RawFace]:
        for face in faces:
            if self.config.splits == "as_given" and self._elsewhere(face.split):
                self.passed_over[face.split] += 1
                continue
            self.seen += 1
            if face.label == CONTEMPT and self.config.contempt == "drop":
                self.dropped[CONTEMPT] += 1
            else:
                yield face

    def _elsewhere(self, split: str) -> bool:
        """Tells whether only another split was asked for."""
        return bool(self.config.take and split) and split != self.config.take

    def _prepared(self, face: RawFace, limits: Limits) -> Prepared | SkippedImage | None:
        """Runs in a thread. None means dropped for its label."""
        try:
            if face.label == UNKNOWN and self.config.unknown == "drop":
                # Readers give rows that they cannot make sense of this label; loading tells these from the others.
                _load(face)
                return None
            data = b"" if face.pixels is not None else _load(face)
            if self.labelled and face.label is None:
                return SkippedImage("no label", "the layout has labels, but not for this face")
            if face.label is not None and face.label not in (*EXPRESSIONS, CONTEMPT, UNKNOWN):
                return SkippedImage("label outside the vocabulary", face.label)
            if face.pixels is not None:
                return prepare_pixels(face.pixels, face.box, limits)
            return prepare(data, face.box, limits)
        except SkippedImage as error:
            return error

    def _write(self, face: RawFace, prepared: Prepared, writer: FacesWriter) -> None:
        key = _clean(face.key)
        if self.labelled and self.config.labels == "drop":
            key = anonymous_key(key)
        split = self._split_of(face, prepared.content)
        if self.config.splits == "hash" and self._elsewhere(split):
            self.passed_over[split] += 1
            return
        label = None if self.classes is None or face.label is None else self.classes.index(face.label)
        votes = None
        if label is not None and label < len(EXPRESSIONS) and face.votes is not None and self.classes is not None:
            votes = (*face.votes, *[0.0] * (len(self.classes) - len(EXPRESSIONS)))
        group = _clean(face.group) if face.group else None
        writer.add(split, FaceRecord(prepared.image, key, label, group, votes=votes))
        self.log.add(split, prepared.content, key, label)
        self.converted.update(prepared.changes)
        self.blank += prepared.blank

    def _split_of(self, face: RawFace, content: bytes) -> str:
        if self.config.splits == "as_given":
            return self.config.merge or face.split or self.config.take or TRAIN
        return hash_side(_clean(face.group).encode() if face.group else content, self.config.holdout_fraction)

    def _skip(self, face: RawFace, why: SkippedImage, table: Any) -> None:
        self.skipped[why.reason] += 1
        table.writerow([_clean(face.key), why.reason, why.detail])
        examples = self.examples.setdefault(why.reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(f"{_clean(face.key)}: {why.detail}" if why.detail else _clean(face.key))
        if self.skipped.total() >= _HOPELESS and not len(self.log) and self.config.max_skipped < 1.0:
            raise self._too_many(f"the first {self.skipped.total():,} were all skipped", "")

    def _check_skipped(self, writer: FacesWriter) -> None:
        count = self.skipped.total()
        kept = len(self.log) - self.skipped["key occurs twice"]
        if kept and count <= self.config.max_skipped * self.seen:
            return
        listed = ""
        if count:
            beside = self.output.with_name(f"{self.output.name}.{SKIPPED_FILE}")
            beside.write_bytes((writer.folder / SKIPPED_FILE).read_bytes())
            listed = f"\nAll of them are listed in {beside}."
        if not kept and not count:
            found = {**self.dropped, **{f"of split {name}": number for name, number in self.passed_over.items()}}
            got = ", ".join(f"{number:,} {name}" for name, number in found.items())
            fix = "Take another split, keep these classes (contempt='keep', unknown='keep'), or check the label map."
            raise expected("source", "a data set with at least one face that is kept", f"only {got}", fix)
        raise self._too_many(f"{count:,} of {self.seen:,}", listed)

    def _too_many(self, got: str, listed: str) -> UserError:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.skipped.most_common())
        rule = f"at most {self.config.max_skipped:g} of all faces (max_skipped)"
        fix = "Check the layout and the files, or allow more with max_skipped (--max-skipped)."
        shown = [f"  {reason}: {example}" for reason, found in self.examples.items() for example in found[:5]]
        message = str(expected("skipped faces", rule, f"{got}: {reasons}", fix))
        return UserError("\n".join([message, *shown[:_EXAMPLES]]) + listed)

    def _warnings(self, info: FacesInfo, repeats: Repeats) -> Iterator[str]:
        for name, split in info.splits.items():
            if split.count == 0:
                yield f"The split {name} is empty."
            elif split.per_class is not None:
                present = [label for label, count in split.per_class.items() if count]
                if len(present) == 1:
                    yield f"The split {name} has only one class: {present[0]}."
                elif len(present) < len(split.per_class):
                    missing = ", ".join(label for label in split.per_class if label not in present)
                    yield f"The split {name} has no face of: {missing}."
        if self.config.splits == "hash" and not self.config.take and TEST not in info.splits:
            yield "No face fell into the test split: there are too few faces or groups."
        if repeats.across and self.config.overlap == "allow":
            yield f"{repeats.across:,} pictures are in more than one split, as allowed; a score on them says little."
        if repeats.conflicting:
            yield f"{repeats.conflicting:,} pictures occur with different labels."
        if self.blank:
            yield f"{self.blank:,} faces are blank: all their pixels are the same."


def _reader(layout: str | Reader, source: Path | str) -> Reader:
    if not isinstance(layout, str):
        return layout
    from .readers import reader

    found: Reader = reader(layout, source)
    return found


def _load(face: RawFace) -> bytes:
    try:
        return face.load()
    except (RetryableError, Refused):
        raise
    except UserError as error:
        raise SkippedImage("cannot be read", str(error)) from None
    except OSError as error:
        raise SkippedImage("cannot be read", error.strerror or str(error)) from None


def _clean(text: str) -> str:
    """Returns text that is valid UTF-8; file names may hold any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _skipped_table(file: TextIO) -> Any:
    table = csv.writer(file)
    table.writerow(["key", "reason", "detail"])
    return table
