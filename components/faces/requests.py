"""Pictures as requests to a server bring them: encoded files, base64 text, data URLs, nested lists of pixels."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np

from ..common.errors import UserError
from .decode import Limits, SkippedImage, encode_png, face_pixels


def requested_pixels(cell: Any, where: str, size: int, channels: int, limits: Limits | None = None) -> np.ndarray:
    """Decodes one picture of a request to the square that networks see; see :func:`ferry.faces.face_pixels`.

    Args:
        cell: An encoded picture (bytes, or base64 text, also as a data URL), or its pixels: whole numbers from 0 to
            255, [H, W], [H, W, 1 or 3] or [1 or 3, H, W], as an array or nested lists.
        where: What the request calls the place, for the message, as in ``row 3``.
        size: Side of the square, in pixels.
        channels: 1 or 3.
        limits: What is still accepted.

    Returns:
        uint8 [channels, size, size].

    Raises:
        UserError: It is no picture, or one beyond the limits.
    """
    try:
        return face_pixels(_encoded(cell), size, channels, limits)
    except (SkippedImage, ValueError) as error:
        fix = "Send a PNG or JPEG file (base64 in JSON), or pixels from 0 to 255."
        raise UserError(f"Expected `image` in {where} to be a picture, but got {error}. {fix}") from None


def _encoded(cell: Any) -> bytes:
    """Returns a picture as an encoded file.

    Raises:
        ValueError: It is none.
    """
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return bytes(cell)
    if isinstance(cell, str):
        text = cell.partition(",")[2] if cell.startswith("data:") else cell
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("text that is not base64") from None
    if isinstance(cell, (list, tuple, np.ndarray)):
        return encode_png(_as_uint8(cell))
    raise ValueError(f"a value of type {type(cell).__name__}")


def _as_uint8(cell: Any) -> np.ndarray:
    """Returns pixels as uint8 [H, W] or [H, W, 3]. Pixels from 0 to 1 are refused: as whole numbers they are black."""
    try:
        values = np.array(cell.tolist() if isinstance(cell, np.ndarray) and cell.dtype == object else cell)
    except ValueError:
        raise ValueError("rows of different lengths") from None
    if values.dtype.kind not in "uif" or not values.size:
        raise ValueError(f"pixels of type {values.dtype} and shape {values.shape}")
    if not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all():
        raise ValueError(f"pixels from {values.min():g} to {values.max():g} that are not whole numbers from 0 to 255")
    if values.ndim == 3 and values.shape[-1] not in (1, 3) and values.shape[0] in (1, 3):
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[-1] == 3):
        raise ValueError(f"pixels of shape {list(values.shape)}")
    return np.ascontiguousarray(values, dtype=np.uint8)
