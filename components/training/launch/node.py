"""What the pods of a TrainJob do: fetch the call, train under torchrun, hand the results back.

Kubeflow's Trainer says in ``PET_*`` variables how many machines there are, which one this is, and where the first is. A
pod that has handed back an answer ends well whatever the answer says: a failed one would be started again, up to six
times, by rules that Trainer's runtimes leave to Kubernetes. One that is started again all the same, since its machine
or its memory went, does not train: the others have lost it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ...common.errors import FerryError, Interrupted, RetryableError
from ...common.stage import StageRecord, stage
from .calls import Answer, answers, kind_of, settle
from .exchange import Exchange
from .processes import torchrun


def main(uri: str) -> int:
    """Does this machine's part of a call.

    Args:
        uri: Where the call lies.

    Returns:
        The exit code: 0 where an answer was handed back.

    Raises:
        SystemExit: There is no answer; the code says whether a retry can help.
    """
    number = int(os.environ.get("PET_NODE_RANK", "0"))
    processes = int(os.environ.get("PET_NPROC_PER_NODE", "1"))
    with stage(f"machine {number}") as record, tempfile.TemporaryDirectory(prefix="ferry-node-") as place:
        _work(Exchange(uri), Path(place), number, processes, record)
    return 0


def _work(exchange: Exchange, folder: Path, number: int, processes: int, record: StageRecord) -> None:
    before = number * processes
    output = folder / "none"
    try:
        if not exchange.begin(number):
            raise RetryableError(
                f"Expected `machine` to stay to the end, but got machine {number} of the TrainJob started anew: its "
                "node or its memory went. Give it more memory, or run the stage again."
            )
        call = exchange.fetch_call(folder)
        call.save(folder)
        output = Path(call.output)
        found = torchrun(folder, [], processes)
        settle([replace(answer, rank=answer.rank - before) for answer in found], processes, record)
    except Interrupted:  # nobody waits for an answer any more
        raise
    except FerryError as error:
        record.warn(f"machine {number}: {error}")
        if not answers(folder):
            Answer(before, kind_of(error), str(error)).save(folder)
    exchange.send_results(folder, output)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
