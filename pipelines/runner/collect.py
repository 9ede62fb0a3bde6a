"""Reads what the tasks of a run left behind, and finds what they should have left but did not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ...common.files import read_json
from .record import RunRecord, TaskRecord, iso

_SILENT_SKIPS = ("Could not resolve CEL parameter", "Condition evaluation failed")


def collect(record: RunRecord, folder: Path) -> None:
    """Fills in the tasks, metrics, report, model, warnings and overhead of a run.

    A run that kfp calls successful becomes a failed one where a task was skipped without a word, or where a task did
    not leave an output that it declares.

    Args:
        record: The record to fill in.
        folder: The run's folder.
    """
    tasks = _pending(folder)
    for name, task in tasks.items():
        _fill(task, folder / "stages" / f"{name}.json")
        outputs = _outputs(folder, name)
        task.artifacts = outputs or {}
        if task.status == "done" and outputs is None:
            task.status, task.exit_code, task.error = "failed", 75, "The stage ended without its outputs."
    record.tasks = sorted(tasks.values(), key=lambda task: (task.started == "", task.started))
    record.warnings = [f"{task.name}: {warning}" for task in record.tasks for warning in task.warnings]
    record.overhead_seconds = round(max(record.seconds - sum(task.seconds for task in record.tasks), 0.0), 2)
    for task in record.tasks:
        _lift(record, task)
    _keep_report(record, folder)
    _judge(record)


def _pending(folder: Path) -> dict[str, TaskRecord]:
    """Returns a record for every task of the compiled pipeline; a stage's name is its task's."""
    package = folder / "pipeline.yaml"
    if not package.exists():
        return {}
    import yaml

    root = next(document for document in yaml.safe_load_all(package.read_text(encoding="utf-8")) if "root" in document)
    return {name: TaskRecord(name=name) for name in root["root"]["dag"]["tasks"]}


def _fill(task: TaskRecord, path: Path) -> None:
    if not path.exists():
        return
    values: dict[str, Any] = read_json(path, "stage record")
    task.status = values["status"]
    task.started = iso(values["started"])
    ended = values["ended"]
    task.seconds = round(ended - values["started"], 2) if ended else 0.0
    task.exit_code, task.error = values["exit_code"], values["error"]
    task.warnings, task.facts = values["warnings"], values["facts"]
    if task.status == "running":
        task.status, task.exit_code = "failed", 75
        task.error = "The stage was killed. Run the same command again to continue from its last checkpoint."


def _outputs(folder: Path, task: str) -> dict[str, str] | None:
    """Returns output name to path of an executed task, or None where it left no record of them."""
    found = sorted((folder / "artifacts").glob(f"*/{task}/executor_output.json"))
    if not found:
        return None
    values = json.loads(found[-1].read_text(encoding="utf-8"))
    paths = {}
    for name, entry in values.get("artifacts", {}).items():
        uri = entry["artifacts"][0]["uri"]
        if Path(uri).exists():
            paths[name] = uri
    return paths


def _lift(record: RunRecord, task: TaskRecord) -> None:
    """Moves the facts that readers of ``run.json`` look for from the task to the run."""
    for name in ("metrics", "model"):
        if name in task.facts:
            setattr(record, name, task.facts.pop(name))
    if "report" in task.artifacts:
        record.report = task.artifacts["report"]


def _keep_report(record: RunRecord, folder: Path) -> None:
    """Copies the report to where people look for it, under a name that a browser opens."""
    if record.report and Path(record.report).is_file():
        target = folder / "report.html"
        shutil.copyfile(record.report, target)
        record.report = str(target)


def _judge(record: RunRecord) -> None:
    failed = next((task for task in record.tasks if task.status == "failed"), None)
    if record.status == "done":
        log = Path(record.log).read_text(encoding="utf-8", errors="replace") if Path(record.log).exists() else ""
        never = [task.name for task in record.tasks if task.status == "pending"]
        if failed is not None:
            record.status = "failed"
        elif never or any(sign in log for sign in _SILENT_SKIPS):
            record.status, record.exit_code = "failed", 1
            record.error = f"The local runner skipped {', '.join(never) or 'a condition'} without an error."
    if failed is not None and record.status == "failed":
        record.error, record.exit_code = failed.error, failed.exit_code
