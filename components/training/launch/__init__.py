"""One training in several processes: torchrun on this machine, a TrainJob of Kubeflow's Trainer for several."""

from __future__ import annotations

from .launch import PROCESSES_VARIABLE, TRAINJOB_VARIABLE, launch, processes_wanted

__all__ = ["PROCESSES_VARIABLE", "TRAINJOB_VARIABLE", "launch", "processes_wanted"]
