"""What every stage of a pipeline does around its work: logging, times, warnings, and errors that people can read."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import FerryError, RetryableError
from .files import write_json

FOLDER_VARIABLE = "FERRY_STAGE_FOLDER"
"""Environment variable: where stages leave their records for the runner (one JSON file a stage)."""

logger = logging.getLogger("ferry")


@dataclass
class StageRecord:
    """What a stage says about itself.

    Attributes:
        name: The stage's name, unique within a run.
        status: ``running``, ``done`` or ``failed``.
        started: Start of the work, seconds since the epoch; imports lie before it.
        ended: End of the work, or None while it runs.
        exit_code: 0, 2 (wrong input), 75 (a retry can help), 3 (diverged) or 1.
        error: The message for people, where the stage failed.
        warnings: What people should know although the stage succeeded.
        facts: Small results worth a line in ``run.json``.
    """

    name: str
    status: str = "running"
    started: float = 0.0
    ended: float | None = None
    exit_code: int = 0
    error: str = ""
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def warn(self, message: str) -> None:
        """Logs a warning and keeps it for the run's record."""
        logger.warning(message)
        self.warnings.append(message)

    def write(self) -> None:
        """Leaves the record for the runner, where one watches."""
        folder = os.environ.get(FOLDER_VARIABLE)
        if folder:
            write_json(Path(folder) / f"{self.name}.json", asdict(self))


def log_to_stderr() -> None:
    """Sends Ferry's log lines to standard error, once, with the time and without decoration."""
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(os.environ.get("FERRY_LOG_LEVEL", "INFO"))
        logger.propagate = False


@contextmanager
def stage(name: str) -> Iterator[StageRecord]:
    """Runs the work of a component.

    A :class:`~ferry.common.errors.FerryError` ends the process with its exit code and its message alone; every other
    error keeps its traceback in the log.

    Args:
        name: The stage's name, unique within a run.

    Yields:
        The record, to which the work adds warnings and facts.

    Raises:
        SystemExit: The work failed; the code says whether a retry can help.
    """
    log_to_stderr()
    record = StageRecord(name=name, started=time.time())
    record.write()
    logger.info("%s: started", name)
    try:
        yield record
        record.status = "done"
    except FerryError as error:
        _fail(record, error.exit_code, str(error))
    except KeyboardInterrupt:
        _fail(record, RetryableError.exit_code, f"{name} was interrupted. Run the same command again to continue.")
    except Exception as error:
        traceback.print_exc()
        _fail(record, 1, f"{type(error).__name__}: {error}")
    finally:
        record.ended = time.time()
        record.write()
    if record.status == "failed":
        logger.error("%s: failed. %s", name, record.error)
        raise SystemExit(record.exit_code)
    logger.info("%s: done in %.1f s", name, record.ended - record.started)


def _fail(record: StageRecord, code: int, message: str) -> None:
    record.status, record.exit_code, record.error = "failed", code, message
