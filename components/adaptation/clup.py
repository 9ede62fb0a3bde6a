"""CluP's third stage: fine-tune a network on the pseudo-labels that were kept.

Conti et al., "Cluster-level pseudo-labelling for source-free cross-domain facial expression recognition", BMVC 2022.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np

from ..common.errors import expected
from ..networks import Architecture, Classifier, Encoder, Normalisation, build_classifier, flops
from ..training import Tracker, TrainResult
from ..training.supervised import checked_labels, train_on_labels
from .config import FinetuningConfig
from .statistics import adabn, as_new_model


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
        UserError: The start needs a model that is not there, or the model has other classes.
    """
    if config.start in ("source", "adabn"):
        if source is None:
            fix = "A foreign model gives outputs but no weights: choose pretrained or scratch."
            raise expected("finetuning_start", "pretrained or scratch for this source", config.start, fix)
        if source.classes != tuple(classes):
            fix = "Use labels that this source model made, or start from pretrained or scratch."
            raise expected("classes", f"those of the source model, {', '.join(source.classes)}", list(classes), fix)
        return adabn(source, target) if config.start == "adabn" else as_new_model(copy.deepcopy(source))
    if config.start == "pretrained" and encoder is None:
        fix = "Choose a pretraining, or start from source, adabn or scratch."
        raise expected("finetuning_start", "another than pretrained without a pretraining", config.start, fix)
    known = encoder or (source.encoder if source is not None else None)
    if known is None:  # a foreign source and no pretraining
        architecture = Architecture(channels=target.shape[1], input_size=target.shape[-1])
        return build_classifier(architecture, classes, Normalisation.usual(target.shape[1]), seed=config.seed)
    architecture = known.architecture.backbone
    fresh = encoder if config.start == "pretrained" else None
    return build_classifier(architecture, classes, known.normalisation, seed=config.seed, encoder=fresh)


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
    targets = checked_labels(labels, len(pixels), len(network.classes))
    hard = targets if targets.ndim == 1 else targets.argmax(1)
    if len(hard.unique()) < 2:
        name = network.classes[int(hard[0])]
        fix = "Raise labelling_keep, or use labelling_score=confidence; the source model may not fit this target."
        raise expected("labels", "of at least two classes", f"only {name}", fix)
    return train_on_labels(
        network,
        pixels,
        targets,
        config,
        normalisation=network.normalisation,
        flops_per_image=float(flops(network.architecture, training=True)),
        name="fine-tuning",
        checkpoint=checkpoint,
        tracker=tracker,
        epochs=config.epochs_for(len(pixels)),
        batch_size=config.batch_for(len(pixels)),
        learning_rate=config.peak_learning_rate,
        schedule="cosine",
    )
