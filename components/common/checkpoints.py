"""Where a stage keeps the checkpoint of a training: under a name made of everything that determines its result.

The same command therefore finds its own checkpoint again after a kill, and a changed one never does.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .files import digest_of

FOLDER_VARIABLE = "FERRY_CHECKPOINTS"
"""Environment variable: folder of checkpoints, or ``s3://bucket/prefix``; without it trainings keep none."""

_STORES = ("s3://", "minio://")

_given: list[Path] = []
_remote: dict[Path, str] = {}


def checkpoint_path(stage: str, determined_by: Mapping[str, Any]) -> Path | None:
    """Returns the path of a stage's checkpoint, or None where no folder is given.

    Where the environment names an object store, the path is one of this machine, and :func:`address_of` says where the
    checkpoint is kept.

    Args:
        stage: Name of the stage.
        determined_by: Settings and input digests, as JSON can hold them.
    """
    place = os.environ.get(FOLDER_VARIABLE)
    if not place:
        return None
    name = f"{stage}-{digest_of(dict(determined_by))[:20]}.pt"
    path = (local_folder() or Path(tempfile.gettempdir()) / "ferry-checkpoints") / name
    if place.startswith(_STORES):
        _remote[path] = f"{place.rstrip('/')}/{name}"
    if path not in _given:
        _given.append(path)
    return path


def local_folder() -> Path | None:
    """Returns the folder of checkpoints, or None where there is none on this machine."""
    place = os.environ.get(FOLDER_VARIABLE, "")
    return Path(place) if place and not place.startswith(_STORES) else None


def address_of(path: Path) -> str:
    """Returns where a checkpoint is kept in an object store, or an empty text.

    Args:
        path: From :func:`checkpoint_path`.
    """
    return _remote.get(path, "")


def note_paths(paths: Iterable[Path | str]) -> None:
    """Adds paths that another process gave out for this one's work.

    Args:
        paths: Paths of checkpoints.
    """
    _given.extend(path for path in map(Path, paths) if path not in _given)


def given_paths() -> list[Path]:
    """Returns every path that :func:`checkpoint_path` gave out in this process, for whoever tidies up afterwards."""
    return list(_given)
