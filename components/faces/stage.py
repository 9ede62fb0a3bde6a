"""The import stages on artifacts: an unlabelled target, and a labelled holdout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..common.errors import UserError, expected, fields_as
from ..common.stage import StageRecord
from .duplicates import require_disjoint, shared_faces
from .importing import import_faces
from .report import ImportReport
from .schema import EXPRESSIONS
from .splits import TEST, TRAIN
from .store import open_faces, open_unlabelled
from .writer import write_faces


def target_stage(
    source: str, output: Path | str, record: StageRecord, *, layout: str, split: str, max_skipped: float = 0.05
) -> dict[str, Any]:
    """Imports unlabelled faces; a label that the layout may have is dropped before anything is written.

    Args:
        source: Folder, file, or s3://bucket/prefix.
        output: The Faces folder to make.
        record: Receives warnings and facts.
        layout: Name of the layout, or auto.
        split: The split to take; empty takes all, as one.
        max_skipped: Largest share of faces that may be skipped.

    Returns:
        Metadata of the artifact.
    """
    # Copies between splits do not matter here: they become one split, and the holdout is compared on its own.
    wanted = {"max_skipped": max_skipped, **_wanted(split, TRAIN)}
    with named_as("target"):
        report = import_faces(source, output, layout, labels="drop", overlap="allow", overwrite=True, **wanted)
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
) -> dict[str, Any]:
    """Imports labelled faces and compares them with the target, and their classes with the source model's.

    All of that would come to light in the evaluation too, but only after the training.

    Args:
        source: Folder, file, or s3://bucket/prefix; empty for an empty holdout.
        output: The Faces folder to make.
        target: The target's Faces folder.
        record: Receives warnings and facts.
        layout: Name of the layout, or auto.
        split: The split to take; empty takes all, as one.
        allow_overlap: Whether a picture may be in both.
        max_skipped: Largest share of faces that may be skipped.
        classes: Classes of the source model in order, separated by commas; empty where they are not known.

    Returns:
        Metadata of the artifact.

    Raises:
        UserError: A picture is in both, the layout has no labels, or the classes are others than the model's.
    """
    if not source:
        record.warn("No holdout was given: the report can say nothing about accuracy.")
        write_faces(output, {"test": []}, classes=EXPRESSIONS, provenance={"layout": "none"}, overwrite=True)
        return {"images": 0, "labelled": True}
    wanted = {"max_skipped": max_skipped, **_wanted(split, TEST)}
    with named_as("holdout"):
        report = import_faces(source, output, layout, overlap="allow", overwrite=True, **wanted)
    _require_classes(report, source, classes)
    training, holdout = open_unlabelled(target), open_faces(output)
    if allow_overlap:
        shared = len(shared_faces(training, holdout))
        if shared:
            record.warn(f"{shared:,} pictures of the holdout are in the target too; they were allowed.")
    else:
        fix = "Take another split of one of them, or go on with -p holdout_allow_overlap=true."
        listing = Path(output).with_name(f"{Path(output).name}.overlap.csv")
        require_disjoint(training, holdout, fix=fix, listing=listing)
    return _describe(report, record)


def _require_classes(report: ImportReport, source: str, classes: str) -> None:
    if report.classes is None:
        fix = "Name a layout with labels (--layout; see: ferry faces layouts), or give no holdout."
        raise expected("holdout", "labelled", f"{source} in the layout {report.layout}, without labels", fix)
    found = ", ".join(report.classes)
    if classes and found != ", ".join(name.strip() for name in classes.split(",")):
        fix = "Take a source model with the holdout's classes (a sidecar may leave outputs out), or give no holdout."
        raise expected("holdout", f"labelled with the source model's classes, {classes}", found, fix)


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


def _wanted(split: str, name: str) -> dict[str, Any]:
    """Returns the settings that take one split, or all of them as one: the stages after this one open one split."""
    return {"take": split} if split else {"merge": name}


def _describe(report: ImportReport, record: StageRecord) -> dict[str, Any]:
    for warning in report.warnings:
        record.warn(warning)
    record.facts.update(images=dict(report.images), skipped=dict(report.skipped))
    digest = next(iter(report.digests.values()), "")
    return {"images": sum(report.images.values()), "labelled": report.classes is not None, "digest": digest}
