"""The process that executes a run: started early, told to go, watched, and stopped with grace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from ...common.errors import disk_errors
from ...common.files import read_json
from ...common.progress import STATE_VARIABLE
from ...common.stage import FOLDER_VARIABLE
from .home import Home
from .stages import GO
from .watch import Watch

GRACE_SECONDS = 60.0
"""How long stages may take to write a checkpoint after an interrupt."""

_KILL_SECONDS = 10.0
_LOOK_EVERY = 0.1


class Executor:
    """The process of :mod:`.execute` for one run; leaving the block early stops it and its stages.

    Args:
        folder: The run's folder, with ``request.json``.
        environment: The process's environment.
        say: Receives lines for people.
    """

    def __init__(self, folder: Path, environment: dict[str, str], say: Callable[[str], None]) -> None:
        self.folder, self.environment, self.say = folder, environment, say
        self._going = False

    def __enter__(self) -> Executor:
        command = [sys.executable, "-m", f"{__package__}.execute", str(self.folder / "request.json"), str(os.getpid())]
        with disk_errors(str(self.folder)), open(self.folder / "log.txt", "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,  # Ctrl-C in a terminal reaches the parent alone, which stops it in order
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._stop()
        self._close_input()

    def run(self) -> str:
        """Lets the process begin and watches it until it ends.

        Returns:
            Why kfp says that the run failed; empty where it says that it did not.
        """
        self._going = True
        try:
            if self._process.stdin is not None:
                self._process.stdin.write(f"{GO}\n".encode())
                self._process.stdin.flush()
        except BrokenPipeError:  # it ended before; its log says why
            pass
        with Watch(self.folder / "stages", self.folder / "progress.json", self.say) as watch:
            while self._process.poll() is None:
                watch.look()
                time.sleep(_LOOK_EVERY)
            watch.look()
        outcome = self.folder / "outcome.json"
        if outcome.exists():
            return str(read_json(outcome, "outcome")["error"])
        return f"The process that runs the stages ended early, with {_ending(self._process.returncode)}."

    def _stop(self) -> None:
        """Asks the stages to stop, waits while they write their checkpoints, then ends what is left."""
        steps = [(signal.SIGKILL, _KILL_SECONDS)]
        if self._going:
            self.say("Stopping: the stage at work writes its checkpoint ...")
            steps.insert(0, (signal.SIGTERM, GRACE_SECONDS))
        for name, patience in steps:
            try:
                os.killpg(self._process.pid, name)
                self._process.wait(patience)
                return
            except ProcessLookupError:
                self._process.wait(_KILL_SECONDS)
                return
            except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C: no more patience
                continue

    def _close_input(self) -> None:
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
        except BrokenPipeError:
            pass


def stage_environment(home: Home, folder: Path) -> dict[str, str]:
    """Returns the environment in which the stages of a run work; makes the folder of their temporary files."""
    with disk_errors(str(home.temporary)):
        home.temporary.mkdir(exist_ok=True)
    variables = {
        FOLDER_VARIABLE: str(folder / "stages"),
        STATE_VARIABLE: str(folder / "progress.json"),
        "FERRY_CACHE": os.environ.get("FERRY_CACHE") or str(home.cache),
        "FERRY_CHECKPOINTS": str(home.checkpoints),
        "FERRY_SPOOL": str(home.spool),
        "FERRY_RUN_ID": folder.name,
        "TMPDIR": str(home.temporary),  # a killed stage cannot clear up after itself, and source images may be there
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "PYTHONSAFEPATH": "1",  # a folder called ferry or torch in the current folder is not ours
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS") or "ignore",
        # kfp's command says python3: with the folder of this Python first, it is this one
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    return {**os.environ, **variables}


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Lets SIGTERM, which a scheduler sends, and SIGHUP of a closed terminal end the run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # then the caller owns the signals
        yield
        return
    before: dict[int, Any] = {name: signal.signal(name, _interrupt) for name in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, signal.SIG_DFL if handler is None else handler)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
