"""Runs scripts in forks of one process that has imported torch, which takes longer than most of the scripts do.

Every script has a process of its own, which can be killed for good and may start others.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path


class Preloaded:
    """The process that forks; use as a context."""

    def __enter__(self) -> Preloaded:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def run(self, script: Path, *arguments: str) -> str:
        """Runs a Python script; returns what it printed."""
        self._process.stdin.write(json.dumps([str(script), *arguments]) + "\n")
        self._process.stdin.flush()
        code, printed, errors = json.loads(self._process.stdout.readline())
        assert code == 0, errors
        return printed

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # with whatever a script has left
        self._process.communicate()


def _serve() -> None:
    import torch
    import torch._dynamo  # torch's optimisers import it on first use

    torch.set_num_threads(1)
    gc.freeze()
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as place:
            streams = [Path(place, name) for name in ("stdout", "stderr")]
            child = os.fork()
            if child == 0:
                _be(json.loads(line), streams)
            _, status = os.waitpid(child, 0)
            texts = [stream.read_text() if stream.exists() else "" for stream in streams]
        print(json.dumps([os.waitstatus_to_exitcode(status), *texts]), flush=True)


def _be(command: list[str], streams: list[Path]) -> None:
    """Becomes the process of a script."""
    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = command
    code = 0
    try:
        runpy.run_path(command[0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
