"""Counter-based random numbers: row i of a stream is the same whoever asks for it, alone or in a batch."""

from __future__ import annotations

import hashlib

import numpy as np

_BLOCK = 4
"""Doubles that one Philox counter step yields."""


def uniforms(seed: int, stream: str, start: int, count: int, width: int) -> np.ndarray:
    """Returns rows ``start .. start + count`` of an endless table of uniform numbers.

    Every (seed, stream) names one table; a row never depends on the rows around it, so that faces can be drawn in
    any chunks, order or process.

    Args:
        seed: Any whole number.
        stream: Name of the table.
        start: First row, not negative.
        count: Number of rows.
        width: Numbers in a row; part of the table's identity only through the position of a number, so keep it fixed.

    Returns:
        float64 ``[count, width]`` in [0, 1).
    """
    padded = -(-width // _BLOCK) * _BLOCK
    bits = np.random.Philox(key=_key(seed, stream))
    bits.advance(start * (padded // _BLOCK))
    table: np.ndarray = np.random.Generator(bits).random((count, padded))
    return table[:, :width]


def gather_uniforms(seed: int, stream: str, rows: np.ndarray, width: int) -> np.ndarray:
    """Returns the given rows of the table of :func:`uniforms`; cheap where the rows lie close together.

    Args:
        seed: Any whole number.
        stream: Name of the table.
        rows: int64 ``[N]``, not negative.
        width: Numbers in a row.

    Returns:
        float64 ``[N, width]`` in [0, 1).
    """
    if rows.size == 0:
        return np.zeros((0, width))
    first, last = int(rows.min()), int(rows.max())
    found: np.ndarray = uniforms(seed, stream, first, last - first + 1, width)[rows - first]
    return found


def bell(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> np.ndarray:
    """Returns bell-shaped numbers in [-1, 1] with standard deviation 1/3 (mean of three uniforms, scaled).

    Bounded and free of transcendental functions, hence the same on every machine.
    """
    mixed: np.ndarray = (first + second + third) * (2.0 / 3.0) - 1.0
    return mixed


def _key(seed: int, stream: str) -> np.ndarray:
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return np.frombuffer(digest[:16], dtype=np.uint64)
