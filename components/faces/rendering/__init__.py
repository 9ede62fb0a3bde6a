"""A renderer of parametric faces that show the seven expressions, in several styles, deterministic by seed."""

from __future__ import annotations

from ..schema import EXPRESSIONS
from .dataset import BALANCES, render_faces, sample_labels
from .drawing import draw_faces, render
from .expressions import ACTION_UNITS
from .parameters import FaceParameters, sample_faces
from .styles import PARTS, STYLES, Ink, Style, get_style

__all__ = [
    "ACTION_UNITS",
    "BALANCES",
    "EXPRESSIONS",
    "PARTS",
    "STYLES",
    "FaceParameters",
    "Ink",
    "Style",
    "draw_faces",
    "get_style",
    "render",
    "render_faces",
    "sample_faces",
    "sample_labels",
]
