"""What a run leaves behind for people and programs: ``run.json``."""

from __future__ import annotations

import logging
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...common.errors import FerryError
from ...common.files import read_json, write_json
from ...common.parameters import from_mapping

logger = logging.getLogger("ferry")

_PACKAGES = ("ferry-fer", "torch", "torchvision", "kfp", "mlflow", "numpy", "pyarrow", "scikit-learn")


@dataclass
class TaskRecord:
    """One task of a run.

    Attributes:
        name: Name within the pipeline.
        status: ``done``, ``failed``, or ``skipped`` where the run ended before it.
        started: Start of the work (ISO 8601, UTC, to the millisecond), or empty.
        seconds: Seconds of work, without starting Python and handing over.
        exit_code: Exit code of the stage.
        error: Message of the stage, where it failed.
        warnings: What people should know.
        facts: Small results.
        artifacts: Output name to path.
        checkpoints: Checkpoints from which the same command would continue; removed when the whole run is done.
    """

    name: str
    status: str = "skipped"
    started: str = ""
    seconds: float = 0.0
    exit_code: int = 0
    error: str = ""
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    checkpoints: list[str] = field(default_factory=list)


@dataclass
class RunRecord:
    """One run.

    Attributes:
        id: Name of the run's folder.
        pipeline: Name of the pipeline.
        parameters: Every parameter with the value that was used.
        seed: The seed, also among the parameters.
        status: ``running``, ``done``, ``failed``, ``interrupted`` or ``killed``.
        started: Start (ISO 8601, UTC).
        seconds: Wall time of the whole run.
        overhead_seconds: Wall time that was spent outside stages' work: starting them and handing over.
        tasks: The tasks, in the order of the pipeline.
        metrics: Row name (``source``, ``adabn``, ``adapted``) to metrics.
        report: Path of the HTML report, or empty.
        model: Registered model: name, version, URI; empty where none was registered.
        mlflow: Tracking URI and run id.
        versions: Versions of Python and of the packages that determine results.
        warnings: Warnings of all tasks.
        error: Why the run failed, for people.
        exit_code: Exit code of the command.
        log: Path of the log file.
        on: Where its stages ran: ``local`` or ``docker``.
    """

    id: str
    pipeline: str
    parameters: dict[str, Any]
    seed: int = 0
    status: str = "running"
    started: str = ""
    seconds: float = 0.0
    overhead_seconds: float = 0.0
    tasks: list[TaskRecord] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    report: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    mlflow: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    exit_code: int = 0
    log: str = ""
    on: str = "local"

    def end(self, status: str, error: str = "", exit_code: int = 0) -> None:
        """Says how the run ended."""
        self.status, self.error, self.exit_code = status, error, exit_code

    def write(self, folder: Path) -> None:
        """Writes ``run.json`` into the run's folder, crash-safely."""
        write_json(folder / "run.json", asdict(self))

    def write_if_possible(self, folder: Path) -> None:
        """Writes ``run.json``; where the disk is full, how the run ended matters more than that error."""
        try:
            self.write(folder)
        except FerryError as error:
            logger.error("%s could not be written: %s", folder / "run.json", error)


def load_record(path: Path | str) -> RunRecord:
    """Reads a ``run.json`` (or the one in a run's folder).

    Raises:
        UserError: There is none, or it is damaged.
    """
    path = Path(path)
    values = read_json(path / "run.json" if path.is_dir() else path, "run.json")
    tasks = [from_mapping(TaskRecord, task, "tasks.") for task in values.pop("tasks", [])]
    record = from_mapping(RunRecord, values)
    record.tasks = tasks
    return record


def now() -> str:
    """Returns the time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def iso(seconds: float) -> str:
    """Returns seconds since the epoch as ISO 8601, UTC, to the millisecond: short stages begin in the same second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that determine a run's results."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found
