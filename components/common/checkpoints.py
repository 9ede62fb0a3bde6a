"""Where a stage keeps the checkpoint of a training: under a name made of everything that determines its result.

The same command therefore finds its own checkpoint again after a kill, and a changed one never does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .files import digest_of

FOLDER_VARIABLE = "FERRY_CHECKPOINTS"
"""Environment variable: folder of checkpoints; without it trainings keep none."""

_given: list[Path] = []


def checkpoint_path(stage: str, determined_by: Mapping[str, Any]) -> Path | None:
    """Returns the path of a stage's checkpoint, or None where no folder is given.

    Args:
        stage: Name of the stage.
        determined_by: Settings and input digests, as JSON can hold them.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    path = Path(folder) / f"{stage}-{digest_of(dict(determined_by))[:20]}.pt"
    if path not in _given:
        _given.append(path)
    return path


def note_paths(paths: Iterable[Path | str]) -> None:
    """Adds paths that another process gave out for this one's work.

    Args:
        paths: Paths of checkpoints.
    """
    _given.extend(path for path in map(Path, paths) if path not in _given)


def given_paths() -> list[Path]:
    """Returns every path that :func:`checkpoint_path` gave out in this process, for whoever tidies up afterwards."""
    return list(_given)
