"""Expressions of image files, with a model from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import expected, fields_as
from ..common.files import finite
from ..common.progress import progress
from ..faces import SkippedImage, face_pixels
from ..faces.schema import FACES_FILE
from ..networks import SourceModel, load_source
from ..training.runs import download_model, is_registry_uri

_AT_ONCE = 512
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}


@dataclass(frozen=True)
class Prediction:
    """The displayed expression of one image.

    Attributes:
        image: Path of the image.
        label: The most likely class; empty where the image could not be read.
        probability: Its probability.
        probabilities: Class name to probability.
        note: Why there is no label.
    """

    image: str
    label: str = ""
    probability: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns plain finite values."""
        result: dict[str, Any] = finite(vars(self))
        return result


def predict_images(
    model: str, images: Sequence[Path | str], *, tracking_uri: str = "", trust: bool = False
) -> list[Prediction]:
    """Predicts the displayed expression of image files.

    Args:
        model: Model folder, foreign model, or ``models:/NAME@ALIAS``.
        images: Image files, or folders of them.
        tracking_uri: Where the registry is, for a model of the registry.
        trust: Whether a TorchScript file may be opened.

    Returns:
        One prediction per image, in order; one without a label for an image that cannot be read.

    Raises:
        UserError: There is no such model or no such image.
    """
    paths = list(_files(images))
    with fields_as("", source="model"):
        source = load_source(download_model(model, tracking_uri) if is_registry_uri(model) else model, trust)
    found: list[Prediction] = []
    stream = iter(paths)
    with progress("predicting", len(paths)) as bar:
        while batch := list(islice(stream, _AT_ONCE)):
            found.extend(_predict(source, batch))
            bar.advance(len(batch))
    return found


def _predict(source: SourceModel, paths: Sequence[Path]) -> list[Prediction]:
    pixels, notes = [], {}
    for path in paths:
        try:
            pixels.append(face_pixels(path.read_bytes(), source.input_size, source.channels))
        except (SkippedImage, OSError) as error:
            notes[path] = str(error)
    chances = iter(source.outputs(np.stack(pixels)).probabilities().numpy() if pixels else ())
    return [
        Prediction(str(path), note=notes[path]) if path in notes else _prediction(path, next(chances), source.classes)
        for path in paths
    ]


def _prediction(path: Path, chances: np.ndarray, classes: Sequence[str]) -> Prediction:
    best = int(chances.argmax())
    named = {name: float(chance) for name, chance in zip(classes, chances, strict=True)}
    return Prediction(str(path), classes[best], float(chances[best]), named)


def _files(images: Sequence[Path | str]) -> Iterator[Path]:
    for given in images:
        path = Path(given)
        if (path / FACES_FILE).is_file():
            fix = "Pass the pictures that it was imported from; a run with it as holdout evaluates a model on it."
            raise expected("images", "image files or folders of them, not a Faces folder", str(path), fix)
        if path.is_dir():
            found = sorted(entry for entry in path.rglob("*") if entry.suffix.lower() in _SUFFIXES)
            if not found:
                raise expected("images", "a folder with images", str(path), "Check the path.")
            yield from found
        elif path.exists():
            yield path
        else:
            raise expected("images", "existing files", str(path), "Check the path.")
