"""Adaptation to the target: AdaBN, and CluP's fine-tuning on pseudo-labels."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .config import FinetuningConfig

if TYPE_CHECKING:
    from .adabn import adabn as adabn
    from .clup import fine_tune as fine_tune
    from .clup import start_network as start_network

_HOMES = {"fine_tune": "clup", "start_network": "clup"}

__all__ = ["FinetuningConfig", "fine_tune", "start_network"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
