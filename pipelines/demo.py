"""The demo: render two domains of faces, train a source model on one, adapt it to the other with CluP.

The source pipeline alone sees the labelled source faces; the adaptation gets the model and unlabelled faces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.files import digest_of
from .catalogue import check_number, find
from .runner import Home, RunResult
from .runner.local import prepared, run_held
from .runner.settle import remove_checkpoints

SOURCE_STYLE = "shaded"
TARGET_STYLE = "line"
SIZE = 48

SOURCE_PARAMETERS: dict[str, Any] = {"training_epochs": 12, "network_width": 16}
"""Budget of the demo's source model; ``benchmarks/ablation.md`` shows what twice as many epochs change."""

CLUP_PARAMETERS: dict[str, Any] = {"model_name": "ferry-demo"}
"""The demo's adaptation is the pipeline's defaults."""

SOURCE_FACES = 12_000
TARGET_FACES = 5_000
HOLDOUT_SHARE = 0.3


@dataclass(frozen=True)
class DemoResult:
    """The two runs of a demo.

    Attributes:
        source: The run that trained the source model.
        clup: The run that adapted it.
    """

    source: RunResult
    clup: RunResult


def demo(home: Home, seed: int = 0, say: Callable[[str], None] | None = None, **changes: Any) -> DemoResult:
    """Runs the demo.

    Args:
        home: Where the runs are recorded.
        seed: Fixes faces, source model and adaptation.
        say: Receives lines for people; None is silent.
        **changes: Parameters of the CluP pipeline that replace the demo's.

    Returns:
        Both runs.

    Raises:
        UserError: The seed is out of range.
        RunFailed: A stage failed.
        RetryableError: Another run holds the home, or the run was interrupted.
    """
    check_number("seed", seed)
    with home.lock():
        return _demo(home, seed, say, changes)


def _demo(home: Home, seed: int, say: Callable[[str], None] | None, changes: dict[str, Any]) -> DemoResult:
    tell = say or (lambda _: None)
    folder = home.root / "demo"
    source_faces = rendered(folder, SOURCE_FACES, SOURCE_STYLE, 2 * seed + 1, {"train": 1.0}, tell)
    splits = {"train": 1.0 - HOLDOUT_SHARE, "test": HOLDOUT_SHARE}
    target_faces = rendered(folder, TARGET_FACES, TARGET_STYLE, 2 * seed + 2, splits, tell)
    tell(f"Training a source model on {SOURCE_FACES:,} labelled {SOURCE_STYLE} faces.")
    values = prepared(find("source"), {"faces": str(source_faces), "seed": seed, **SOURCE_PARAMETERS})
    # Until the demo is done, its source training can be taken up again too.
    trained = run_held(find("source"), values, home, say=say, keep_checkpoints=True)
    tell(f"Adapting it to unlabelled {TARGET_STYLE} faces with CluP.")
    parameters = {
        "target": str(target_faces),
        "holdout": str(target_faces),
        "target_labels": str(target_faces),
        "source": str(trained.artifact("train-source", "model")),
        "seed": seed,
        **CLUP_PARAMETERS,
        **changes,
    }
    adapted = run_held(find("clup"), prepared(find("clup"), parameters), home, say=say)
    remove_checkpoints(trained.record, home)
    return DemoResult(trained, adapted)


def rendered(
    folder: Path, count: int, style: str, seed: int, splits: dict[str, float], say: Callable[[str], None]
) -> Path:
    """Returns a folder of rendered faces, made where it is not there yet."""
    from .. import __version__
    from ..faces import render_faces

    key = digest_of([count, style, seed, splits, SIZE, __version__])[:8]
    path = folder / f"{style}-{seed}-{key}"
    if not (path / "faces.json").exists():
        say(f"Rendering {count:,} {style} faces.")
        render_faces(path, count, style, seed, SIZE, splits=splits)
    return path
