"""The process in which kfp's local runner executes one pipeline; started by :mod:`.local`, never by hand.

It stands alone so that an interrupt reaches the stages and not kfp, and so that everything that is printed lands in
the run's log file.
"""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path

from ...common.files import read_json, write_json


def main(request_path: str) -> int:
    """Runs the compiled pipeline that the request names.

    Args:
        request_path: JSON with ``package`` (compiled YAML), ``arguments``, ``pipeline_root`` and ``outcome`` (where to
            write whether kfp reported success).

    Returns:
        0 where kfp reported success, else 1.
    """
    # The runner in the parent process decides when stages stop; this process only waits for them.
    # A handler and not SIG_IGN, which the stages would inherit.
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: None)
    request = read_json(request_path, "request")
    warnings.filterwarnings("ignore", category=RuntimeWarning, message="You may be attemping to run a task")
    from kfp import components, local

    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=request["pipeline_root"],
        raise_on_error=True,
    )
    pipeline = components.load_component_from_file(request["package"])
    error = ""
    try:
        pipeline(**request["arguments"])
    except Exception as problem:  # kfp raises RuntimeError with a line of its own; ours come from the stages' records
        error = f"{type(problem).__name__}: {problem}"
        print(error, flush=True)
    write_json(Path(request["outcome"]), {"error": error})
    return 1 if error else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
