"""How a source model is made from labelled faces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import SourceConfig

if TYPE_CHECKING:
    from .supervised import train_supervised as train_supervised

__all__ = ["SourceConfig", "train_supervised"]


def __getattr__(name: str) -> Any:
    if name == "train_supervised":
        from .supervised import train_supervised

        return train_supervised
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
