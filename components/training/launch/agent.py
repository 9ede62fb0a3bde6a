"""torchrun, without its table of tracebacks: what the processes have to say stands in their answers.

Takes torchrun's own options and its ``PET_*`` variables, which Kubeflow's Trainer sets.
"""

from __future__ import annotations

import logging
import sys


def main(arguments: list[str]) -> int:
    """Runs the processes to their end.

    Args:
        arguments: As for torchrun.

    Returns:
        0 where all ended well, 1 where one failed, 75 where they were stopped.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        run.run(run.parse_args(arguments))
    except ChildFailedError:
        return 1
    except SignalException:
        return 75
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
