"""The one training loop: batches, precision, devices, distribution, exact resume, schedules, progress and tracking.

Knows no method: a :class:`Method` brings its modules and a ``step``; :func:`train` does everything else. Heavy modules
load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches import Sampler as Sampler
    from .config import LoopConfig as LoopConfig
    from .distributed import all_gather_rows as all_gather_rows
    from .distributed import all_reduce_sum as all_reduce_sum
    from .distributed import convert_sync_batchnorm as convert_sync_batchnorm
    from .distributed import rank as rank
    from .distributed import world_size as world_size
    from .estimate import Estimate as Estimate
    from .estimate import flops_of as flops_of
    from .loop import TrainResult as TrainResult
    from .loop import train as train
    from .method import Batch as Batch
    from .method import Context as Context
    from .method import Method as Method
    from .method import make_batch as make_batch
    from .method import make_context as make_context
    from .optimisers import LARS as LARS
    from .schedules import learning_rate_at as learning_rate_at
    from .tracking import Tracker as Tracker
    from .tracking import open_tracker as open_tracker
    from .tracking import upload_spool as upload_spool

_HOMES = {
    "batches": ("Sampler",),
    "config": ("LoopConfig",),
    "distributed": ("all_gather_rows", "all_reduce_sum", "convert_sync_batchnorm", "rank", "world_size"),
    "estimate": ("Estimate", "flops_of"),
    "loop": ("TrainResult", "train"),
    "method": ("Batch", "Context", "Method", "make_batch", "make_context"),
    "optimisers": ("LARS",),
    "schedules": ("learning_rate_at",),
    "tracking": ("Tracker", "open_tracker", "upload_spool"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 - resolved on first use; kept in the order of the table above
    "Sampler",
    "LoopConfig",
    "all_gather_rows",
    "all_reduce_sum",
    "convert_sync_batchnorm",
    "rank",
    "world_size",
    "Estimate",
    "flops_of",
    "TrainResult",
    "train",
    "Batch",
    "Context",
    "Method",
    "make_batch",
    "make_context",
    "LARS",
    "learning_rate_at",
    "Tracker",
    "open_tracker",
    "upload_spool",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value
