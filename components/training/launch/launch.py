"""Decides where a training runs: in this process, in several of this machine, or on several machines."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...common.errors import expected
from ...common.stage import StageRecord
from .calls import Call

PROCESSES_VARIABLE = "FERRY_PROCESSES"
"""Environment variable: processes of a training on this machine, usually one for each GPU."""

TRAINJOB_VARIABLE = "FERRY_TRAINJOB"
"""Environment variable: JSON that describes the TrainJob that does a stage's training, see :mod:`.trainjob`."""


def launch(
    work: Callable[..., None],
    inputs: Mapping[str, Path | str],
    output: Path | str,
    record: StageRecord,
    **arguments: Any,
) -> None:
    """Does a training on artifacts where the environment says.

    Args:
        work: A function of a module of Ferry, called as ``work(inputs, output, record, **arguments)``; with several
            processes each makes this call, and what all but the first write is thrown away.
        inputs: Folders and files that it reads, by name.
        output: The folder that it makes.
        record: Receives warnings and facts.
        **arguments: What else it is given; what JSON can hold.

    Raises:
        FerryError: As `work` raised it.
        UserError: A variable is wrong.
    """
    if job := os.environ.get(TRAINJOB_VARIABLE, ""):
        from .cluster import run_on_cluster
        from .trainjob import TrainJob

        run_on_cluster(Call.of(work, inputs, output, arguments), TrainJob.parse(job), record)
        return
    processes = processes_wanted()
    if processes == 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        work(inputs, output, record, **arguments)
        return
    from .processes import run_here

    run_here(Call.of(work, inputs, output, arguments), processes, record)


def processes_wanted() -> int:
    """Returns how many processes of this machine a training gets.

    Raises:
        UserError: The variable holds no number.
    """
    text = os.environ.get(PROCESSES_VARIABLE, "")
    if not text:
        return 1
    if not text.isdecimal() or int(text) < 1:
        fix = "Set it to the number of GPUs, or unset it for one process."
        raise expected(PROCESSES_VARIABLE, "a number of processes", text, fix)
    return int(text)
