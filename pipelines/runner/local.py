"""Runs a pipeline on this machine through kfp's local runner, with the duties that it leaves to its caller.

kfp's runner reports success for a run whose tasks it skipped, hides a task's error in its output, and knows no
interrupts. So the run happens in a process of its own; this module prepares the place, watches, verifies that every
task left what it promised, and writes ``run.json``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.errors import FerryError, RetryableError, unknown
from ...common.files import write_json, write_text
from ...training.launch import processes_wanted
from ..catalogue import PipelineInfo, checked_parameters, compile_pipeline, with_local_paths
from . import containers
from .collect import collect
from .home import Home
from .process import Executor, stage_environment, termination_interrupts
from .record import RunRecord, now, package_versions
from .settle import close_tracking, open_tracking, remove_checkpoints, settle
from .stages import modules_of
from .sync import unregistered
from .watch import silent

Say = Callable[[str], None]
PLACES = ("local", "docker")
"""Where stages run: as processes of this machine, or in containers on it."""

INTERRUPTED = "The run was interrupted; run the same command again to continue where it stopped."


class RunFailed(FerryError):
    """A run failed; the exit code is that of the stage that failed."""

    def __init__(self, message: str, exit_code: int, folder: Path) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.folder = folder


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: The run's folder.
        record: What ``run.json`` holds.
    """

    folder: Path
    record: RunRecord

    @property
    def metrics(self) -> dict[str, Any]:
        """Row name (``source``, ``adabn``, ``adapted``) to metrics."""
        return self.record.metrics

    @property
    def report(self) -> Path | None:
        """The HTML report."""
        return Path(self.record.report) if self.record.report else None

    def artifact(self, task: str, output: str) -> Path:
        """Returns the path of a task's output.

        Raises:
            UserError: The run has no such task or output.
        """
        for entry in self.record.tasks:
            if entry.name == task and output in entry.artifacts:
                return Path(entry.artifacts[output])
        known = [f"{entry.name}/{name}" for entry in self.record.tasks for name in entry.artifacts]
        raise unknown("artifact", f"{task}/{output}", known)


def run_local(
    pipeline: PipelineInfo, parameters: Mapping[str, Any], home: Home, *, say: Say | None = None, on: str = "local"
) -> RunResult:
    """Runs a pipeline and returns when it has ended.

    Args:
        pipeline: The pipeline, from :func:`ferry.pipelines.catalogue.find`.
        parameters: Values for its parameters; the others keep their defaults.
        home: Where the run is recorded.
        say: Receives lines for people; None is silent.
        on: One of :data:`PLACES`.

    Returns:
        The finished run.

    Raises:
        UserError: A parameter is unknown or wrong, a path does not exist, or an image; nothing was started.
        RetryableError: Another run holds the home, or the MLflow server or the container engine does not answer.
        RunFailed: A stage failed, or the run was interrupted; ``run.json`` and the log say why.
    """
    if on not in PLACES:
        raise unknown("on", on, PLACES)
    values = prepared(pipeline, parameters)
    processes_wanted()  # a wrong number is found before the imports
    with home.lock():
        return run_held(pipeline, values, home, say=say, on=on)


def prepared(pipeline: PipelineInfo, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a value for every parameter, checked as far as it can be before anything runs; paths are absolute.

    Raises:
        UserError: A parameter is unknown or wrong, or a path does not exist.
    """
    return with_local_paths(pipeline, checked_parameters(pipeline, parameters))


def run_held(
    pipeline: PipelineInfo,
    values: Mapping[str, Any],
    home: Home,
    *,
    say: Say | None = None,
    keep_checkpoints: bool = False,
    on: str = "local",
) -> RunResult:
    """Runs a pipeline in a home whose lock the caller holds.

    Args:
        pipeline: The pipeline.
        values: From :func:`prepared`.
        home: Where the run is recorded.
        say: Receives lines for people; None is silent.
        keep_checkpoints: Whether checkpoints outlive a successful run, for a caller that has more to do.
        on: One of :data:`PLACES`.

    Returns:
        The finished run.

    Raises:
        RetryableError: The MLflow server does not answer.
        RunFailed: A stage failed, or the run was interrupted.
    """
    settle(home)
    text = compile_pipeline(pipeline)
    if on == "docker":
        containers.prepare(home, text)
    folder = home.new_run(pipeline.name)
    record = RunRecord(
        id=folder.name,
        pipeline=pipeline.name,
        parameters=dict(values),
        seed=int(values.get("seed", 0)),
        started=now(),
        versions=package_versions(),
        log=str(folder / "log.txt"),
        on=on,
    )
    record.write(folder)
    began = time.monotonic()
    try:
        with termination_interrupts():
            _execute(text, home, folder, record, say or silent)
    except KeyboardInterrupt:
        record.end("interrupted", INTERRUPTED, RetryableError.exit_code)
    except BaseException as error:
        record.end("failed", str(error) or type(error).__name__, getattr(error, "exit_code", 1))
        raise
    finally:
        record.seconds = round(time.monotonic() - began, 2)
        _complete(record, folder, home)
    if record.status != "done":
        raise RunFailed(_failure(record, home), record.exit_code or 1, folder)
    if not keep_checkpoints:
        remove_checkpoints(record, home)
    return RunResult(folder, record)


def _complete(record: RunRecord, folder: Path, home: Home) -> None:
    """Reads what a run has left, writes its record, and takes away what only the run needed."""
    if record.on == "docker":
        with suppress(RetryableError):  # the engine has gone, and its containers with it
            containers.remove_left(home)  # those of a process that had to be killed
    collect(record, folder)
    home.remove_temporary()  # not before: what fills the disk explains why a run failed
    record.write_if_possible(folder)
    close_tracking(record)


def _execute(text: str, home: Home, folder: Path, record: RunRecord, say: Say) -> None:
    """Runs the tasks and puts into the record how kfp says that it ended."""
    say(f"Run {record.id}, log {record.log}")
    for name in ("stages", "artifacts"):  # a container engine would make a missing one, as root
        (folder / name).mkdir()
    package, environment = folder / "pipeline.yaml", stage_environment(home, folder)
    write_text(package, text)
    inside = containers.surroundings(home, folder, record.parameters, environment) if record.on == "docker" else {}
    request = {
        "package": str(package),
        "preload": [] if inside else modules_of(text, home.tracking_uri),
        "containers": inside,
        "arguments": record.parameters,
        "pipeline_root": str(folder / "artifacts"),
        "outcome": str(folder / "outcome.json"),
        "environment": {},
    }
    write_json(folder / "request.json", request)
    with Executor(folder, environment, say) as executor:
        record.mlflow = open_tracking(home, record)  # meanwhile the executor imports torch
        tracking = {"MLFLOW_TRACKING_URI": record.mlflow["tracking_uri"], "MLFLOW_RUN_ID": record.mlflow["run_id"]}
        write_json(folder / "request.json", {**request, "environment": tracking})
        error = executor.run()
    if error:
        record.end("failed", error, 1)
    else:
        record.end("done")


def _failure(record: RunRecord, home: Home) -> str:
    failed = next((task for task in record.tasks if task.status == "failed"), None)
    where = f"Stage {failed.name}: " if failed is not None and record.status == "failed" else ""
    later = f"\nThe model is made and kept: `ferry sync --home {home.root}` registers it when MLflow answers."
    kept = later if unregistered(record) else ""
    return f"{where}{record.error}{kept}\nLog: {record.log}"


__all__ = ["RunFailed", "RunResult", "prepared", "run_held", "run_local"]
