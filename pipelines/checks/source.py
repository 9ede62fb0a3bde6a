"""Rules for the values of the pipeline source. Knows no kfp: stages run it too, where kfp defines nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def choices() -> dict[str, tuple[str, ...]]:
    """Returns the words of every parameter that takes no others."""
    from ...networks.architecture import BACKBONES, HEADS, STEMS
    from ...training.config import PRECISIONS
    from .choices import layouts

    return {
        "faces_layout": layouts(),
        "network": BACKBONES,
        "network_stem": ("auto", *STEMS),
        "network_head": HEADS,
        "precision": PRECISIONS,
    }


def check(values: Mapping[str, Any]) -> None:
    """Checks values beyond their types, before anything runs.

    Raises:
        UserError: A value is not one of its choices or out of range.
    """
    from ...common.errors import expected, fields_as
    from ...networks.architecture import Architecture
    from ...source.config import SourceConfig
    from .choices import check_share, check_split, check_words

    check_words(values, choices())
    if not str(values["faces"]).strip():
        raise expected("faces", "a folder or s3://bucket/prefix", values["faces"], "Pass -p faces=FOLDER.")
    check_split("faces_split", values["faces_split"])
    check_share("faces_max_skipped", values["faces_max_skipped"])
    if not 0 <= values["training_label_smoothing"] < 1:
        smoothing = values["training_label_smoothing"]
        raise expected("training_label_smoothing", "at least 0 and below 1", smoothing, "Pass 0.1, or 0 for none.")
    names = ("width", "stem", "input_size", "channels", "bottleneck", "head")
    with fields_as("network_", *names, name="network"):
        Architecture(name=values["network"], **{name: values[f"network_{name}"] for name in names})
    fields = ("epochs", "batch_size", "learning_rate", "label_smoothing")
    with fields_as("training_", *fields):
        SourceConfig(**{name: values[f"training_{name}"] for name in fields})
