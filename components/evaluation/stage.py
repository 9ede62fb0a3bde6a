"""The evaluation stage on artifacts: every model on the same faces, metrics and the report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import expected
from ..common.files import read_json, write_json
from ..common.stage import FOLDER_VARIABLE, StageRecord
from ..faces import LabelledFaces, UnlabelledFaces, open_faces, open_unlabelled
from ..faces.duplicates import labels_by_picture, shared_faces
from ..faces.pseudo_labels import PseudoLabels
from ..faces.splits import TARGET, TEST
from ..faces.store import read_info
from ..networks import load_imported
from ..networks.trained import load_training, skipped_reason
from ..training import open_tracker
from .alarms import Alarm
from .evaluate import Evaluation
from .formats import percent, seconds
from .lineage import lineage, used_parameters
from .quality import UNKNOWN
from .record import History, PseudoLabelData
from .report import ReportData, ReportRow, write_report

METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"
_METHODS = {"swav": "SwAV", "deepcluster": "DeepClusterV2", "clup": "CluP"}
_MIXED = (
    "Mixup blends each face with another one in a ratio drawn anew for every batch, and only the first one's label "
    "counts as right: the curve zigzags and stays far below 1 in healthy trainings too."
)
_SCALARS = ("accuracy", "mean_class_accuracy", "min_class_accuracy", "class_std", "ece")


@dataclass(frozen=True)
class Found:
    """What the stage hands to the Kubeflow UI.

    Attributes:
        scalars: Finite numbers by name.
        classes: Class names.
        matrix: Confusion matrix of the adapted model, rows are true classes; empty without labels.
    """

    scalars: dict[str, float] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    matrix: list[list[int]] = field(default_factory=list)


def evaluation_stage(
    data: Mapping[str, Path | str],
    models: Mapping[str, Path | str],
    outputs: Mapping[str, Path | str],
    record: StageRecord,
    *,
    method: str,
    scored: str = "",
    seed: int = 0,
    origin: str = "",
    shared: int | None = None,
) -> Found:
    """Evaluates source, AdaBN and the adapted model and writes metrics and the report.

    Args:
        data: Paths of ``target`` (unlabelled), ``holdout`` (labelled: the split ``test``, which may be empty, and the
            split ``target`` where labels of target faces are known) and, for a method with pseudo-labels, ``labels``.
        models: Paths of ``source`` and ``adapted``; of ``adabn`` and ``pretrained``, which may be skipped or absent.
        outputs: Where to write ``evaluation`` (a folder, with a copy of the report) and ``report`` (an HTML file).
        record: Receives warnings and facts.
        method: Name of the method in the report.
        scored: Classes that count, separated by commas; empty for all.
        seed: Seed of the embedding pictures.
        origin: Where the source model was taken from, for the report; empty where that is not known.
        shared: Number of the holdout's pictures that are in the target too, as its import has counted; None counts.

    Raises:
        UserError: The classes of the models and of the holdout are not the same.
    """
    sets = _open(data, shared)
    labels = PseudoLabels.load(data["labels"]).align(sets.target.keys) if "labels" in data else None
    rows, left_out = _rows(models, sets, method)
    report = ReportData(
        classes=load_imported(models["adapted"]).classes,
        rows=list(rows.values()),
        labels=sets.holdout.labels if sets.labelled else None,
        title=f"{method} adaptation report",
        subtitle=sets.described(),
        scored_classes=[name.strip() for name in scored.split(",") if name.strip()] or None,
        pseudo_labels=_pseudo_labels(labels, _true_labels(sets)) if labels is not None else None,
        histories=_histories(models),
        parameters=used_parameters(models, labels),
        lineage=lineage(models, sets.by_name(), labels, origin),
        times=_times(),
        left_out=left_out,
        shared_faces=sets.shared,
        seed=seed,
    )
    evaluation = report.evaluated()
    folder = _write(outputs, replace(report, evaluation=evaluation), evaluation, len(sets.target))
    _warn(evaluation, report.run_alarms(), record)
    metrics = {key: evaluation.rows[row.name].metrics.to_json() for key, row in rows.items()}
    names = {key: row.name for key, row in rows.items()}
    record.facts.update(metrics=metrics, names=names, verdict=vars(evaluation.verdict))
    _track(metrics, folder)
    return _found(evaluation, metrics) if sets.labelled else Found(classes=list(evaluation.classes))


@dataclass(frozen=True)
class _Sets:
    """The faces of an evaluation.

    Attributes:
        target: The target, without labels.
        holdout: The labelled holdout, which may be empty.
        known: Those faces of the target whose label is known, with its keys, or None.
        shared: Number of holdout faces whose pictures are in the target too.
    """

    target: UnlabelledFaces
    holdout: LabelledFaces
    known: LabelledFaces | None
    shared: int

    @property
    def labelled(self) -> bool:
        """Whether there is a holdout."""
        return len(self.holdout) > 0

    def described(self) -> str:
        """Returns a line that says what they are."""
        holdout = f"{len(self.holdout):,} labelled holdout faces" if self.labelled else "no labelled holdout"
        return f"{len(self.target):,} unlabelled target faces, {holdout}"

    def by_name(self) -> dict[str, UnlabelledFaces]:
        """Returns them by the name that the report gives them."""
        sets = {"target": self.target, "holdout": self.holdout}
        return sets if self.known is None else {**sets, "labelled target": self.known}


def _open(data: Mapping[str, Path | str], shared: int | None) -> _Sets:
    target, splits = open_unlabelled(data["target"]), read_info(data["holdout"]).splits
    holdout = open_faces(data["holdout"], TEST if TEST in splits else "")
    known = open_faces(data["holdout"], TARGET) if TARGET in splits else None
    if shared is None:
        shared = len(shared_faces(target, holdout)) if len(holdout) else 0
    return _Sets(target, holdout, known, shared)


def _rows(models: Mapping[str, Path | str], sets: _Sets, method: str) -> tuple[dict[str, ReportRow], list[str]]:
    """Returns the rows by key of their model, in the report's order, and what is left out."""
    faces = sets.holdout if sets.labelled else sets.target
    rows, left_out = {}, []
    names = {"source": "source-only", "adabn": "AdaBN", "adapted": method}
    for key, name in names.items():
        if key not in models:
            continue
        reason = skipped_reason(models[key])
        if reason:
            left_out.append(f"The row {name}: {reason}")
            continue
        model = load_imported(models[key])
        if (sets.labelled or sets.known is not None) and tuple(model.classes) != sets.holdout.classes:
            fix = "Map the holdout's labels to the model's classes, or use a model with these classes."
            raise expected("holdout classes", f"those of the model {name}, {model.classes}", sets.holdout.classes, fix)
        outputs = model.outputs(faces.pixels(model.input_size, model.channels))
        rows[key] = ReportRow(name, outputs.logits, outputs.features, feature_kind=outputs.feature_kind)
    return rows, left_out


def _true_labels(sets: _Sets) -> np.ndarray | None:
    """Returns true labels of the target's faces, int64 [N], -1 where unknown; None where none can be known.

    Pictures that the holdout shares with the target serve where nothing better was given.
    """
    if sets.known is not None:
        labels = dict(zip(sets.known.keys, sets.known.labels.tolist(), strict=True))
        return np.fromiter((labels.get(key, UNKNOWN) for key in sets.target.keys), np.int64, len(sets.target))
    return labels_by_picture(sets.target, sets.holdout) if sets.shared else None


def _histories(models: Mapping[str, Path | str]) -> list[History]:
    found = []
    for key, heading in (("pretrained", "Pretraining"), ("adapted", "Fine-tuning")):
        training = load_training(models[key]) if key in models else {}
        if training:
            steps = [entry for entry in training["history"] if entry.get("kind", "step") == "step"]
            prototypes = training.get("prototypes")
            name = _METHODS.get(training["method"], training["method"])
            note = f"{name}, {training['images']:,} images (with repetition) in {seconds(training['seconds'])}"
            note, signs = f"{note} on {training['device']}.", training.get("collapse", ())
            remarks = {"accuracy": _MIXED} if training["settings"].get("mixup") else {}
            found.append(History(heading, steps, prototypes, note, signs, remarks))
    return found


def _times() -> dict[str, float]:
    """Returns the seconds of the stages before this one, where a runner keeps their records."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return {}
    records = [read_json(path, "stage record") for path in Path(folder).glob("*.json")]
    done = sorted((entry for entry in records if entry["ended"]), key=lambda entry: entry["started"])
    return {entry["name"]: round(entry["ended"] - entry["started"], 1) for entry in done}


def _pseudo_labels(labels: PseudoLabels, true_labels: np.ndarray | None) -> PseudoLabelData:
    columns, summary = labels.columns, labels.summary
    kept = f"the best {percent(summary['keep']['r'], 0)} of each class by {summary['score']} are kept"
    note = f"{summary['clusters']['k']} clusters of the teacher's features; {kept}."
    return PseudoLabelData(columns.label, columns.kept, columns.purity, true_labels, note)


def _write(outputs: Mapping[str, Path | str], report: ReportData, evaluation: Evaluation, images: int) -> Path:
    """Writes metrics and report; returns their folder."""
    folder = Path(outputs["evaluation"])
    folder.mkdir(parents=True, exist_ok=True)
    adapted_to = _target(images, report.pseudo_labels, evaluation.classes)
    write_json(folder / METRICS_FILE, {**evaluation.to_json(), "target": adapted_to})
    write_report(outputs["report"], report)
    # Kubeflow's path has no suffix; without one neither MLflow nor a browser takes the file for a page.
    shutil.copyfile(outputs["report"], folder / REPORT_FILE)
    return folder


def _target(images: int, labels: PseudoLabelData | None, classes: Sequence[str]) -> dict[str, Any]:
    """Returns what a model card says of the data that the model was adapted to, and how good its pseudo-labels are."""
    if labels is None:
        return {"images": images}
    quality = labels.quality(classes)
    kept = {name: item.kept for name, item in quality.per_class.items()}
    return {"images": quality.n, "kept": kept, "pseudo_labels": quality.to_json()}


def _warn(evaluation: Evaluation, known: list[Alarm], record: StageRecord) -> None:
    """Warns of an adaptation that is worse than its source, and of all that the stages before have not warned of."""
    if evaluation.verdict.level == "worse":
        record.warn(f"{evaluation.verdict.sentence} {evaluation.verdict.advice}")
    for alarm in evaluation.alarms:
        if alarm.level == "warning" and alarm not in known:
            record.warn(alarm.text)


def _track(metrics: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    with open_tracker("evaluation") as tracker:
        for key, row in metrics.items():
            tracker.metrics({f"{key}/{name}": row[name] for name in _SCALARS if row.get(name) is not None}, 0)
        for name in (REPORT_FILE, METRICS_FILE):
            tracker.artifact(folder / name)


def _found(evaluation: Evaluation, metrics: Mapping[str, Mapping[str, Any]]) -> Found:
    scalars = {
        f"{key}_{name}": float(row[name]) for key, row in metrics.items() for name in _SCALARS if row[name] is not None
    }
    matrix = [[int(cell) for cell in line] for line in evaluation.rows[evaluation.adapted].metrics.confusion]
    return Found(scalars, list(evaluation.classes), matrix)
