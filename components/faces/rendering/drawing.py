"""From parameters to pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ...common.errors import expected
from . import effects
from .canvas import Canvas
from .features import draw_brows, draw_eyes, draw_mouth, draw_nose
from .head import (
    draw_back,
    draw_background,
    draw_beard,
    draw_glasses,
    draw_occluder,
    draw_skin,
    place_head,
)
from .parameters import FaceParameters, sample_faces
from .styles import Style

CHUNK = 128
"""Faces drawn at once: large enough to hide the cost of a call, small enough for the cache."""
LANES = 32
"""Chunks are filled up to a multiple of this, so that every face runs through the same vector instructions."""
SMALLEST = 16


def render(
    labels: np.ndarray,
    style: str | Style,
    seed: int,
    size: int = 48,
    channels: int = 1,
    *,
    start: int = 0,
    images_per_identity: int = 8,
) -> np.ndarray:
    """Draws one face for each label; the same arguments give the same bytes.

    Args:
        labels: Expressions, int64 ``[N]``, in the order of `EXPRESSIONS`.
        style: Name of a style, or one of your own.
        seed: Any whole number.
        size: Side in pixels, at least 16.
        channels: 1 for grey, 3 for colour.
        start: Position of the first face in its series; face ``start + i`` is the same in every batch.
        images_per_identity: How many faces in a row show the same person.

    Returns:
        uint8 ``[N, size, size]``, with a last axis of 3 in colour.

    Raises:
        UserError: An argument is out of its range.
    """
    return draw_faces(
        sample_faces(labels, style, seed, start=start, images_per_identity=images_per_identity), size, channels
    )


def draw_faces(parameters: FaceParameters, size: int = 48, channels: int = 1) -> np.ndarray:
    """Draws faces from their parameters.

    Args:
        parameters: Of N faces.
        size: Side in pixels, at least 16.
        channels: 1 for grey, 3 for colour.

    Returns:
        uint8 ``[N, size, size]``, with a last axis of 3 in colour.

    Raises:
        UserError: The size or the channels are out of range.
    """
    check_picture(size, channels)
    count = len(parameters)
    pictures = np.empty((count, channels, size, size), dtype=np.uint8)
    with torch.inference_mode(), _one_thread():
        for first in range(0, count, CHUNK):
            last = min(first + CHUNK, count)
            chunk = _draw_chunk(parameters.part(first, last), size, channels)
            pictures[first:last] = chunk[: last - first].numpy()
    return pictures[:, 0] if channels == 1 else np.ascontiguousarray(pictures.transpose(0, 2, 3, 1))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Draws on one thread: a chunk's operations are too small to share, and waiting threads starve a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_picture(size: int, channels: int) -> None:
    """Raises UserError where faces cannot be drawn at this size or with so many channels."""
    if size < SMALLEST:
        raise expected(
            "size", f"at least {SMALLEST}", size, "Smaller faces show no expression; draw 48 and shrink them."
        )
    if channels not in (1, 3):
        raise expected("channels", "1 or 3", channels, "Pass 1 for grey or 3 for colour.")


def _draw_chunk(parameters: FaceParameters, size: int, channels: int) -> Tensor:
    """Draws up to CHUNK faces: uint8 ``[faces or more, channels, size, size]``."""
    filling = -len(parameters) % LANES
    table = np.stack(list(parameters.values.values()))
    if filling:
        table = np.pad(table, ((0, 0), (0, filling)), mode="edge")
    values = dict(zip(parameters.values, torch.from_numpy(table).unbind(), strict=True))
    style = parameters.style
    canvas = Canvas(style, values, size, channels)
    head = place_head(values, size)
    draw_background(canvas)
    draw_back(canvas, head)
    lit, light = draw_skin(canvas, head)
    draw_beard(canvas, head)
    draw_nose(canvas, head)
    draw_eyes(canvas, head)
    draw_brows(canvas, head)
    draw_mouth(canvas, head)
    draw_glasses(canvas, head)
    lit.of(canvas.picture).mul_(light)
    draw_occluder(canvas)
    return _photograph(canvas)


def _photograph(canvas: Canvas) -> Tensor:
    style, values = canvas.style, canvas.values
    picture = effects.blur(canvas.picture, values, (style.blur[1], style.motion[1]), canvas.pixel)
    picture = effects.tint(effects.expose(picture, values), values)
    pictures = picture.permute(3, 0, 1, 2).contiguous()
    pictures = effects.add_noise(pictures, values, style.noise[1] > 0.0, style.grain[1] > 0.0)
    if style.blocks[1] > 0.0:
        pictures = effects.compress(pictures, values["blocks"].clamp(min=1e-3))
    return pictures.mul_(255.0).add_(0.5).clamp_(0.0, 255.0).to(torch.uint8)
