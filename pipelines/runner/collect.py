"""Reads what the tasks of a run left behind, and finds what they should have left but did not."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.errors import FerryError, RetryableError
from ...common.files import read_json
from .record import RunRecord, TaskRecord, iso

_SILENT_SKIPS = ("Could not resolve CEL parameter", "Condition evaluation failed")
_WITHOUT_FILES = ("system.Metrics", "system.ClassificationMetrics", "system.SlicedClassificationMetrics")
_ERROR_LINE = re.compile(r"^\s*((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)$")
_LOG_END = 1 << 20
_FULL = 1 << 20


def collect(record: RunRecord, folder: Path) -> None:
    """Fills in the tasks, metrics, report, model, warnings and overhead of a run.

    A run that kfp calls successful becomes a failed one where a task was skipped without a word, or where a task did
    not leave an output that it declares.

    Args:
        record: The record to fill in.
        folder: The run's folder.
    """
    specified = _specified(folder)
    tasks = {name: TaskRecord(name) for name in specified}
    for name, task in tasks.items():
        _fill(task, folder / "stages" / f"{name}.json")
        _verify(task, folder, specified[name].outputs)
        task.error = _in_terms_of_the_pipeline(task.error, specified[name])
    record.tasks = sorted(tasks.values(), key=lambda task: (task.started == "", task.started))
    record.warnings = [f"{task.name}: {warning}" for task in record.tasks for warning in task.warnings]
    record.overhead_seconds = round(max(record.seconds - sum(task.seconds for task in record.tasks), 0.0), 2)
    for task in record.tasks:
        _lift(record, task)
    _keep_report(record, folder)
    _judge(record, folder)


@dataclass(frozen=True)
class _Task:
    """What the compiled pipeline says of a task.

    Attributes:
        outputs: Outputs that must be files or folders.
        parameters: Input to the pipeline's parameter that it comes from.
        switches: Inputs that are true or false.
    """

    outputs: list[str]
    parameters: dict[str, str]
    switches: set[str]


def specification(folder: Path) -> dict[str, Any]:
    """Returns the compiled pipeline of a run, without what it says of pods.

    Raises:
        OSError: It is not there.
        yaml.YAMLError: It is damaged.
        StopIteration: It has no pipeline in it.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents = yaml.load_all((folder / "pipeline.yaml").read_text(encoding="utf-8"), loader)
    return next(document for document in documents if "root" in document)


def _specified(folder: Path) -> dict[str, _Task]:
    if not (folder / "pipeline.yaml").exists():
        return {}
    spec = specification(folder)
    found = {}
    for name, task in spec["root"]["dag"]["tasks"].items():
        component = spec["components"][task["componentRef"]["name"]]
        outputs = component.get("outputDefinitions", {}).get("artifacts", {})
        kinds = component.get("inputDefinitions", {}).get("parameters", {})
        inputs = task.get("inputs", {}).get("parameters", {})
        found[name] = _Task(
            [output for output, kind in outputs.items() if kind["artifactType"]["schemaTitle"] not in _WITHOUT_FILES],
            {key: at["componentInputParameter"] for key, at in inputs.items() if "componentInputParameter" in at},
            {key for key, kind in kinds.items() if kind["parameterType"] == "BOOLEAN"},
        )
    return found


def _in_terms_of_the_pipeline(error: str, task: _Task) -> str:
    """Lets a stage's error name the pipeline's parameters, which people can change, in place of the stage's inputs."""
    if not task.parameters:
        return error
    names = "|".join(map(re.escape, task.parameters))
    options = names.replace("_", "-")
    said = (
        rf"(?<=Expected `)(?P<field>{names})(?=` )|(?<![\w.])--(?P<option>{options})\b|(?<![\w.`])(?P<value>{names})="
    )

    def replaced(match: re.Match[str]) -> str:
        name = match["field"] or match["value"] or match["option"].replace("-", "_")
        parameter = task.parameters[name]
        if match["option"]:
            return f"-p {parameter}={'true' if name in task.switches else '...'}"
        return parameter if match["field"] else f"{parameter}="

    return re.sub(said, replaced, error)


def _fill(task: TaskRecord, path: Path) -> None:
    try:
        values: dict[str, Any] = read_json(path, "stage record")
    except FerryError:  # it never began, or a full disk left nothing
        return
    task.status = values["status"]
    task.started = iso(values["started"])
    ended = values["ended"]
    task.seconds = round(ended - values["started"], 2) if ended else 0.0
    task.exit_code, task.error = values["exit_code"], values["error"]
    task.warnings, task.facts, task.checkpoints = values["warnings"], values["facts"], values.get("checkpoints", [])
    if task.status == "running":
        task.status, task.exit_code = "failed", RetryableError.exit_code
        task.error = (
            "The stage was killed, perhaps because memory ran out. "
            "Run the same command again to continue from its last checkpoint."
        )


def _verify(task: TaskRecord, folder: Path, declared: list[str]) -> None:
    """Finds the outputs of a task; one that is missing makes it a failed one."""
    left = sorted((folder / "artifacts").glob(f"*/{task.name}/executor_output.json"))
    uris = _uris(left[-1]) if left else None
    if uris is not None:
        task.artifacts = {name: uri for name, uri in uris.items() if Path(uri).exists()}
        if task.status == "skipped":  # it ran, but left no record of its own
            task.status = "done"
    missing = [name for name in declared if name not in task.artifacts]
    if task.status == "done" and (missing or uris is None):
        task.status, task.exit_code = "failed", 1
        task.error = f"The stage ended without an error but did not leave its output {', '.join(missing) or 'record'}."


def _uris(output: Path) -> dict[str, str] | None:
    """Returns where a task left its outputs, or None where kfp's executor could not finish writing that down."""
    try:
        values = json.loads(output.read_text(encoding="utf-8"))
        return {name: entry["artifacts"][0]["uri"] for name, entry in values.get("artifacts", {}).items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _lift(record: RunRecord, task: TaskRecord) -> None:
    """Moves the facts that readers of ``run.json`` look for from the task to the run."""
    for name in ("metrics", "model"):
        if name in task.facts:
            setattr(record, name, task.facts.pop(name))
    if "report" in task.artifacts:
        record.report = task.artifacts["report"]


def _keep_report(record: RunRecord, folder: Path) -> None:
    """Copies the report to where people look for it, under a name that a browser opens."""
    if not record.report or not Path(record.report).is_file():
        return
    target = folder / "report.html"
    try:
        shutil.copyfile(record.report, target)
    except OSError:  # a full disk: the artifact itself is still there
        return
    record.report = str(target)


def _judge(record: RunRecord, folder: Path) -> None:
    failed = next((task for task in record.tasks if task.status == "failed"), None)
    skipped = [task.name for task in record.tasks if task.status == "skipped"]
    if record.status == "done":
        if failed is not None:
            record.status = "failed"
        elif skipped or not record.tasks or _says_skipped(record):
            what = ", ".join(skipped) or "a condition"
            record.end("failed", f"The local runner skipped {what} without an error.", 1)
    if record.status != "failed":
        return
    if failed is not None:
        record.error, record.exit_code = failed.error, failed.exit_code
    elif record.tasks and record.exit_code == 1:
        record.error = _last_error(_end_of_log(record)) or record.error
    if shutil.disk_usage(folder).free < _FULL and record.exit_code != 2:
        record.exit_code = RetryableError.exit_code
        record.error = (
            f"Expected `disk` to have room for {folder}, but got a full one. "
            "Free some space and run the same command again; what was finished before is kept."
        )


def _says_skipped(record: RunRecord) -> bool:
    if not Path(record.log).is_file():
        return False
    with open(record.log, encoding="utf-8", errors="replace") as lines:
        return any(sign in line for line in lines for sign in _SILENT_SKIPS)


def _end_of_log(record: RunRecord) -> str:
    path = Path(record.log)
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - _LOG_END, 0))
        return file.read().decode("utf-8", errors="replace")


def _last_error(log: str) -> str:
    """Returns the last line of a traceback in a log, for a stage that failed before it could say why itself."""
    found = [match[1] for match in map(_ERROR_LINE.match, log.splitlines()) if match]
    ours = [line for line in found if not line.startswith("RuntimeError: Pipeline ")]
    return ours[-1][:500] if ours else ""
