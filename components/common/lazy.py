"""Packages whose names load on first use, so that a look at one of them does not import torch for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy(package: str, homes: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], list[str]]:
    """Makes the ``__getattr__`` and ``__all__`` of a package.

    Args:
        package: The package's ``__name__``.
        homes: Module (relative to the package) to the public names that it defines.

    Returns:
        ``__getattr__`` and ``__all__``.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def load(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{home_of[name]}", package), name)

    return load, sorted(home_of)
