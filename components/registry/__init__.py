"""The MLflow registry: versions, model cards, and the aliases that production reads."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .card import ModelCard as ModelCard
    from .card import make_card as make_card
    from .card import read_card as read_card
    from .promotion import Registry as Registry
    from .promotion import Version as Version
    from .promotion import only_model as only_model
    from .register import Registered as Registered
    from .register import pack as pack

_HOMES = {
    "ModelCard": "card",
    "Registered": "register",
    "Registry": "promotion",
    "Version": "promotion",
    "make_card": "card",
    "only_model": "promotion",
    "pack": "register",
    "read_card": "card",
}

# `register` is not here: the module of that name would hide the function once it is imported.
__all__ = ["ModelCard", "Registered", "Registry", "Version", "make_card", "only_model", "pack", "read_card"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
