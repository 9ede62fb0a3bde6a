"""Runs a pipeline on this machine through kfp's local runner, with the duties that it leaves to its caller.

kfp's runner reports success for a run whose tasks it skipped, hides a task's error in its output, and knows no
interrupts. So the run happens in a process of its own; this module prepares the place, watches, verifies that every
task left what it promised, and writes ``run.json``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.errors import FerryError, RetryableError, UserError
from ...common.files import digest_of, read_json, write_json, write_text
from ...common.progress import STATE_VARIABLE
from ...common.stage import FOLDER_VARIABLE
from ..catalogue import PipelineInfo, checked_parameters, compile_pipeline
from .collect import collect
from .home import Home
from .record import RunRecord, now, package_versions
from .watch import Watch

GRACE_SECONDS = 60.0
"""How long stages may take to write a checkpoint after an interrupt."""


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
        raise UserError(f"Expected `artifact` to be one of {', '.join(known)}, but got '{task}/{output}'. Choose one.")


def run_local(
    pipeline: PipelineInfo,
    parameters: Mapping[str, Any],
    home: Home,
    *,
    say: Callable[[str], None] | None = None,
) -> RunResult:
    """Runs a pipeline and returns when it has ended.

    Args:
        pipeline: The pipeline, from :func:`ferry.pipelines.catalogue.find`.
        parameters: Values for its parameters; the others keep their defaults.
        home: Where the run is recorded.
        say: Receives lines for people; None is silent.

    Returns:
        The finished run.

    Raises:
        UserError: A parameter is unknown or wrong.
        RetryableError: Another run holds the home, or the run was interrupted.
        RunFailed: A stage failed; ``run.json`` and the log say why.
    """
    values = checked_parameters(pipeline, parameters)
    with home.lock():
        folder = home.new_run(pipeline.name)
        record = RunRecord(
            id=folder.name,
            pipeline=pipeline.name,
            parameters=values,
            seed=int(values.get("seed", 0)),
            started=now(),
            versions=package_versions(),
            log=str(folder / "log.txt"),
        )
        record.write(folder)
        began = time.time()
        try:
            record.mlflow = _open_tracking(home, record)
            _execute(pipeline, values, home, folder, record, say or (lambda _: None))
        except KeyboardInterrupt:
            record.status, record.exit_code = "interrupted", RetryableError.exit_code
            record.error = "The run was interrupted. Run the same command again to continue where it stopped."
        except BaseException as error:
            record.status, record.error = "failed", str(error)
            record.exit_code = getattr(error, "exit_code", 1)
            raise
        finally:
            record.seconds = round(time.time() - began, 2)
            collect(record, folder)
            _close_tracking(record)
            record.write(folder)
    if record.status != "done":
        raise RunFailed(_failure(record), record.exit_code or 1, folder)
    return RunResult(folder, record)


def _execute(
    pipeline: PipelineInfo,
    values: dict[str, Any],
    home: Home,
    folder: Path,
    record: RunRecord,
    say: Callable[[str], None],
) -> None:
    stages = folder / "stages"
    stages.mkdir()
    package = folder / "pipeline.yaml"
    write_text(package, compile_pipeline(pipeline))
    request = folder / "request.json"
    write_json(
        request,
        {
            "package": str(package),
            "arguments": values,
            "pipeline_root": str(folder / "artifacts"),
            "outcome": str(folder / "outcome.json"),
        },
    )
    environment = {
        **os.environ,
        **_environment(home, record, folder),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    with open(record.log, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ferry.pipelines.runner.execute", str(request)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            with Watch(stages, folder / "progress.json", say) as watch, _signals_as_interrupt():
                while process.poll() is None:
                    watch.look()
                    time.sleep(0.1)
                watch.look()
        except KeyboardInterrupt:
            say("Interrupted: waiting for the stage to write its checkpoint ...")
            _stop(process)
            raise
    outcome = folder / "outcome.json"
    error = read_json(outcome, "outcome")["error"] if outcome.exists() else f"exit code {process.returncode}"
    record.status, record.error = ("failed", error) if error else ("done", "")


def _environment(home: Home, record: RunRecord, folder: Path) -> dict[str, str]:
    variables = {
        FOLDER_VARIABLE: str(folder / "stages"),
        STATE_VARIABLE: str(folder / "progress.json"),
        "FERRY_CACHE": os.environ.get("FERRY_CACHE", str(home.cache)),
        "FERRY_CHECKPOINTS": str(home.checkpoints),
        "FERRY_SPOOL": str(home.root / "spool"),
        "FERRY_RUN_ID": record.id,
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore"),
        "MLFLOW_TRACKING_URI": record.mlflow.get("tracking_uri", ""),
        "MLFLOW_RUN_ID": record.mlflow.get("run_id", ""),
        "GIT_PYTHON_REFRESH": "quiet",
    }
    return {name: value for name, value in variables.items() if value}


def _open_tracking(home: Home, record: RunRecord) -> dict[str, str]:
    """Prepares the MLflow store once, before stages write to it at the same time, and opens the run's MLflow run."""
    from ...training import runs

    uri = home.tracking_uri
    run_id = runs.open_run(uri, record.pipeline, record.id, record.parameters, home.root / "mlartifacts")
    return {"tracking_uri": uri, "run_id": run_id}


def _close_tracking(record: RunRecord) -> None:
    from ...training import runs

    if record.mlflow.get("run_id"):
        runs.close_run(record.mlflow["tracking_uri"], record.mlflow["run_id"], record.status == "done")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Asks the stages to stop, waits while they write their checkpoints, then ends what is left."""
    for name, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, name)
            process.wait(patience)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        except KeyboardInterrupt:  # a second Ctrl-C: no more patience
            continue


class _signals_as_interrupt:  # noqa: N801 - reads as a context manager
    """Lets SIGTERM, which a scheduler sends, end the run as Ctrl-C does."""

    def __enter__(self) -> None:
        self._before: Any = None
        try:
            self._before = signal.signal(signal.SIGTERM, _interrupt)
        except ValueError:  # not in the main thread: the caller owns the signals
            pass

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _failure(record: RunRecord) -> str:
    failed = next((task for task in record.tasks if task.status == "failed"), None)
    message = failed.error if failed and failed.error else record.error
    where = f"Stage {failed.name}: " if failed else ""
    return f"{where}{message}\nLog: {record.log}"


__all__ = ["RunFailed", "RunResult", "digest_of", "run_local"]
