"""The process in which kfp's local runner executes one pipeline; started by :mod:`.local`, never by hand.

It stands alone so that an interrupt reaches the stages and not kfp, so that everything that is printed lands in the
run's log file, and so that nothing survives the run: it ends with its parent, and the stages end with it.
"""

from __future__ import annotations

import fcntl
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from ...common.errors import RetryableError
from ...common.files import read_json, write_json
from ...common.stage import RUNNER_VARIABLE
from . import containers, stages
from .lifeline import end_with
from .stages import FRESH_VARIABLE, GO, Stop, preload


def main(request_path: str, parent: int) -> int:
    """Runs the compiled pipeline that the request names.

    While the parent prepares the tracking, this process imports what stages need; it begins when the parent has put
    ``environment`` into the request and written :data:`~.stages.GO` to standard input.

    Args:
        request_path: JSON with ``package`` (compiled YAML), ``arguments``, ``pipeline_root``, ``environment``,
            ``preload`` (modules), ``containers`` (how they are started; empty for processes) and ``outcome`` (where
            to write whether kfp reported success).
        parent: Process that started this one.

    Returns:
        0 where kfp reported success, 75 where the run was stopped before it began, else 1.
    """
    stop = Stop()
    stop.listen()
    end_with(parent)
    warnings.filterwarnings("ignore", category=RuntimeWarning, message="You may be attemping to run a task")
    if os.environ.get(FRESH_VARIABLE, "") != "1":
        preload(read_json(request_path, "request")["preload"])
    from kfp import components, local

    if sys.stdin.readline().strip() != GO or stop.requested:
        return RetryableError.exit_code
    request = read_json(request_path, "request")
    runner: Any
    if request["containers"]:
        alive = _held(Path(request["outcome"]).with_name("alive"))
        runner = containers.runner_of(request["containers"], request["environment"])
        containers.install(stop)
    else:
        alive = None
        os.environ.update({**request["environment"], RUNNER_VARIABLE: str(os.getpid())})
        runner = local.SubprocessRunner(use_venv=False)
        stages.install(stop)
    local.init(runner=runner, pipeline_root=request["pipeline_root"], raise_on_error=True)
    error = ""
    try:
        components.load_component_from_file(request["package"])(**request["arguments"])
    except Exception as problem:  # kfp raises RuntimeError with a line of its own; ours come from the stages' records
        error = f"{type(problem).__name__}: {problem}"
        print(error, flush=True)
    write_json(Path(request["outcome"]), {"error": error})
    if alive is not None:
        os.close(alive)
    return 1 if error else 0


def _held(path: Path) -> int:
    """Locks a file for as long as this process lives; containers see by it that somebody waits for them."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
