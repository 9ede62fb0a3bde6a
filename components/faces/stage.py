"""The import stages on artifacts: an unlabelled target, and a labelled holdout."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import UserError, expected, fields_as
from ..common.stage import StageRecord
from .duplicates import NO_LABEL, labels_by_picture, require_disjoint, shared_faces
from .importing import DUPLICATES_FILE, SKIPPED_FILE, import_faces
from .report import ImportReport
from .schema import EXPRESSIONS, FaceRecord
from .splits import TARGET, TEST, TRAIN
from .store import LabelledFaces, open_faces, open_unlabelled, read_info
from .writer import FacesWriter, write_faces


def target_stage(
    source: str,
    output: Path | str,
    record: StageRecord,
    *,
    layout: str,
    split: str,
    max_skipped: float = 0.05,
    min_faces: int = 0,
) -> dict[str, Any]:
    """Imports unlabelled faces; a label that the layout may have is dropped before anything is written.

    Args:
        source: Folder, file, or s3://bucket/prefix.
        output: The Faces folder to make.
        record: Receives warnings and facts.
        layout: Name of the layout, or auto.
        split: The split to take; empty takes all, as one.
        max_skipped: Largest share of faces that may be skipped.
        min_faces: How many faces the settings of later stages need.

    Returns:
        Metadata of the artifact.

    Raises:
        UserError: The faces cannot be imported, or are too few.
    """
    # Copies between splits do not matter here: they become one split, and the holdout is compared on its own.
    wanted: dict[str, Any] = {"max_skipped": max_skipped, **({"take": split} if split else {"merge": TRAIN})}
    with named_as("target"):
        report = import_faces(source, output, layout, labels="drop", overlap="allow", overwrite=True, **wanted)
    found = sum(report.images.values())
    if found < min_faces:
        rule = f"at least {min_faces:,} faces, the most of labelling_clusters, pretraining_prototypes and one batch"
        fix = "Add faces, or lower those (labelling_preset=released clusters into 1,000)."
        raise expected("target", rule, f"{found:,} faces", fix)
    return _describe(report, record)


def holdout_stage(
    source: str,
    output: Path | str,
    target: Path | str,
    record: StageRecord,
    *,
    layout: str,
    split: str,
    allow_overlap: bool,
    max_skipped: float = 0.05,
    classes: str = "",
    target_labels: str = "",
    target_labels_layout: str = "auto",
    target_labels_split: str = "train",
) -> dict[str, Any]:
    """Imports what only the evaluation may see: a labelled holdout, and labels of the target's own faces.

    Both are compared with the target, and their classes with the source model's. All of that would come to light in
    the evaluation too, but only after the training.

    Args:
        source: Folder, file, or s3://bucket/prefix; empty for an empty holdout.
        output: The Faces folder to make: the split ``test`` is the holdout; ``target``, where `target_labels` are
            given, holds those faces of the target whose label is known, with the target's keys.
        target: The target's Faces folder.
        record: Receives warnings and facts.
        layout: Name of the layout, or auto.
        split: The split to take; empty takes all, as one.
        allow_overlap: Whether a picture may be in both.
        max_skipped: Largest share of faces that may be skipped.
        classes: Classes of the source model in order, separated by commas; empty where they are not known.
        target_labels: Labelled faces of the target itself, to judge pseudo-labels by, as `source`; empty for none.
        target_labels_layout: Their layout, or auto.
        target_labels_split: The split of them to take; empty takes all.

    Returns:
        Metadata of the artifact.

    Raises:
        UserError: A picture is in both, a layout has no labels, the classes are others than the model's, or no face
            of the target is in `target_labels`.
    """
    if source:
        wanted: dict[str, Any] = {"max_skipped": max_skipped, "take": split, "merge": TEST}
        with named_as("holdout"):
            report = import_faces(source, output, layout, overlap="allow", overwrite=True, **wanted)
        _require_classes(report, "holdout", source, classes)
        shared = _compare(output, target, record, allow_overlap)
        found = {**_describe(report, record), "shared": shared}
    else:
        record.warn("No holdout was given: the report can say nothing about accuracy.")
        write_faces(output, {TEST: []}, classes=EXPRESSIONS, provenance={"layout": "none"}, overwrite=True)
        found = {"images": 0, "labelled": True, "shared": 0}
    if target_labels:
        given = {"layout": target_labels_layout, "split": target_labels_split, "classes": classes}
        known = _add_target_labels(target_labels, Path(output), target, **given)
        record.facts["target_labels"] = found["target_labels"] = known
    return found


def _compare(output: Path | str, target: Path | str, record: StageRecord, allow_overlap: bool) -> int:
    """Returns how many pictures of a holdout are in the target too, where that is allowed."""
    training, holdout = open_unlabelled(target), open_faces(output, TEST)
    if allow_overlap:
        shared = len(shared_faces(training, holdout))
        if shared:
            record.warn(f"{shared:,} pictures of the holdout are in the target too; they were allowed.")
        return shared
    fix = "Take another split of one of them, or go on with -p holdout_allow_overlap=true."
    listing = Path(output).with_name(f"{Path(output).name}.overlap.csv")
    require_disjoint(training, holdout, fix=fix, listing=listing)
    return 0


def _add_target_labels(source: str, output: Path, target: Path | str, *, layout: str, split: str, classes: str) -> int:
    """Adds the split ``target`` to a holdout and returns its number of faces.

    Faces without a label, and those that the target's import has skipped already, are no reason to stop: what is known
    of the others still counts.
    """
    scratch = output.with_name(f"{output.name}.target-labels")
    try:
        with fields_as("target_labels_", "layout", source="target_labels", **{"skipped faces": "target_labels"}):
            wanted: dict[str, Any] = {"max_skipped": 1.0, "take": split, "merge": TARGET}
            report = import_faces(source, scratch, layout, overlap="allow", overwrite=True, **wanted)
        _require_classes(report, "target_labels", source, classes)
        faces = open_unlabelled(target)
        labels = labels_by_picture(faces, open_faces(scratch, TARGET))
        provenance = read_info(scratch).provenance
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    known = int((labels != NO_LABEL).sum())
    if not known:
        got = f"{source}, with none of its {len(faces):,} pictures"
        fix = "Pass the labelled data set that the target was taken from, with the target's layout and split."
        raise expected("target_labels", "labelled faces of the target", got, fix)
    info = read_info(output)
    both = {**info.provenance, "target_labels": provenance}
    with FacesWriter(output, classes=info.classes, provenance=both, overwrite=True) as writer:
        for name in (SKIPPED_FILE, DUPLICATES_FILE):
            if (output / name).is_file():
                shutil.copyfile(output / name, writer.folder / name)
        writer.begin(TEST)
        for record in _records(open_faces(output, TEST)):
            writer.add(TEST, record)
        for key, image, label in zip(faces.keys, faces.iter_images(), labels.tolist(), strict=True):
            if label != NO_LABEL:
                writer.add(TARGET, FaceRecord(image, key, label))
    return known


def _records(faces: LabelledFaces) -> Iterator[FaceRecord]:
    groups, votes = faces.groups or [""] * len(faces), faces.votes
    for row, image in enumerate(faces.iter_images()):
        shares = None if votes is None or np.isnan(votes[row]).any() else tuple(votes[row].tolist())
        yield FaceRecord(image, faces.keys[row], int(faces.labels[row]), groups[row] or None, votes=shares)


def _require_classes(report: ImportReport, name: str, source: str, classes: str) -> None:
    if report.classes is None:
        fix = f"Name a layout with labels (see: ferry faces layouts), or give no {name}."
        raise expected(name, "labelled", f"{source} in the layout {report.layout}, without labels", fix)
    found = ", ".join(report.classes)
    if classes and found != ", ".join(name.strip() for name in classes.split(",")):
        fix = f"Take a source model with the classes of {name} (a sidecar may leave outputs out), or give no {name}."
        raise expected(name, f"labelled with the source model's classes, {classes}", found, fix)


@contextmanager
def named_as(name: str) -> Iterator[None]:
    """Lets errors of an import name a pipeline's parameters.

    Args:
        name: The parameter that says where the faces are; those with its settings begin with it.

    Raises:
        UserError: The error of the block, renamed.
    """
    with fields_as(f"{name}_", "layout", "max_skipped", source=name):
        try:
            yield
        except UserError as error:
            option = f"-p {name}_max_skipped=0.2 or another share"
            raise UserError(str(error).replace("max_skipped (--max-skipped).", f"{option}.")) from None


def _describe(report: ImportReport, record: StageRecord) -> dict[str, Any]:
    for warning in report.warnings:
        record.warn(warning)
    record.facts.update(images=dict(report.images), skipped=dict(report.skipped))
    digest = next(iter(report.digests.values()), "")
    return {"images": sum(report.images.values()), "labelled": report.classes is not None, "digest": digest}
