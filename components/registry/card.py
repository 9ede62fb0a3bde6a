"""The model card: what a model is for, what it must not be used for, what it was made of and how well it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..common.errors import expected
from ..common.files import digest_of, finite, read_json, write_json, write_text

if TYPE_CHECKING:
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
_LIMITS = (
    "Pseudo-labels come from the source model; classes that it confuses in the target domain stay confused.",
    "Other cameras, ages, skin tones or cultures of expression than the target's need their own evaluation.",
)
_LABELLED_LIMITS = (
    "Results hold for the holdout that they were measured on.",
    "Probabilities are calibrated only as far as the ECE says.",
)
_UNLABELLED_LIMITS = ("No labelled holdout was given: neither accuracy nor calibration in the target domain is known.",)
_NO_GROUPS = "Results per group of people (age, skin tone, gender) were not measured: no groups were given."
_REQUIRED = (
    "name",
    "summary",
    "method",
    "classes",
    "input",
    "intended_use",
    "prohibited_use",
    "data",
    "limits",
    "lineage",
)
_TUPLES = ("classes", "intended_use", "prohibited_use", "limits", "warnings")
_MAPPINGS = ("data", "results", "per_class", "groups", "lineage")


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
        verdict: What the evaluation concluded, against the source model.
        warnings: What the evaluation warned of.
        results: Metrics per row of the evaluation; empty without a labelled holdout.
        per_class: Recall, its interval, precision and count of the adapted model per class.
        groups: Metrics of the adapted model per group of people; empty where no groups are known.
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
    intended_use: tuple[str, ...] = ()
    prohibited_use: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    verdict: str = ""
    warnings: tuple[str, ...] = ()
    results: dict[str, Any] = field(default_factory=dict)
    per_class: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Any] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    lineage: dict[str, str] = field(default_factory=dict)
    created: str = ""
    ferry: str = ""

    def missing(self) -> list[str]:
        """Returns the names of required fields that are empty, such as ``prohibited_use`` or ``data.adapted to``."""
        found = [name for name in _REQUIRED if _blank(getattr(self, name))]
        for name in ("data", "lineage"):
            found += [f"{name}.{key}" for key, value in getattr(self, name).items() if _blank(value)]
        if self.results and not self.per_class:
            found.append("per_class")
        return found

    def write(self, folder: Path | str) -> None:
        """Writes the card for people (Markdown) and for programs (JSON)."""
        write_json(Path(folder) / CARD_JSON, asdict(self))
        write_text(Path(folder) / CARD_MARKDOWN, self.to_markdown())

    def to_markdown(self) -> str:
        """Returns the card as Markdown."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(  # noqa: S701 - Markdown, not HTML
            loader=FileSystemLoader(Path(__file__).parent),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters.update(percent=_percent, number=_number, interval=_interval, cell=_cell)
        return environment.get_template("card.md.jinja").render(card=self)


def read_card(folder: Path | str) -> ModelCard:
    """Reads ``card.json``. A field that is not there stays empty, so that :meth:`ModelCard.missing` names it.

    Raises:
        UserError: It is missing or damaged.
    """
    path = Path(folder) / CARD_JSON
    values: Any = read_json(path, "model card")
    fix = "Register the model again, or install the version of Ferry that wrote it."
    if not isinstance(values, Mapping):
        raise expected("model card", "a JSON object", str(path), fix)
    known = {entry.name for entry in fields(ModelCard)}
    surplus = sorted(set(values) - known)
    wrong = [name for name in known & set(values) if not _right_type(name, values[name])]
    if surplus or wrong or "name" not in values:
        problem = f"unknown or wrong fields {[*surplus, *sorted(wrong)]}" if surplus or wrong else "no name"
        raise expected("model card", "a card of Ferry", f"{path}: {problem}", fix)
    ready: dict[str, Any] = {key: tuple(value) if key in _TUPLES else value for key, value in values.items()}
    return ModelCard(**ready)


def make_card(name: str, info: ModelInfo, evaluation: Mapping[str, Any]) -> ModelCard:
    """Makes the card of a classifier.

    Args:
        name: Name in the registry.
        info: What is known about the model.
        evaluation: The content of ``metrics.json`` of the evaluation.
    """
    rows = _rows(evaluation)
    labelled = {row: _result(values) for row, values in rows.items() if values["metrics"].get("n")}
    adapted = rows.get(str(evaluation.get("adapted", "adapted")), {})
    groups = {key: value for key, value in adapted.get("groups", {}).items() if value.get("n")}
    architecture = info.architecture
    kind = "grey" if architecture.channels == 1 else "RGB"
    size = architecture.input_size
    known = (*_LABELLED_LIMITS, *(() if groups else (_NO_GROUPS,))) if labelled else _UNLABELLED_LIMITS
    return ModelCard(
        name=name,
        summary=_summary(info),
        method=info.method,
        classes=tuple(info.classes or ()),
        input=f"{kind} face crops; the central square is resized to {size} x {size} pixels",
        intended_use=INTENDED_USE,
        prohibited_use=PROHIBITED_USE,
        data=_data(info, evaluation, bool(labelled)),
        verdict=" ".join(str(evaluation.get("verdict", {}).get(key, "")) for key in ("sentence", "advice")).strip(),
        warnings=tuple(str(one["text"]) for one in evaluation.get("alarms", ()) if one["level"] == "warning"),
        results=finite(labelled),
        per_class=finite(_per_class(adapted)) if labelled else {},
        groups=finite(groups),
        limits=(*_LIMITS, *known),
        lineage={**info.lineage, "model": info.digest, "evaluation": digest_of(dict(evaluation))},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        ferry=__version__,
    )


def _rows(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the rows of an evaluation in its order; ``metrics`` alone where there are no rows."""
    rows = evaluation.get("rows") or {}
    if rows:
        return {name: rows[name] for name in evaluation.get("order", rows)}
    return {name: {"metrics": values} for name, values in evaluation.get("metrics", {}).items()}


def _result(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("accuracy", "mean_class_accuracy", "min_class_accuracy", "class_std", "ece", "n")
    details = row.get("details", {})
    intervals = {name: details.get(name) for name in ("accuracy_interval", "mean_class_interval")}
    return {**{name: row["metrics"].get(name) for name in names}, **intervals}


def _per_class(row: Mapping[str, Any]) -> dict[str, Any]:
    intervals = row.get("details", {}).get("recall_intervals", {})
    found = row.get("metrics", {}).get("per_class", {})
    return {name: {**values, "recall_interval": intervals.get(name)} for name, values in found.items()}


def _summary(info: ModelInfo) -> str:
    if "faces" in info.lineage:
        return f"A {info.architecture.name} that was trained with {info.method} on labelled faces."
    return (
        f"A {info.architecture.name} that was adapted with {info.method} to unlabelled faces of a target domain, "
        "without the data of its source domain."
    )


def _data(info: ModelInfo, evaluation: Mapping[str, Any], labelled: bool) -> dict[str, str]:
    """Returns what the model was made and measured on; an unknown digest stays empty and makes the card incomplete."""
    target, digest = evaluation.get("target") or {}, info.lineage.get("target", "")
    count = f"{target['images']:,} " if target else ""
    made = {"adapted to": f"{count}unlabelled faces with the digest {digest}" if digest else ""}
    if "faces" in info.lineage:
        made = {"trained on": f"labelled faces with the digest {info.lineage['faces']}"}
    elif target:
        kept = ", ".join(f"{name} {number:,}" for name, number in target["kept"].items())
        made["pseudo-labels trained on"] = f"{sum(target['kept'].values()):,} ({kept})"
    images, scored = int(evaluation.get("images", 0)), evaluation.get("scored_classes", ())
    measured = f"{images:,} {'labelled' if labelled else 'unlabelled target'} faces"
    if labelled and 0 < len(scored) < len(info.classes or ()):
        measured += f"; scored classes: {', '.join(scored)}"
    return {**made, "evaluated on": measured}


def _right_type(name: str, value: Any) -> bool:
    if name in _TUPLES:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, dict if name in _MAPPINGS else str)


def _blank(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, (tuple, list)):
        return all(_blank(item) for item in value)
    return value is None or value == {}


def _percent(value: float | None, none: str = "not known") -> str:
    return none if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"


def _interval(value: Any) -> str:
    return f" ({100 * value[0]:.1f} to {100 * value[1]:.1f})" if value else ""


def _cell(value: Any) -> str:
    """Returns text that cannot break a row of a table."""
    return " ".join(str(value).replace("|", "\\|").split())
