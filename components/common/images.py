"""Which container image runs which stage: one name per kind, the tag is the package's version."""

from __future__ import annotations

import os
import re
from typing import Literal

from .. import __version__

REGISTRY_VARIABLE = "FERRY_IMAGE_REGISTRY"
"""Environment variable at compile time: the registry and folder in front of the image names."""

DEFAULT_REGISTRY = "ferry"

KINDS = ("slim", "cpu", "cuda")
"""``slim`` has no torch, ``cpu`` and ``cuda`` have."""


def image(kind: Literal["slim", "cpu", "cuda"], registry: str = "") -> str:
    """Returns the image of a kind.

    Args:
        kind: One of :data:`KINDS`.
        registry: Registry and folder; by default ``FERRY_IMAGE_REGISTRY``.
    """
    place = registry or os.environ.get(REGISTRY_VARIABLE, DEFAULT_REGISTRY)
    return f"{place.rstrip('/')}/ferry-{kind}:{__version__}"


def kind_of(name: str) -> str:
    """Returns the kind of one of Ferry's images, empty for another image."""
    found = re.search(r"(?:^|/)ferry-(slim|cpu|cuda)[:@]", name)
    return found[1] if found else ""
