"""CluP's second stage: pretrain an encoder on the unlabelled target."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.checkpoints import checkpoint_path
from ..common.errors import expected
from ..common.stage import StageRecord
from ..faces import open_unlabelled
from ..networks import Architecture, Encoder, Normalisation, SourceModel, build_encoder, load_encoder, load_imported
from ..networks.backbone import seeded
from ..networks.saved import is_saved_model
from ..networks.trained import save_trained
from ..training import Tracker, TrainResult, open_tracker, train
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
        collapse: Signs of collapse that the last record shows, each as a sentence; they are among the warnings too.
    """

    encoder: Encoder
    result: TrainResult
    config: PretrainingConfig
    warnings: list[str]
    collapse: list[str]


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
    config, warnings = resolve(config, len(pixels), classes)
    method = make_method(encoder, config, len(pixels), pixels.shape[-1])
    result = train(method, pixels, config.loop(), checkpoint=checkpoint, tracker=tracker, name="pretraining")
    last = next((record for record in reversed(result.history) if record["kind"] == "step"), {"step": 0})
    shown = method.collapse.signs({name: value for name, value in last.items() if isinstance(value, (int, float))})
    warnings += [f"The pretraining ended with a sign of collapse. {sentence}" for sentence in shown.values()]
    return Pretrained(encoder.cpu(), result, config, warnings, list(shown.values()))


def make_method(encoder: Encoder, config: PretrainingConfig, images: int, size: int) -> SwAV | DeepClusterV2:
    """Returns the method that the settings name, with fresh projector and prototypes.

    Args:
        encoder: The encoder, which will be trained in place.
        config: Complete settings.
        images: Number of images in the target.
        size: Side of the images in pixels.
    """
    crops = multi_crop(size, config)
    with seeded(config.seed, "pretraining"):
        if config.method == "swav":
            return SwAV(encoder, encoder.normalisation, crops, config)
        return DeepClusterV2(encoder, encoder.normalisation, crops, config, images)


def pretrain_stage(
    target: Path | str,
    source: Path | str,
    output: Path | str,
    config: PretrainingConfig,
    record: StageRecord,
) -> None:
    """Runs the stage on artifacts.

    Args:
        target: Unlabelled faces.
        source: The source model: gives the architecture, and the first weights where the settings ask for them.
        output: Folder of the encoder to write.
        config: Settings.
        record: Receives warnings and facts.

    Raises:
        UserError: The inputs do not fit each other.
        TrainingDiverged: The pretraining collapsed.
    """
    faces = open_unlabelled(target)
    model = load_imported(source)
    encoder = first_encoder(model, config)
    architecture = encoder.architecture
    pixels = faces.pixels(architecture.input_size, architecture.channels)
    determined_by: dict[str, Any] = {
        "config": asdict(config),
        "target": faces.digest,
        "start": encoder.info.digest or "fresh",
        "architecture": asdict(architecture),
    }
    with open_tracker("pretraining") as tracker:
        done = pretrain(
            encoder,
            pixels,
            config,
            classes=len(model.classes),
            checkpoint=checkpoint_path("pretraining", determined_by),
            tracker=tracker,
        )
        for warning in done.warnings:
            record.warn(warning)
        prototypes = done.config.prototypes
        facts = {"chance_loss": chance_loss(prototypes), "prototypes": prototypes, "collapse": done.collapse}
        tracker.link("model", output)
        save_trained(
            done.encoder,
            output,
            done.result,
            method=config.method,
            lineage={"target": faces.digest, "start": determined_by["start"]},
            settings={**asdict(done.config), "init": first_weights(model, config)},
            facts=facts,
        )
    record.facts.update(facts, images_per_second=round(done.result.images / max(done.result.seconds, 1e-9), 1))


def first_weights(model: SourceModel, config: PretrainingConfig) -> str:
    """Returns the ``init`` of the settings; for ``auto``, ``source`` where its weights are known, else ``random``."""
    if config.init != "auto":
        return config.init
    return "random" if model.classifier is None else "source"


def first_encoder(model: SourceModel, config: PretrainingConfig, *, input_size: int = 0, backbone: str = "") -> Encoder:
    """Returns the encoder that pretraining starts from.

    Args:
        model: The source model.
        config: Its ``init`` decides: ``random``, ``source``, ``auto``, or a folder of a saved model.
        input_size: Input size in pixels of a random start; 0 takes that of a source model of Ferry, and 48 for a
            foreign one, whose size says nothing about the target's budget.
        backbone: Name of the backbone of a random start; empty takes the source's, or ``resnet10`` for a foreign one.

    Raises:
        UserError: The source model has no weights to start from, or the folder holds no model.
    """
    classifier = model.classifier
    init = "random" if config.init == "auto" and (input_size or backbone) else first_weights(model, config)
    if init == "source":
        if classifier is None:
            fix = "A foreign model gives no weights: choose random, or a saved encoder."
            raise expected("pretraining_init", "random or a folder for this source", init, fix)
        return copy.deepcopy(classifier.encoder)
    if init != "random":
        if not is_saved_model(init):
            fix = "Pass auto, random, source, or a folder with model.safetensors and model.json."
            raise expected("pretraining_init", "auto, random, source or a saved model", init, fix)
        return load_encoder(init)
    if classifier is not None and not backbone:
        base = classifier.architecture.backbone
        architecture = Architecture(**{**asdict(base), "input_size": input_size or base.input_size})
        normalisation = classifier.normalisation
    else:
        size = input_size or (classifier.architecture.input_size if classifier is not None else 48)
        architecture = Architecture(name=backbone or "resnet10", channels=model.channels, input_size=size)  # type: ignore[arg-type]
        normalisation = Normalisation.usual(model.channels)
    return build_encoder(architecture, config.seed, normalisation)
