"""torchrun, without its table of tracebacks: what the processes have to say stands in their answers.

Takes torchrun's own options and its ``PET_*`` variables, which Kubeflow's Trainer sets.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from ...common.errors import RetryableError
from .calls import Answer

GRACE_VARIABLE = "FERRY_GRACE_SECONDS"
"""Environment variable: how long processes may take to write a checkpoint after an interrupt."""

_MEETING_SECONDS = 1800
"""How long machines wait for each other: nodes may have to be made, and images to be pulled."""


def main(arguments: list[str]) -> int:
    """Runs the processes to their end.

    Args:
        arguments: As for torchrun; the last one is the folder of the call.

    Returns:
        0 where all ended well, 1 where one failed, 75 where they were stopped or did not find each other.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    options = ["--rdzv-conf", f"timeout={_MEETING_SECONDS}"]
    if "--shutdown-timeout" in run.get_args_parser().format_help():  # not in older versions, which give 30 s
        options += ["--shutdown-timeout", os.environ.get(GRACE_VARIABLE, "30")]
    try:
        run.run(run.parse_args([*options, *arguments]))
    except ChildFailedError:
        return 1
    except SignalException:
        return RetryableError.exit_code
    except Exception as error:  # before the processes were there: the machines have not met
        _not_met(Path(arguments[-1]), error)
        return RetryableError.exit_code
    return 0


def _not_met(folder: Path, error: Exception) -> None:
    first = int(os.environ.get("PET_NODE_RANK", "0")) * int(os.environ.get("PET_NPROC_PER_NODE", "1"))
    place = f"{os.environ.get('PET_MASTER_ADDR', 'this machine')}:{os.environ.get('PET_MASTER_PORT', '')}".rstrip(":")
    said = " ".join(str(error).split())[:300] or type(error).__name__
    fix = "A machine did not start in time, or a network policy keeps them apart. Run it again."
    message = f"Expected `machines` to meet at {place}, but got '{said}'. {fix}"
    Answer(first, RetryableError.__name__, message).save(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
