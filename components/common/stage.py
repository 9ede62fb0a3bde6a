"""What every stage of a pipeline does around its work: logging, times, warnings, and errors that people can read."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from .checkpoints import given_paths
from .errors import FerryError, RetryableError, of_the_system
from .files import write_json

FOLDER_VARIABLE = "FERRY_STAGE_FOLDER"
"""Environment variable: where stages leave their records for the runner (one JSON file a stage)."""

RUNNER_VARIABLE = "FERRY_RUNNER_PID"
"""Environment variable: process without which a stage must not go on; empty where the system itself sees to that."""

ALIVE_VARIABLE = "FERRY_RUNNER_LOCK"
"""Environment variable: file that the runner keeps locked, for stages that cannot see its process."""

_LOOK_EVERY = 1.0

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
        checkpoints: Paths of the checkpoints that the stage may have written.
        pid: Its process.
    """

    name: str
    status: str = "running"
    started: float = 0.0
    ended: float | None = None
    exit_code: int = 0
    error: str = ""
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    checkpoints: list[str] = field(default_factory=list)
    pid: int = field(default_factory=os.getpid)

    def warn(self, message: str) -> None:
        """Logs a warning and keeps it for the run's record."""
        logger.warning(message)
        self.warnings.append(message)

    def write(self) -> None:
        """Leaves the record for the runner, where one watches; a full disk must not hide how the work ended."""
        folder = os.environ.get(FOLDER_VARIABLE)
        if not folder:
            return
        try:
            write_json(Path(folder) / f"{self.name}.json", asdict(self))
        except (FerryError, OSError) as error:
            logger.error("%s: its record could not be written. %s", self.name, error)


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
    error keeps its traceback in the log. What the system refuses gets a message and an exit code like Ferry's own.

    Args:
        name: The stage's name, unique within a run.

    Yields:
        The record, to which the work adds warnings and facts.

    Raises:
        SystemExit: The work failed; the code says whether a retry can help.
    """
    log_to_stderr()
    follow_runner()
    record = StageRecord(name=name, started=time.time())
    before = len(given_paths())
    record.write()
    logger.info("%s: started", name)
    try:
        with sigterm_interrupts():
            yield record
        record.status = "done"
    except FerryError as error:
        _fail(record, error.exit_code, str(error))
    except KeyboardInterrupt:
        _fail(record, RetryableError.exit_code, f"{name} was interrupted; run the same command again to continue.")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        _fail(record, code or 1, f"{name} ended itself with {error.code!r} before its work was done.")
    except OSError as error:
        traceback.print_exc()
        problem = of_the_system(error)
        _fail(record, problem.exit_code, str(problem))
    except Exception as error:
        traceback.print_exc()
        _fail(record, 1, f"{type(error).__name__}: {error}".rstrip(": "))
    finally:
        record.ended = time.time()
        record.checkpoints = [str(path) for path in given_paths()[before:]]
        record.write()
    if record.status == "failed":
        logger.error("%s: failed. %s", name, record.error)
        raise SystemExit(record.exit_code)
    logger.info("%s: done in %.1f s", name, record.ended - record.started)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Lets SIGTERM end the work as Ctrl-C does, so that it can say so; the training loop has its own grace."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def follow_runner() -> None:
    """Ends this process when the runner's is gone: nobody would read the result, and a new run may be at work."""
    runner, lock = int(os.environ.get(RUNNER_VARIABLE) or 0), os.environ.get(ALIVE_VARIABLE, "")
    gone = partial(_is_gone, runner) if runner else partial(_is_free, lock) if lock else None
    if gone is not None:
        threading.Thread(target=_wait_until, args=(gone,), name="ferry-runner-watch", daemon=True).start()


def _wait_until(gone: Callable[[], bool]) -> None:
    while not gone():
        time.sleep(_LOOK_EVERY)
    os._exit(RetryableError.exit_code)


def _is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # alive, of another user
        pass
    return False


def _is_free(lock: str) -> bool:
    """Tells whether nobody holds a file's lock any more."""
    try:
        with open(lock, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held; or not to be seen, which says nothing
        return False
    return True


def _fail(record: StageRecord, code: int, message: str) -> None:
    record.status, record.exit_code, record.error = "failed", code, message
