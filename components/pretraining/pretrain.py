"""CluP's second stage: pretrain an encoder on the unlabelled target."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..common.checkpoints import checkpoint_path
from ..common.errors import expected
from ..common.stage import StageRecord
from ..faces import open_unlabelled
from ..networks import Architecture, Encoder, Normalisation, build_encoder, load_encoder, load_source
from ..networks.saved import is_saved_model
from ..networks.trained import save_trained
from ..training import LoopConfig, Tracker, TrainResult, open_tracker, train, world_size
from .config import PretrainingConfig, chance_loss, resolve
from .crops import multi_crop
from .deepcluster import DeepClusterV2
from .swav import SwAV


@dataclass(frozen=True)
class Pretrained:
    """A pretrained encoder.

    Attributes:
        encoder: The encoder, on the CPU.
        result: What the loop reported.
        config: The complete settings, with what the rules filled in.
        warnings: What people should know.
    """

    encoder: Encoder
    result: TrainResult
    config: PretrainingConfig
    warnings: list[str]


def pretrain(
    encoder: Encoder,
    pixels: np.ndarray,
    config: PretrainingConfig,
    *,
    classes: int,
    checkpoint: Path | None = None,
    tracker: Tracker | None = None,
) -> Pretrained:
    """Pretrains an encoder with SwAV or DeepClusterV2, in place.

    Args:
        encoder: The encoder with its first weights.
        pixels: Target faces, uint8 [N, C, H, W].
        config: Settings; what is zero is filled in by rule.
        classes: Number of expression classes, for the rule for K.
        checkpoint: Where the state is kept, for resuming.
        tracker: Receives metrics.

    Raises:
        UserError: The settings do not fit the data.
        TrainingDiverged: The pretraining collapsed; the message names the cause.
    """
    config, warnings = resolve(config, len(pixels), classes, world_size())
    crops = multi_crop(pixels.shape[-1], config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.method == "swav":
            method: SwAV | DeepClusterV2 = SwAV(encoder, encoder.info.normalisation, crops, config)
        else:
            method = DeepClusterV2(encoder, encoder.info.normalisation, crops, config, len(pixels))
    loop = LoopConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimiser=config.optimiser,
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        schedule="cosine",
        final_learning_rate=config.final_learning_rate,
        warmup_epochs=config.warmup_epochs,
        precision=config.precision,  # type: ignore[arg-type]
        seed=config.seed,
        drop_last=True,
    )
    result = train(method, pixels, loop, checkpoint=checkpoint, tracker=tracker, name="pretraining")
    return Pretrained(encoder.cpu(), result, config, warnings)


def pretrain_stage(
    target: Path | str,
    source: Path | str,
    output: Path | str,
    config: PretrainingConfig,
    record: StageRecord,
    *,
    input_size: int = 0,
    backbone: str = "",
) -> None:
    """Runs the stage on artifacts.

    Args:
        target: Unlabelled faces.
        source: The source model: gives the architecture, and the first weights where the settings ask for them.
        output: Folder of the encoder to write.
        config: Settings.
        record: Receives warnings and facts.
        input_size: Input size in pixels; 0 takes the source model's.
        backbone: Backbone where the source is a foreign model or another one is wanted; empty takes the source's.

    Raises:
        UserError: The inputs do not fit each other.
        TrainingDiverged: The pretraining collapsed.
    """
    faces = open_unlabelled(target)
    model = load_source(source)
    encoder = first_encoder(model, config, input_size=input_size, backbone=backbone)
    architecture = encoder.architecture
    pixels = faces.pixels(architecture.input_size, architecture.channels)
    determined_by: dict[str, Any] = {
        "config": asdict(config),
        "target": faces.digest,
        "start": encoder.info.digest or "fresh",
        "architecture": asdict(architecture),
    }
    tracker = open_tracker("pretraining")
    try:
        done = pretrain(
            encoder,
            pixels,
            config,
            classes=len(model.classes),
            checkpoint=checkpoint_path("pretraining", determined_by),
            tracker=tracker,
        )
    finally:
        tracker.close()
    for warning in done.warnings:
        record.warn(warning)
    facts = {"chance_loss": chance_loss(done.config.prototypes), "prototypes": done.config.prototypes}
    save_trained(
        done.encoder,
        output,
        done.result,
        method=config.method,
        lineage={"target": faces.digest, "start": determined_by["start"]},
        settings=asdict(done.config),
        facts=facts,
    )
    record.facts.update(facts, images_per_second=round(done.result.images / max(done.result.seconds, 1e-9), 1))


def first_encoder(model: Any, config: PretrainingConfig, *, input_size: int = 0, backbone: str = "") -> Encoder:
    """Returns the encoder that pretraining starts from.

    Args:
        model: The source model.
        config: Its ``init`` decides: ``random``, ``source``, or a folder of a saved model.
        input_size: Input size in pixels; 0 takes the source model's.
        backbone: Name of the backbone; empty takes the source's, or ``resnet10`` for a foreign one.

    Raises:
        UserError: The source model has no weights to start from, or the folder holds no model.
    """
    classifier = model.classifier
    if config.init == "source":
        if classifier is None:
            fix = "A foreign model gives no weights: choose random, or a saved encoder."
            raise expected("pretraining_init", "random or a folder for this source", config.init, fix)
        return classifier.encoder
    if config.init != "random":
        if not is_saved_model(config.init):
            fix = "Pass random, source, or a folder with model.safetensors and model.json."
            raise expected("pretraining_init", "random, source or a saved model", config.init, fix)
        return load_encoder(config.init)
    if classifier is not None and not backbone:
        base = classifier.architecture.backbone
        architecture = Architecture(**{**asdict(base), "input_size": input_size or base.input_size})
        normalisation = classifier.normalisation
    else:
        size = input_size or 48
        architecture = Architecture(name=backbone or "resnet10", channels=model.channels, input_size=size)  # type: ignore[arg-type]
        normalisation = Normalisation.usual(model.channels)
    return build_encoder(architecture, config.seed, normalisation)
