"""The source stage on artifacts: labelled faces in, a source model out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..common.checkpoints import checkpoint_path
from ..common.errors import UserError, expected
from ..common.files import write_text
from ..common.parameters import from_mapping
from ..common.stage import StageRecord
from ..faces import LabelledFaces, import_faces, open_faces
from ..faces.readers import reader
from ..faces.splits import TRAIN
from ..faces.stage import named_as
from ..networks import Architecture, build_classifier
from ..networks.trained import save_trained
from ..training import open_tracker
from ..training.launch import launch
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

    The imported faces are not an artifact, and neither their pixels nor copies from an object store are in the cache
    that stages share: source images must not be where an adaptation could read them.

    Args:
        source: Folder, file, or s3://bucket/prefix of labelled faces.
        layout: Name of the layout, or auto.
        split: The split to train on; empty takes all, as one.
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
        cache = Path(folder) / "cache"
        wanted: dict[str, Any] = {"max_skipped": max_skipped, **({"take": split} if split else {"merge": TRAIN})}
        with _listing_kept(Path(folder), Path(output)), named_as("faces"):
            found = reader(layout, source, cache)
            report = import_faces(source, Path(folder) / "faces", found, overlap="allow", **wanted)
        if report.classes is None:
            fix = "Name a layout with labels (--layout; see: ferry faces layouts)."
            raise expected("faces", "labelled", f"{source} in the layout {report.layout}, without labels", fix)
        for warning in report.warnings:
            record.warn(warning)
        given = {"network": asdict(architecture), "choices": asdict(config)}
        launch(train_source_on, {"faces": report.output}, output, record, **given)


def train_source_on(
    inputs: Mapping[str, Path | str],
    output: Path | str,
    record: StageRecord,
    *,
    network: Mapping[str, Any],
    choices: Mapping[str, Any],
) -> None:
    """Trains a source model on imported faces; the work of every process of a distributed training.

    Args:
        inputs: Path of ``faces``, a folder beside which decoded pixels may be kept.
        output: Folder of the classifier to write.
        record: Receives facts.
        network: Fields of :class:`~ferry.networks.Architecture`.
        choices: Fields of :class:`SourceConfig`.
    """
    faces = Path(inputs["faces"])
    architecture, config = Architecture(**network), SourceConfig(**choices)
    train_on(open_faces(faces), output, architecture, config, record, cache=faces.with_name("cache"))


@contextmanager
def _listing_kept(folder: Path, output: Path) -> Iterator[None]:
    """Puts the list of skipped faces, which an error names, beside `output`: the folder of the import goes."""
    try:
        yield
    except UserError as error:
        message = str(error)
        for path in folder.glob("*.csv"):
            kept = output.with_name(path.name)
            write_text(kept, path.read_text(encoding="utf-8"))
            message = message.replace(str(path), str(kept))
        raise UserError(message) from None


def train_on(
    faces: LabelledFaces,
    output: Path | str,
    architecture: Architecture,
    config: SourceConfig,
    record: StageRecord,
    *,
    cache: Path | None = None,
) -> None:
    """Trains a source model on labelled faces and saves it.

    Args:
        faces: The faces.
        output: Folder of the classifier to write.
        architecture: The network.
        config: Settings.
        record: Receives facts.
        cache: Where the decoded faces are kept; ``$FERRY_CACHE``, else ``~/.cache/ferry`` by default.

    Raises:
        UserError: The faces cannot train a classifier.
        TrainingDiverged: The loss is not finite.
    """
    pixels = faces.pixels(architecture.input_size, architecture.channels, cache)
    model = build_classifier(architecture, faces.classes, seed=config.seed)
    determined_by: dict[str, Any] = {
        "config": asdict(config),
        "architecture": asdict(architecture),
        "faces": faces.digest,
        "classes": faces.classes,
    }
    with open_tracker("source") as tracker:
        result = train_supervised(
            model, pixels, faces.labels, config, checkpoint=checkpoint_path("source", determined_by), tracker=tracker
        )
        lineage = {"faces": faces.digest}
        tracker.link("model", output)
        save_trained(model.cpu().eval(), output, result, method="supervised", lineage=lineage, settings=asdict(config))
    record.facts.update(images_per_second=round(result.images / max(result.seconds, 1e-9), 1), steps=result.steps)
