"""The model card: what a model is for, what it must not be used for, what it was made of and how well it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import __version__
from ..common.errors import expected
from ..common.files import read_json, write_json, write_text
from ..networks import ModelInfo

CARD_JSON = "card.json"
CARD_MARKDOWN = "card.md"

INTENDED_USE = (
    "Research on and engineering of facial-expression recognition in the target domain described below.",
    "It predicts the expression that a face displays. It does not predict what a person feels.",
    "Decisions about people need a person who can overrule the model.",
)
PROHIBITED_USE = (
    "Inferring emotions of people at work or in education: prohibited in the European Union by the AI Act, "
    "Article 5(1)(f), except for medical or safety reasons.",
    "Deciding about hiring, grading, credit, insurance, policing, migration or access on its output.",
    "Identifying people, or inferring health, honesty, personality or any protected attribute.",
)
LIMITS = (
    "Pseudo-labels come from the source model; classes that it confuses in the target domain stay confused.",
    "Results hold for the holdout above. Other cameras, ages, skin tones or cultures of expression need their own.",
    "Probabilities are calibrated only as far as the ECE above says.",
)
_REQUIRED = ("name", "summary", "method", "classes", "input", "intended_use", "prohibited_use", "data", "limits", "lineage")


@dataclass(frozen=True)
class ModelCard:
    """What a person must know before using a model.

    Attributes:
        name: Name in the registry.
        version: Version in the registry; empty before it is registered.
        summary: One sentence.
        method: How the model was made.
        classes: Class names in the order of the outputs.
        input: What the model takes.
        intended_use: What it is for.
        prohibited_use: What it must not be used for.
        data: What it was made and measured on.
        results: Metrics per row; empty without a labelled holdout.
        per_class: Recall, precision and count of the adapted model per class.
        limits: What is known not to work, or not known.
        lineage: Digests of everything it was made of.
        created: Time (ISO 8601, UTC).
        ferry: Version of Ferry.
    """

    name: str
    version: str = ""
    summary: str = ""
    method: str = ""
    classes: tuple[str, ...] = ()
    input: str = ""
    intended_use: tuple[str, ...] = INTENDED_USE
    prohibited_use: tuple[str, ...] = PROHIBITED_USE
    data: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    per_class: dict[str, Any] = field(default_factory=dict)
    limits: tuple[str, ...] = LIMITS
    lineage: dict[str, str] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    ferry: str = __version__

    def missing(self) -> list[str]:
        """Returns the names of required fields that are empty."""
        return [name for name in _REQUIRED if not getattr(self, name)]

    def write(self, folder: Path | str) -> None:
        """Writes the card for people (Markdown) and for programs (JSON)."""
        write_json(Path(folder) / CARD_JSON, asdict(self))
        write_text(Path(folder) / CARD_MARKDOWN, self.to_markdown())

    def to_markdown(self) -> str:
        """Returns the card as Markdown."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(  # noqa: S701 - Markdown, not HTML
            loader=FileSystemLoader(Path(__file__).with_name("templates")), undefined=StrictUndefined, trim_blocks=True
        )
        environment.filters["percent"] = lambda value: "not known" if value is None else f"{100 * value:.1f} %"
        environment.filters["number"] = lambda value: "not known" if value is None else f"{value:.3f}"
        return environment.get_template("card.md.jinja").render(card=self)


def read_card(folder: Path | str) -> ModelCard:
    """Reads ``card.json``.

    Raises:
        UserError: It is missing or damaged.
    """
    values = read_json(Path(folder) / CARD_JSON, "model card")
    known = {entry.name for entry in fields(ModelCard)}
    if not isinstance(values, Mapping) or not set(values) <= known or "name" not in values:
        raise expected("model card", "a card of Ferry", str(Path(folder) / CARD_JSON), "Register the model again.")
    tuples = ("classes", "intended_use", "prohibited_use", "limits")
    return ModelCard(**{key: tuple(value) if key in tuples else value for key, value in values.items()})


def make_card(name: str, info: ModelInfo, metrics: Mapping[str, Any], evaluation: Mapping[str, Any]) -> ModelCard:
    """Makes the card of an adapted model.

    Args:
        name: Name in the registry.
        info: What is known about the model.
        metrics: Row name to metrics, as in ``run.json``; ``n`` is 0 without a labelled holdout.
        evaluation: The content of ``metrics.json`` of the evaluation.
    """
    labelled = {row: values for row, values in metrics.items() if values.get("n")}
    architecture = info.architecture
    kind = "grey" if architecture.channels == 1 else "RGB"
    images = evaluation.get("images", 0)
    return ModelCard(
        name=name,
        summary=f"A {architecture.name} that was adapted with {info.method} to unlabelled faces of a target domain, "
        "without the data of its source domain.",
        method=info.method,
        classes=tuple(info.classes or ()),
        input=f"{kind} face crops, resized to {architecture.input_size} x {architecture.input_size} pixels",
        data={
            "target faces (unlabelled, digest)": info.lineage.get("target", "not known"),
            "evaluated on": f"{images:,} labelled faces" if labelled else "no labelled faces",
        },
        results=labelled,
        per_class=dict(labelled.get("adapted", {}).get("per_class", {})),
        lineage={**info.lineage, "model": info.digest},
    )
