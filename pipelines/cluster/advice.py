"""What people should know of a compiled pipeline although nothing is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ...common.images import DEFAULT_REGISTRY, REGISTRY_VARIABLE
from .profile import Profile


def advice(profile: Profile | None, stages: Iterable[str]) -> list[str]:
    """Returns sentences about what will probably not be as it was meant.

    Args:
        profile: The profile, or None.
        stages: Stages of the pipeline.
    """
    found, there = [], set(stages)
    images = profile.images if profile is not None else None
    if not os.environ.get(REGISTRY_VARIABLE) and not (images and (images.registry or images.digests)):
        where = "set FERRY_IMAGE_REGISTRY, or images.registry in the profile"
        found.append(f"Images are called {DEFAULT_REGISTRY}/ferry-..., which only a node that has them finds: {where}.")
    for kind in ("secrets", "config_maps"):
        for name, given in getattr(profile, kind, {}).items():
            if given.stages and not there & set(given.stages):
                which = ", ".join(given.stages)
                found.append(
                    f"No stage of this pipeline gets {kind}.{name}, which is for {which}: is it the right profile?"
                )
    return found
