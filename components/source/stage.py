"""The source stage on artifacts: labelled faces in, a source model out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..common.checkpoints import checkpoint_path
from ..common.errors import expected
from ..common.files import digest_of
from ..common.parameters import from_mapping
from ..common.stage import StageRecord
from ..faces import LabelledFaces, import_faces, open_faces
from ..faces.stage import named_as
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
    *,
    max_skipped: float = 0.05,
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
        max_skipped: Largest share of faces that may be skipped.

    Raises:
        UserError: The faces cannot train a classifier.
        TrainingDiverged: The loss is not finite.
    """
    architecture = from_mapping(Architecture, network, "network_")
    config = from_mapping(SourceConfig, choices, "training_")
    with TemporaryDirectory(prefix="ferry-source-") as folder:
        wanted: dict[str, Any] = {"take": split, "max_skipped": max_skipped}
        with named_as("faces"):
            report = import_faces(source, Path(folder) / "faces", layout, overlap="allow", **wanted)
        if report.classes is None:
            fix = "Name a layout with labels (--layout; see: ferry faces layouts)."
            raise expected("faces", "labelled", f"{source} in the layout {report.layout}, without labels", fix)
        for warning in report.warnings:
            record.warn(warning)
        splits = [open_faces(report.output, name) for name, count in report.images.items() if count]
        train_on(splits, output, architecture, config, record)


def train_on(
    data: LabelledFaces | Sequence[LabelledFaces],
    output: Path | str,
    architecture: Architecture,
    config: SourceConfig,
    record: StageRecord,
) -> None:
    """Trains a source model on labelled faces and saves it.

    Args:
        data: The faces, or several splits of them, which are trained on together.
        output: Folder of the classifier to write.
        architecture: The network.
        config: Settings.
        record: Receives facts.

    Raises:
        UserError: The faces cannot train a classifier.
        TrainingDiverged: The loss is not finite.
    """
    splits = [data] if isinstance(data, LabelledFaces) else list(data)
    parts = [split.pixels(architecture.input_size, architecture.channels) for split in splits]
    pixels = parts[0] if len(parts) == 1 else np.concatenate(parts)
    labels, classes = np.concatenate([split.labels for split in splits]), splits[0].classes
    digest = splits[0].digest if len(splits) == 1 else digest_of([split.digest for split in splits])
    model = build_classifier(architecture, classes, seed=config.seed)
    determined_by: dict[str, Any] = {
        "config": asdict(config),
        "architecture": asdict(architecture),
        "faces": digest,
        "classes": classes,
    }
    with open_tracker("source") as tracker:
        result = train_supervised(
            model, pixels, labels, config, checkpoint=checkpoint_path("source", determined_by), tracker=tracker
        )
        lineage = {"faces": digest}
        save_trained(model.cpu().eval(), output, result, method="supervised", lineage=lineage, settings=asdict(config))
    record.facts.update(images_per_second=round(result.images / max(result.seconds, 1e-9), 1), steps=result.steps)
