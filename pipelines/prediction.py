"""Expressions of image files, with a model from anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import expected
from ..common.files import finite
from ..faces import SkippedImage, face_pixels
from ..networks import load_source
from ..training.runs import download_model, is_registry_uri

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
    if is_registry_uri(model) and tracking_uri:
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    source = load_source(download_model(model) if is_registry_uri(model) else model, trust)
    paths = list(_files(images))
    pixels, notes = [], {}
    for path in paths:
        try:
            pixels.append(face_pixels(path.read_bytes(), source.input_size, source.channels))
        except (SkippedImage, OSError) as error:
            notes[path] = str(error)
    readable = [path for path in paths if path not in notes]
    chances = source.outputs(np.stack(pixels)).probabilities().numpy() if pixels else np.zeros((0, 1))
    rows = dict(zip(readable, chances, strict=True))
    return [_prediction(path, rows.get(path), source.classes, notes.get(path, "")) for path in paths]


def _prediction(path: Path, chances: Any, classes: Sequence[str], note: str) -> Prediction:
    if chances is None:
        return Prediction(str(path), note=note)
    best = int(chances.argmax())
    named = {name: float(chance) for name, chance in zip(classes, chances, strict=True)}
    return Prediction(str(path), classes[best], float(chances[best]), named)


def _files(images: Sequence[Path | str]) -> Iterator[Path]:
    for given in images:
        path = Path(given)
        if path.is_dir():
            found = sorted(entry for entry in path.rglob("*") if entry.suffix.lower() in _SUFFIXES)
            if not found:
                raise expected("images", "a folder with images", str(path), "Check the path.")
            yield from found
        elif path.exists():
            yield path
        else:
            raise expected("images", "existing files", str(path), "Check the path.")
