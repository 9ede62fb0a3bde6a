"""CluP's third stage: fine-tune a network on the pseudo-labels that were kept.

Conti et al., "Cluster-level pseudo-labelling for source-free cross-domain facial expression recognition", BMVC 2022.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..common.errors import expected
from ..networks import Classifier, Encoder, build_classifier
from ..training import LoopConfig, Tracker, TrainResult, train
from ..training.supervised import Supervised
from ..training.views import finetune
from .adabn import adabn
from .config import FinetuningConfig


def start_network(
    config: FinetuningConfig,
    *,
    source: Classifier | None,
    encoder: Encoder | None,
    target: np.ndarray,
    classes: tuple[str, ...],
) -> Classifier:
    """Returns the network that fine-tuning starts from, a copy.

    Args:
        config: Its ``start`` decides.
        source: The source model, where Ferry has its weights.
        encoder: The pretrained encoder, where there is one.
        target: Target faces, uint8 [N, C, H, W]; only ``adabn`` looks at them.
        classes: Class names, of the pseudo-labels.

    Raises:
        UserError: The start needs a model that is not there.
    """
    if config.start in ("source", "adabn"):
        if source is None:
            fix = "A foreign model gives outputs but no weights: choose pretrained or scratch."
            raise expected("finetuning_start", "pretrained or scratch for this source", config.start, fix)
        return adabn(source, target) if config.start == "adabn" else _copy(source)
    if config.start == "pretrained" and encoder is None:
        fix = "Choose a pretraining, or start from source, adabn or scratch."
        raise expected("finetuning_start", "another than pretrained without a pretraining", config.start, fix)
    known = encoder or (source.encoder if source is not None else None)
    if known is None:
        raise expected(
            "architecture", "given by a pretrained encoder or a source model", "none", "Choose a pretraining."
        )
    architecture = replace(known.architecture, bottleneck=0, head="linear")
    fresh = encoder if config.start == "pretrained" else None
    return build_classifier(architecture, classes, known.info.normalisation, seed=config.seed, encoder=fresh)


def fine_tune(
    network: Classifier,
    pixels: np.ndarray,
    labels: np.ndarray,
    config: FinetuningConfig,
    *,
    checkpoint: Path | None = None,
    tracker: Tracker | None = None,
) -> TrainResult:
    """Trains a classifier on kept pseudo-labels with cross-entropy and mixup, in place.

    SGD with Nesterov momentum and a cosine to zero, the last iterate counts: there are no labels to choose another by.

    Args:
        network: The classifier to train; trained afterwards.
        pixels: Kept faces, uint8 [N, C, H, W].
        labels: Their pseudo-labels: int64 [N], or float [N, classes] for soft ones.
        config: Settings.
        checkpoint: Where the state is kept, for resuming.
        tracker: Receives metrics.

    Returns:
        What the loop reports.

    Raises:
        UserError: There are no kept faces, or fewer than two classes among them.
        TrainingDiverged: The loss is not finite.
    """
    if len(pixels) < 2:
        raise expected("labels", "at least 2 kept faces", len(pixels), "Raise labelling_keep.")
    hard = labels if labels.ndim == 1 else labels.argmax(1)
    if len(np.unique(hard)) < 2:
        name = network.classes[int(hard[0])]
        fix = "Raise labelling_keep, or use labelling_score=confidence; the source model may not fit this target."
        raise expected("labels", "of at least two classes", f"only {name}", fix)
    method = Supervised(
        network,
        torch.from_numpy(labels),
        network.normalisation.mean,
        network.normalisation.std,
        finetune(pixels.shape[-1]),
        mixup=config.mixup,
        label_smoothing=config.label_smoothing,
    )
    loop = LoopConfig(
        epochs=config.epochs_for(len(pixels)),
        batch_size=min(config.batch_size, len(pixels)),
        learning_rate=config.peak_learning_rate,
        momentum=config.momentum,
        nesterov=True,
        weight_decay=config.weight_decay,
        schedule="cosine",
        warmup_epochs=0.0,
        precision=config.precision,  # type: ignore[arg-type]
        seed=config.seed,
    )
    return train(method, pixels, loop, checkpoint=checkpoint, tracker=tracker, name="fine-tuning")


def _copy(source: Classifier) -> Classifier:
    import copy

    return copy.deepcopy(source)
