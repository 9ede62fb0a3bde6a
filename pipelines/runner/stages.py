"""Starts the stages of a run: forks of one process that has imported torch once, instead of a new Python for each.

A stage that starts anew spends five to ten seconds of processor time on imports before it does anything. The program
of a stage, its arguments and its outputs are those of kfp's own runner: only the start of the process differs. Where
forking is not safe (everywhere but on Linux), or kfp's command is not the known one, kfp starts the stage itself.
"""

from __future__ import annotations

import builtins
import faulthandler
import logging
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...common.errors import RetryableError
from ...common.stage import RUNNER_VARIABLE
from .lifeline import end_with

FRESH_VARIABLE = "FERRY_FRESH_STAGES"
"""Environment variable: ``1`` starts a new Python for every stage, as kfp does."""

GO = "go"
"""What the runner writes to the executing process when the place is ready; its environment may have grown by then."""

_EXECUTOR = "kfp.dsl.executor_main"
_PRINT = builtins.print  # kfp indents what is printed while a stage runs, by replacing print


class Stop:
    """Whether somebody has asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False

    def listen(self) -> None:
        """Remembers SIGINT and SIGTERM; the stage at work gets them too and ends first.

        With handlers and not SIG_IGN, which stages would inherit.
        """
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, self._remember)

    def _remember(self, *_: object) -> None:
        self.requested = True


def modules_of(package: str, tracking_uri: str) -> list[str]:
    """Returns the modules that stages of a compiled pipeline import, and that are worth importing once for all.

    Args:
        package: The compiled YAML.
        tracking_uri: Where MLflow is; its database layer alone takes seconds.
    """
    found = sorted(set(re.findall(r"ferry\.\w+\.stage\b", package)) - {"ferry.common.stage"})
    if not found:
        return []
    found += ["ferry.faces.readers", "torch._dynamo", "mlflow"]
    if tracking_uri.startswith("sqlite"):
        found += ["mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"]
    return found


def preload(names: Sequence[str]) -> None:
    """Imports modules, so that forks need not."""
    for name in names:
        try:
            import_module(name)
        except Exception as error:  # the stage that needs it will say so
            logging.getLogger("ferry").warning("%s could not be imported: %s", name, error)


def install(stop: Stop) -> None:
    """Makes kfp's local runner start stages through this module.

    Args:
        stop: No stage is started once it is requested.
    """
    from kfp.local import subprocess_task_handler as handler

    theirs: Callable[..., int] = handler.run_local_subprocess
    forking = sys.platform == "linux" and os.environ.get(FRESH_VARIABLE, "") != "1"

    def run(full_command: list[str], env_vars: Mapping[str, str] | None = None) -> int:
        if stop.requested:
            return RetryableError.exit_code
        if forking and is_known(full_command) and not _gpu_in_use():
            return run_forked(full_command[3], full_command[4:], env_vars or {})
        return theirs(full_command=full_command, env_vars=env_vars)

    handler.run_local_subprocess = run


def _gpu_in_use() -> bool:
    """Tells whether this process has a CUDA context, which forks could not use; importing torch alone makes none."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def is_known(command: Sequence[str]) -> bool:
    """Tells whether a command is that of a lightweight component: shell, script, program text, arguments."""
    if len(command) < 5 or command[0] != "sh" or "pip install" in command[2]:
        return False
    return _EXECUTOR in command[2] and 'printf "%s" "$0" > "$program_path/ephemeral_component.py"' in command[2]


def run_forked(program: str, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs a lightweight component in a fork of this process; returns its exit code, 128 + N after signal N.

    Args:
        program: Text of the component's module.
        arguments: Arguments of kfp's executor.
        environment: Further environment variables.
    """
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_work, args=(program, list(arguments), dict(environment), os.getpid()))
    process.start()
    process.join()
    code = process.exitcode or 0
    if code < 0:
        _PRINT(f"The stage was ended by {signal.Signals(-code).name}.", flush=True)
        return 128 - code
    return code


def _work(program: str, arguments: list[str], environment: dict[str, str], parent: int) -> None:
    if end_with(parent):
        os.environ.pop(RUNNER_VARIABLE, None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable()
    builtins.print = _PRINT
    logging.getLogger().handlers.clear()
    os.environ.update(environment)
    from kfp.dsl.executor_main import executor_main

    with TemporaryDirectory(prefix="ferry-stage-") as folder:
        path = Path(folder) / "ephemeral_component.py"
        path.write_text(program, encoding="utf-8")
        sys.argv = [_EXECUTOR, "--component_module_path", str(path), *arguments]
        executor_main()
