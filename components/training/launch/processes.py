"""Several processes on this machine, as torchrun starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ...common.checkpoints import note_paths
from ...common.errors import Interrupted
from ...common.stage import ALIVE_VARIABLE, RUNNER_VARIABLE, StageRecord
from .agent import GRACE_VARIABLE
from .calls import PROCESS_FILES, Answer, Call, answers, settle

GRACE_SECONDS = 50.0
"""How long processes may take to write a checkpoint after an interrupt."""

_LATER = 4.0
_ALONE = ("--standalone", "--local-addr", "127.0.0.1")


def run_here(call: Call, processes: int, record: StageRecord) -> None:
    """Does a call in several processes of this machine.

    Args:
        call: The call.
        processes: How many.
        record: Receives warnings and facts.

    Raises:
        FerryError: As the process raised it that failed first.
    """
    with tempfile.TemporaryDirectory(prefix="ferry-launch-") as folder:
        call.save(Path(folder))
        found = torchrun(Path(folder), [*_ALONE, "--nproc-per-node", str(processes)], processes)
        settle(found, processes, record)


def torchrun(folder: Path, options: list[str], processes: int) -> list[Answer]:
    """Runs the call of a folder under torchrun.

    Args:
        folder: Folder of the call.
        options: Options of torchrun; what is missing comes from its ``PET_*`` variables.
        processes: Number of processes on this machine.

    Returns:
        What the processes of this machine answered.

    Raises:
        Interrupted: By SIGTERM or Ctrl-C, after the processes were stopped in order.
    """
    package = __package__ or ""
    command = [sys.executable, "-m", f"{package}.agent", *options, "-m", f"{package}.worker", str(folder)]
    # In a session of its own, Ctrl-C in a terminal reaches this process alone, which stops the others in order.
    process = subprocess.Popen(command, env=_environment(os.environ, processes), start_new_session=True)
    try:
        process.wait()
    except KeyboardInterrupt:
        _stop(process, folder)
        said = next((answer.message for answer in _answered(folder) if answer.kind == Interrupted.__name__), "")
        raise Interrupted(said or "The training was interrupted; run the same command again.") from None
    except BaseException:
        _stop(process, folder)
        raise
    return _answered(folder)


def _answered(folder: Path) -> list[Answer]:
    """Returns the answers, and notes the checkpoints that they name for whoever tidies up."""
    found = answers(folder)
    note_paths(path for answer in found for path in answer.checkpoints)
    return found


def _environment(given: Mapping[str, str], processes: int) -> dict[str, str]:
    """Returns the environment of the processes: they share the processors, and end with this process."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, usable // processes))
    ours = {RUNNER_VARIABLE: str(os.getpid()), ALIVE_VARIABLE: "", GRACE_VARIABLE: str(int(GRACE_SECONDS))}
    return {"OMP_NUM_THREADS": threads, **given, **ours}


def _stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Ends torchrun, which ends its processes; for good after a grace."""
    with suppress(ProcessLookupError):
        process.terminate()
        try:
            process.wait(GRACE_SECONDS + _LATER)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for file in folder.glob(f"{PROCESS_FILES}*"):  # they are in sessions of their own
        number = file.read_text(encoding="utf-8")
        with suppress(OSError):
            if str(folder).encode() in Path("/proc", number, "cmdline").read_bytes():  # and not another one by now
                os.kill(int(number), signal.SIGKILL)
