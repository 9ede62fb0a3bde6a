"""The ``ferry`` command."""

from __future__ import annotations

import os
import sys
from typing import Any

_TYPERS_INTERRUPT = 130


def main() -> None:
    """Runs the command line and ends the process with an exit code that scripts can trust.

    Codes: 0 success, 2 wrong input, 75 a retry can help (interrupted, disk full, server away), 3 a training diverged,
    1 anything else.
    """
    import typer

    from ...common.errors import FerryError, of_the_system
    from ...common.stage import log_to_stderr
    from .app import app

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    log_to_stderr()
    # Newer versions of typer bring a copy of click, whose errors are not those of click itself.
    usage_error: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        code = app(prog_name="ferry", standalone_mode=False)
        if code == _TYPERS_INTERRUPT:
            raise KeyboardInterrupt
    except FerryError as error:
        print(f"ferry: {error}", file=sys.stderr)
        code = error.exit_code
    except usage_error as error:
        error.show()
        code = error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("ferry: interrupted. Run the same command again to continue.", file=sys.stderr)
        code = 75
    except BrokenPipeError:  # the reader of our output has gone, as in `ferry runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        problem = of_the_system(error)
        print(f"ferry: {problem}", file=sys.stderr)
        code = problem.exit_code
    sys.exit(code or 0)
