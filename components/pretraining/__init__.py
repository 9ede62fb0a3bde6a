"""Self-supervised pretraining on the unlabelled target: SwAV, DeepClusterV2, and a watch for their collapse."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .config import FOREVER, PretrainingConfig, preset, resolve, suggest_prototypes

if TYPE_CHECKING:
    from .collapse import CollapseWatch as CollapseWatch
    from .deepcluster import DeepClusterV2 as DeepClusterV2
    from .pretrain import Pretrained as Pretrained
    from .pretrain import pretrain as pretrain
    from .sinkhorn import sinkhorn as sinkhorn
    from .swav import SwAV as SwAV

_HOMES = {
    "CollapseWatch": "collapse",
    "DeepClusterV2": "deepcluster",
    "Pretrained": "pretrain",
    "SwAV": "swav",
    "pretrain": "pretrain",
    "sinkhorn": "sinkhorn",
}

__all__ = [
    "FOREVER",
    "CollapseWatch",
    "DeepClusterV2",
    "Pretrained",
    "PretrainingConfig",
    "SwAV",
    "preset",
    "pretrain",
    "resolve",
    "sinkhorn",
    "suggest_prototypes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
