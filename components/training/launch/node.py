"""What the pods of a TrainJob do: fetch the call, train under torchrun, hand the results back.

Kubeflow's Trainer says in ``PET_*`` variables how many machines there are, which one this is, and where the first is.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ...common.stage import StageRecord, stage
from .calls import answers, settle
from .exchange import Exchange
from .processes import torchrun


def main(uri: str) -> int:
    """Does this machine's part of a call.

    Args:
        uri: Where the call lies.

    Returns:
        The exit code, 0.

    Raises:
        SystemExit: The work failed; the code says whether a retry can help.
    """
    number = int(os.environ.get("PET_NODE_RANK", "0"))
    processes = int(os.environ.get("PET_NPROC_PER_NODE", "1"))
    with stage(f"machine {number}") as record, tempfile.TemporaryDirectory(prefix="ferry-node-") as place:
        _work(Exchange(uri), Path(place), number, processes, record)
    return 0


def _work(exchange: Exchange, folder: Path, number: int, processes: int, record: StageRecord) -> None:
    call = exchange.fetch_call(folder)
    call.save(folder)
    try:
        torchrun(folder, [], processes)
    finally:
        exchange.send_results(folder, Path(call.output))
    before = number * processes
    settle([replace(answer, rank=answer.rank - before) for answer in answers(folder)], processes, record)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
