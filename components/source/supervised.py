"""How a source model is made from labelled faces: plain supervised training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..common.errors import expected
from ..networks import Classifier, flops
from ..training import Tracker, TrainResult
from ..training.supervised import checked_labels, train_on_labels
from .config import SourceConfig


def train_supervised(
    network: Classifier,
    pixels: np.ndarray,
    labels: np.ndarray,
    config: SourceConfig,
    *,
    checkpoint: Path | None = None,
    tracker: Tracker | None = None,
) -> TrainResult:
    """Trains a classifier on labelled faces, in place: label-smoothed cross-entropy, SGD, one cycle.

    Args:
        network: The classifier; trained afterwards.
        pixels: Faces, uint8 [N, C, H, W].
        labels: int64 [N], or float [N, classes] for soft ones.
        config: Settings.
        checkpoint: Where the state is kept, for resuming.
        tracker: Receives metrics.

    Raises:
        UserError: Fewer than two faces, or one class only.
        TrainingDiverged: The loss is not finite.
    """
    targets = checked_labels(labels, len(pixels), len(network.classes))
    count = len((targets if targets.ndim == 1 else targets.argmax(1)).unique())
    if len(pixels) < 2 or count < 2:
        got = f"{len(pixels)} face(s) of {count} class(es)"
        raise expected("faces", "at least two faces of two classes", got, "Add labelled faces.")
    return train_on_labels(
        network,
        pixels,
        targets,
        config,
        normalisation=network.normalisation,
        flops_per_image=float(flops(network.architecture, training=True)),
        name="source training",
        checkpoint=checkpoint,
        tracker=tracker,
        epochs=config.epochs,
        batch_size=min(config.batch_size, len(pixels)),
        learning_rate=config.learning_rate,
        schedule="one_cycle" if config.warmup else "cosine",
        warmup_epochs=config.warmup * config.epochs,
    )
