"""Runs pipelines on this machine: one home, one run at a time, every run recorded in ``run.json``."""

from .home import Home
from .local import RunFailed, RunResult, run_local
from .record import RunRecord, TaskRecord, load_record

__all__ = ["Home", "RunFailed", "RunRecord", "RunResult", "TaskRecord", "load_record", "run_local"]
