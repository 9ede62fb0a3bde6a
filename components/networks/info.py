"""What is known about a model besides its weights; the content of ``model.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .. import __version__
from ..common.errors import expected
from ..common.parameters import from_mapping
from .architecture import Architecture, Normalisation, check_classes

FORMAT = 1
"""Version of the layout of a saved model."""


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a model besides its weights.

    Attributes:
        kind: ``classifier`` or ``encoder``.
        architecture: The network.
        classes: Class names in the order of the outputs; None for an encoder.
        normalisation: What the network expects of its input.
        method: How the weights were made, such as ``clup``; empty for fresh weights.
        lineage: What they were made from: free names and digests, such as ``{"source": "3f..."}``.
        digest: SHA-256 over weights, architecture, classes and normalisation; empty until saved or loaded.
        ferry: Version of Ferry that wrote the model.
        format: Version of the layout on disk.
    """

    kind: Literal["classifier", "encoder"]
    architecture: Architecture
    classes: tuple[str, ...] | None
    normalisation: Normalisation
    method: str = ""
    lineage: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    ferry: str = __version__
    format: int = FORMAT

    def __post_init__(self) -> None:
        object.__setattr__(self, "lineage", dict(self.lineage))
        if self.kind not in ("classifier", "encoder"):
            raise expected("kind", "classifier or encoder", self.kind, "The model's description is damaged.")
        if (self.classes is None) != (self.kind == "encoder"):
            raise expected("classes", "given for classifiers only", self.classes, f"The model is of kind {self.kind}.")
        if self.classes is not None:
            object.__setattr__(self, "classes", check_classes(self.classes))
        if len(self.normalisation.mean) != self.architecture.channels:
            raise expected(
                "normalisation",
                f"of {self.architecture.channels} channel(s), as the architecture",
                self.normalisation.mean,
                "Give one mean and one deviation per channel.",
            )
        bad = {key: value for key, value in self.lineage.items() if not isinstance(value, str)}
        if bad:
            raise expected("lineage", "names to text", bad, "Convert the values to text.")

    def to_json(self) -> dict[str, Any]:
        """Returns what ``model.json`` holds."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Any, what: str) -> ModelInfo:
        """Builds the description from the content of ``model.json``.

        Args:
            value: The parsed JSON.
            what: Path of the file, for messages.

        Raises:
            UserError: The layout's version is unknown, or a field is missing, unknown or wrong.
        """
        if not isinstance(value, dict):
            raise expected(what, "a JSON object", value, "The file is damaged; make the model again.")
        version = value.get("format")
        if version != FORMAT:
            newer = isinstance(version, int) and version > FORMAT
            fix = "Install a newer Ferry." if newer else "The file is not a Ferry model."
            raise expected(f"{what}: format", f"the known version {FORMAT}", version, fix)
        missing = [name for name in ("kind", "architecture", "classes", "normalisation") if name not in value]
        if missing:
            raise expected(what, "complete", "no " + ", ".join(missing), "The file is damaged; make the model again.")
        parts = {
            "architecture": from_mapping(Architecture, value["architecture"], f"{what}: architecture."),
            "normalisation": from_mapping(Normalisation, value["normalisation"], f"{what}: normalisation."),
        }
        return from_mapping(cls, {**value, **parts}, f"{what}: ")
