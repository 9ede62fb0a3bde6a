"""What the teacher looks at: the faces as they are, their mirror images too, or one random view of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .config import View

if TYPE_CHECKING:
    from ..networks import SourceModel

Floats = npt.NDArray[np.float32]

_CHUNK = 8192  # random views in memory at a time


def teacher_outputs(model: SourceModel, pixels: np.ndarray, view: View, seed: int) -> tuple[Floats, Floats]:
    """Returns what a teacher in evaluation mode says about faces.

    Args:
        model: The teacher.
        pixels: Faces, uint8 [N, C, H, W], at the teacher's size and channels.
        view: As in :class:`~ferry.labelling.LabellingConfig`.
        seed: Draws the views where they are random; face i gets the same view whatever N is.

    Returns:
        Logits [N, classes] and features [N, D].

    Raises:
        UserError: The faces do not fit the model, or an output is not finite.
    """
    if view == "augmented":
        parts = [model.outputs(part) for part in _random_views(pixels, seed)]
    elif view == "flip":
        parts = [model.outputs(pixels), model.outputs(pixels[..., ::-1])]
    else:
        parts = [model.outputs(pixels)]
    logits, features = ([getattr(part, name).numpy() for part in parts] for name in ("logits", "features"))
    if view == "flip":
        return _mean_in_place(*logits), _mean_in_place(*features)
    return _joined(logits), _joined(features)


def _mean_in_place(one: Floats, other: Floats) -> Floats:
    """Returns the mean of both in the memory of the first: features of a million faces take gigabytes."""
    one += other
    one /= 2
    return one


def _joined(parts: list[Floats]) -> Floats:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _random_views(pixels: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yields the views that the authors' code predicts on: its training augmentation (strong turns and colours)."""
    import torch

    from ..training.views import ViewSpec, apply_views, sample_views

    size = pixels.shape[-1]
    spec = ViewSpec(
        size,
        ratio=(1.0, 1.0),
        flip=0.5,
        jitter=1.0,
        brightness=0.5,
        contrast=0.5,
        saturation=0.5,
        hue=0.5,
        rotation=35.0,
        translation=0.15,
        padding="zeros",
    )
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(pixels), _CHUNK):
        part = torch.from_numpy(np.array(pixels[start : start + _CHUNK]))
        views = apply_views(part, sample_views(spec, len(part), size, generator), spec)
        yield (views * 255).round().to(torch.uint8).numpy()
