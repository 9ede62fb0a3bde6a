"""The evaluation stage on artifacts: every model on the same faces, metrics and the report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..common.errors import expected
from ..common.files import read_json, write_json
from ..common.stage import FOLDER_VARIABLE, StageRecord
from ..faces import LabelledFaces, UnlabelledFaces, open_faces, open_unlabelled
from ..faces.pseudo_labels import PseudoLabels
from ..faces.schema import anonymous_key
from ..networks import load_imported
from ..networks.trained import load_training, skipped_reason
from ..training import open_tracker
from .alarms import Alarm
from .evaluate import Evaluation
from .formats import percent, seconds
from .quality import UNKNOWN
from .record import History, PseudoLabelData
from .report import ReportData, ReportRow, write_report

METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"
_METHODS = {"swav": "SwAV", "deepcluster": "DeepClusterV2", "clup": "CluP"}
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
) -> Found:
    """Evaluates source, AdaBN and the adapted model and writes metrics and the report.

    Args:
        data: Paths of ``target`` (unlabelled), ``holdout`` (labelled, may be empty) and ``labels``.
        models: Paths of ``source``, ``adabn`` (may be skipped), ``adapted`` and ``pretrained`` (may be skipped).
        outputs: Where to write ``evaluation`` (a folder, with a copy of the report) and ``report`` (an HTML file).
        record: Receives warnings and facts.
        method: Name of the method in the report.
        scored: Classes that count, separated by commas; empty for all.
        seed: Seed of the embedding pictures.

    Raises:
        UserError: The classes of the models and of the holdout are not the same.
    """
    holdout, target = open_faces(data["holdout"]), open_unlabelled(data["target"])
    labelled = len(holdout) > 0
    faces = holdout if labelled else target
    rows, left_out = _rows(models, faces, method, holdout if labelled else None)
    labels = PseudoLabels.load(data["labels"]).align(target.keys)
    report = ReportData(
        classes=load_imported(models["adapted"]).classes,
        rows=list(rows.values()),
        labels=holdout.labels if labelled else None,
        title=f"{method} adaptation report",
        subtitle=f"{len(target):,} unlabelled target faces, "
        + (f"{len(holdout):,} labelled holdout faces" if labelled else "no labelled holdout"),
        scored_classes=[name.strip() for name in scored.split(",") if name.strip()] or None,
        pseudo_labels=_pseudo_labels(labels, _true_labels(target, holdout)),
        histories=_histories(models),
        parameters=_parameters(models, labels),
        lineage=_lineage(models, holdout, target),
        times=_times(),
        left_out=left_out,
        seed=seed,
    )
    evaluation = report.evaluated()
    folder = Path(outputs["evaluation"])
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / METRICS_FILE, {**evaluation.to_json(), "target": _target(labels)})
    write_report(outputs["report"], replace(report, evaluation=evaluation))
    # Kubeflow's path has no suffix; without one neither MLflow nor a browser takes the file for a page.
    shutil.copyfile(outputs["report"], folder / REPORT_FILE)
    _warn(evaluation, report.run_alarms(), record)
    metrics = {key: evaluation.rows[row.name].metrics.to_json() for key, row in rows.items()}
    record.facts.update(metrics=metrics, verdict=vars(evaluation.verdict))
    _track(metrics, folder)
    return _found(evaluation, metrics) if labelled else Found(classes=list(evaluation.classes))


def _rows(
    models: Mapping[str, Path | str], faces: UnlabelledFaces, method: str, holdout: LabelledFaces | None
) -> tuple[dict[str, ReportRow], list[str]]:
    """Returns the rows by key of their model, in the report's order, and what is left out."""
    rows, left_out = {}, []
    names = {"source": "source-only", "adabn": "AdaBN", "adapted": method}
    for key, name in names.items():
        reason = skipped_reason(models[key])
        if reason:
            left_out.append(f"The row {name}: {reason}")
            continue
        model = load_imported(models[key])
        if holdout is not None and tuple(model.classes) != tuple(holdout.classes):
            fix = "Map the holdout's labels to the model's classes, or use a model with these classes."
            raise expected("holdout classes", f"those of the model {name}, {model.classes}", holdout.classes, fix)
        outputs = model.outputs(faces.pixels(model.input_size, model.channels))
        rows[key] = ReportRow(name, outputs.logits, outputs.features, feature_kind=outputs.feature_kind)
    return rows, left_out


def _true_labels(target: UnlabelledFaces, holdout: LabelledFaces) -> np.ndarray | None:
    """Returns the labels, int64 [N], of target faces that are in the holdout too, -1 for the others.

    That they may be has to be allowed; None where none is. The same face has the same key, which is anonymous in the
    target, and the same file: keys alone repeat between data sets.
    """
    rows = {anonymous_key(key): row for row, key in enumerate(holdout.keys)}
    found, labels = np.full(len(target), UNKNOWN), holdout.labels
    for here, key in enumerate(target.keys):
        there = rows.get(key)
        if there is not None and target.image(here) == holdout.image(there):
            found[here] = labels[there]
    return found if (found != UNKNOWN).any() else None


def _histories(models: Mapping[str, Path | str]) -> list[History]:
    found = []
    for key, heading in (("pretrained", "Pretraining"), ("adapted", "Fine-tuning")):
        training = load_training(models[key])
        if training:
            steps = [entry for entry in training["history"] if entry.get("kind", "step") == "step"]
            prototypes = training.get("prototypes")
            name = _METHODS.get(training["method"], training["method"])
            note = f"{name}, {training['images']:,} images (with repetition) in {seconds(training['seconds'])}"
            found.append(History(heading, steps, prototypes=prototypes, note=f"{note} on {training['device']}."))
    return found


def _parameters(models: Mapping[str, Path | str], labels: PseudoLabels) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for key, prefix in (("pretrained", "pretraining"), ("adapted", "fine-tuning")):
        settings = load_training(models[key]).get("settings", {})
        parameters.update({f"{prefix}.{name}": value for name, value in settings.items()})
    parameters.update({f"labelling.{name}": value for name, value in labels.config.items()})
    return parameters


def _lineage(models: Mapping[str, Path | str], holdout: UnlabelledFaces, target: UnlabelledFaces) -> dict[str, str]:
    lineage = {f"model {key}": load_imported(path).digest for key, path in models.items() if _is_model(key, path)}
    return {
        **lineage,
        "target faces": target.digest,
        "holdout faces": holdout.digest,
        "ferry": __version__,
        "run": os.environ.get("FERRY_RUN_ID", ""),
    }


def _is_model(key: str, path: Path | str) -> bool:
    return key != "pretrained" and not skipped_reason(path)


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


def _target(labels: PseudoLabels) -> dict[str, Any]:
    """Returns what a model card says of the data that the model was adapted to."""
    kept = labels.columns.kept
    counts = np.bincount(labels.columns.label[kept], minlength=len(labels.classes))
    return {"images": len(labels), "kept": dict(zip(labels.classes, counts.tolist(), strict=True))}


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
