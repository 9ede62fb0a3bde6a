"""The adaptation stages on artifacts: AdaBN, and CluP's fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..common.checkpoints import checkpoint_path
from ..common.errors import expected
from ..common.parameters import from_mapping
from ..common.stage import StageRecord
from ..faces import open_unlabelled
from ..faces.pseudo_labels import PseudoLabels
from ..networks import Classifier, load_encoder, load_imported
from ..networks.saved import is_saved_model, save_model
from ..networks.trained import save_trained, skip_model, skipped_reason
from ..training import open_tracker
from ..training.launch import launch
from .clup import fine_tune, start_network
from .config import FinetuningConfig
from .statistics import adabn


def adabn_stage(
    target: Path | str, source: Path | str, output: Path | str, record: StageRecord, *, required: bool = False
) -> None:
    """Adapts the statistics of a source model, or says why that cannot be done.

    Args:
        target: Unlabelled faces.
        source: The source model.
        output: Folder of the classifier to write.
        record: Receives warnings.
        required: Whether a source model without weights is an error.

    Raises:
        UserError: The source model has no weights, and they are required.
    """
    faces = open_unlabelled(target)
    classifier = load_imported(source).classifier
    if classifier is None:
        reason = "The source is a foreign model: its statistics cannot be re-estimated."
        if required:
            fix = "Adapt it with `ferry run clup`, which needs only what a model predicts."
            raise expected("source", "a model of Ferry, with its weights", "a foreign model", fix)
        record.warn(f"No AdaBN row. {reason}")
        skip_model(output, reason)
        return
    size, channels = classifier.architecture.input_size, classifier.architecture.channels
    adapted = adabn(classifier, faces.pixels(size, channels))
    lineage = {"source": classifier.info.digest, "target": faces.digest}
    save_model(adapted, output, method="adabn", lineage=lineage)


def fine_tuning_stage(
    inputs: Mapping[str, Path | str], output: Path | str, record: StageRecord, **choices: Any
) -> None:
    """Runs CluP's third stage.

    Args:
        inputs: Paths of ``target`` (unlabelled faces), ``source`` (the source model), ``pretrained`` (an encoder, may
            be a skipped one) and ``labels`` (pseudo-labels).
        output: Folder of the classifier to write.
        record: Receives facts.
        **choices: Fields of :class:`FinetuningConfig`.

    Raises:
        UserError: The inputs do not fit each other.
        TrainingDiverged: The loss is not finite.
    """
    from_mapping(FinetuningConfig, choices, "finetuning_")  # a wrong choice is found before processes are started
    launch(fine_tune_on, inputs, output, record, **choices)


def fine_tune_on(inputs: Mapping[str, Path | str], output: Path | str, record: StageRecord, **choices: Any) -> None:
    """Fine-tunes a network on pseudo-labels; the work of every process of a distributed fine-tuning.

    Args:
        inputs: As for :func:`fine_tuning_stage`.
        output: Folder of the classifier to write.
        record: Receives facts.
        **choices: Fields of :class:`FinetuningConfig`.

    Raises:
        UserError: The inputs do not fit each other.
        TrainingDiverged: The loss is not finite.
    """
    config = from_mapping(FinetuningConfig, choices, "finetuning_")
    faces = open_unlabelled(inputs["target"])
    labels = PseudoLabels.load(inputs["labels"]).align(faces.keys)
    source = load_imported(inputs["source"])
    encoder = load_encoder(inputs["pretrained"]) if is_saved_model(inputs["pretrained"]) else None
    pixels = faces.pixels(*_input_shape(config, source.classifier, encoder))
    if encoder is None and config.start == "pretrained":
        reason = skipped_reason(inputs["pretrained"]) or "There is no saved encoder."
        fix = f"{reason} Choose a pretraining, or start from source, adabn or scratch."
        raise expected("finetuning_start", "another than pretrained without a pretraining", config.start, fix)
    network = start_network(config, source=source.classifier, encoder=encoder, target=pixels, classes=labels.classes)
    rows = np.flatnonzero(labels.columns.kept)
    used = encoder if config.start == "pretrained" else None
    lineage = {
        "source": source.digest,
        "target": faces.digest,
        "labels": labels.digest,
        "pretrained": used.info.digest if used is not None else "none",
    }
    determined_by: dict[str, Any] = {"config": asdict(config), "architecture": asdict(network.architecture), **lineage}
    with open_tracker("fine-tuning") as tracker:
        result = fine_tune(
            network,
            np.ascontiguousarray(pixels[rows]),
            labels.columns.label[rows],
            config,
            checkpoint=checkpoint_path("fine-tuning", determined_by),
            tracker=tracker,
        )
        settings = {
            **asdict(config),
            "learning_rate": config.peak_learning_rate,
            "batch_size": config.batch_for(len(rows)),
            "epochs": config.epochs_for(len(rows)),
        }
        tracker.link("model", output)
        save_trained(network.cpu().eval(), output, result, method="clup", lineage=lineage, settings=settings)
    record.facts.update(kept=len(rows), steps=result.steps)


def _input_shape(config: FinetuningConfig, classifier: Classifier | None, encoder: Any) -> tuple[int, int]:
    """Returns input size and channels of the network that will be fine-tuned."""
    of_source = config.start in ("source", "adabn") or encoder is None
    owner = classifier if of_source and classifier is not None else encoder
    if owner is None:
        return 48, 1
    return owner.architecture.input_size, owner.architecture.channels
