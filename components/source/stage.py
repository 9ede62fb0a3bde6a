"""The source stage on artifacts: labelled faces in, a source model out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..common.checkpoints import checkpoint_path
from ..common.parameters import from_mapping
from ..common.stage import StageRecord
from ..faces import LabelledFaces, import_faces, open_faces
from ..networks import Architecture, build_classifier
from ..networks.trained import save_trained
from ..training import open_tracker
from .config import SourceConfig
from .supervised import train_supervised


def train_source_stage(
    source: str,
    layout: str,
    split: str,
    output: Path | str,
    record: StageRecord,
    network: Mapping[str, Any],
    choices: Mapping[str, Any],
) -> None:
    """Imports labelled faces and trains a source model on them.

    The imported faces are not an artifact: source images must not be where an adaptation could read them.

    Args:
        source: Folder, file, or s3://bucket/prefix of labelled faces.
        layout: Name of the layout, or auto.
        split: The split to train on; empty takes all.
        output: Folder of the classifier to write.
        record: Receives warnings and facts.
        network: Fields of :class:`~ferry.networks.Architecture`.
        choices: Fields of :class:`SourceConfig`.

    Raises:
        UserError: The faces cannot train a classifier.
        TrainingDiverged: The loss is not finite.
    """
    architecture = from_mapping(Architecture, network)
    config = from_mapping(SourceConfig, choices)
    with TemporaryDirectory(prefix="ferry-source-") as folder:
        report = import_faces(source, Path(folder) / "faces", layout, take=split, overlap="allow")
        for warning in report.warnings:
            record.warn(warning)
        train_on(open_faces(report.output), output, architecture, config, record)


def train_on(
    data: LabelledFaces, output: Path | str, architecture: Architecture, config: SourceConfig, record: StageRecord
) -> None:
    """Trains a source model on labelled faces and saves it.

    Args:
        data: The faces.
        output: Folder of the classifier to write.
        architecture: The network.
        config: Settings.
        record: Receives facts.

    Raises:
        UserError: The faces cannot train a classifier.
        TrainingDiverged: The loss is not finite.
    """
    pixels = data.pixels(architecture.input_size, architecture.channels)
    model = build_classifier(architecture, data.classes, seed=config.seed)
    determined_by: dict[str, Any] = {
        "config": asdict(config),
        "architecture": asdict(architecture),
        "faces": data.digest,
        "classes": data.classes,
    }
    tracker = open_tracker("source")
    try:
        result = train_supervised(
            model, pixels, data.labels, config, checkpoint=checkpoint_path("source", determined_by), tracker=tracker
        )
    finally:
        tracker.close()
    lineage = {"faces": data.digest}
    save_trained(model.cpu().eval(), output, result, method="supervised", lineage=lineage, settings=asdict(config))
    record.facts.update(images_per_second=round(result.images / max(result.seconds, 1e-9), 1), steps=result.steps)
