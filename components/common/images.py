"""Which container image runs which stage: one name per kind, the tag is the package's version."""

from __future__ import annotations

import os
from typing import Literal

from .. import __version__

REGISTRY_VARIABLE = "FERRY_IMAGE_REGISTRY"
"""Environment variable at compile time: the registry and folder in front of the image names."""

DEFAULT_REGISTRY = "ferry"


def image(kind: Literal["slim", "cpu", "cuda"]) -> str:
    """Returns the image of a kind: ``slim`` has no torch, ``cpu`` and ``cuda`` have."""
    registry = os.environ.get(REGISTRY_VARIABLE, DEFAULT_REGISTRY).rstrip("/")
    return f"{registry}/ferry-{kind}:{__version__}"
