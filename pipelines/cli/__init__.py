"""The ``ferry`` command."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line and ends the process with an exit code that scripts can trust.

    Codes: 0 success, 2 wrong input, 75 a retry can help (interrupted, disk full, server away), 3 a training diverged,
    1 anything else.
    """
    import click

    from ...common.errors import FerryError
    from ...common.stage import log_to_stderr
    from .app import app

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    log_to_stderr()
    try:
        code = app(standalone_mode=False)
    except FerryError as error:
        print(f"ferry: {error}", file=sys.stderr)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("ferry: interrupted. Run the same command again to continue.", file=sys.stderr)
        code = 75
    except BrokenPipeError:  # the reader of our output has gone, as in `ferry runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code or 0)
