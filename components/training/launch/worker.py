"""One process of a training: does the call as torchrun's environment says, and leaves an answer."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path

from ...common.checkpoints import given_paths
from ...common.errors import FerryError, Interrupted
from ...common.files import write_text
from ...common.stage import StageRecord, follow_runner, log_to_stderr, sigterm_interrupts
from ..nesting import OUTPUT_VARIABLE
from .calls import PROCESS_FILES, Answer, Call, kind_of


def main(folder: str) -> int:
    """Does the call of a folder.

    Processes other than the first train along; what they would write goes into a folder that is thrown away.

    Args:
        folder: Where the call is, and the answer goes.

    Returns:
        The exit code.
    """
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        os.environ["FERRY_LOG_LEVEL"] = "ERROR"  # the first process speaks for all
    log_to_stderr()
    follow_runner()
    write_text(Path(folder) / f"{PROCESS_FILES}{rank}", str(os.getpid()))
    record, kind, message, code = StageRecord(name="worker"), "", "", 0
    try:
        with sigterm_interrupts(), tempfile.TemporaryDirectory(prefix="ferry-rank-") as scratch:
            call = Call.load(Path(folder))
            os.environ[OUTPUT_VARIABLE] = call.address
            output = str(Path(scratch) / "output") if rank else call.output
            call.resolve()(call.inputs, output, record, **call.arguments)
    except FerryError as error:
        kind, message, code = kind_of(error), str(error), error.exit_code
    except KeyboardInterrupt:
        kind, message, code = Interrupted.__name__, "The training was interrupted.", Interrupted.exit_code
    except Exception as error:
        traceback.print_exc()
        kind, message, code = kind_of(error), f"{type(error).__name__}: {error}".rstrip(": "), 1
    made = [str(path) for path in given_paths()]
    Answer(rank, kind, message, 0.0, record.warnings, record.facts, made).save(Path(folder))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
