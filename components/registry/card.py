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
    "results",
    "limits",
    "lineage",
)
_MEASURED = ("accuracy", "mean_class_accuracy", "n")
_LABEL_FREE = ("mean_confidence", "mean_entropy", "classes_used", "shares", "n")
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
        results: By row of the evaluation: ``accuracy_measured``, and with it the metrics on the labelled holdout, or
            without one ``label_free``, the signals that need no labels.
        per_class: Recall, its interval, precision and count of the adapted model per class; empty without a holdout.
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

    @property
    def measured(self) -> bool:
        """Whether accuracy was measured, on a labelled holdout."""
        return any(not _says_unmeasured(row) for row in self.results.values())

    def missing(self) -> list[str]:
        """Returns the names of what a complete card has and this one lacks.

        Complete is a card with all its texts; with data that it was made from and measured on; and with results. Those
        of a labelled holdout have accuracy, mean-class accuracy and count for every row, and recall and count for every
        class. Without a holdout every row says ``accuracy_measured: false`` and has the label-free signals: a model
        may be promoted without labels, but not in silence.

        Returns:
            Names such as ``prohibited_use``, ``data.adapted to`` or ``per_class.fear``.
        """
        found = [name for name in _REQUIRED if _blank(getattr(self, name))]
        for name in ("data", "lineage"):
            found += [f"{name}.{key}" for key, value in getattr(self, name).items() if _blank(value)]
        if "data" not in found:
            made = "trained on" if "trained on" in self.data else "adapted to"
            found += [f"data.{key}" for key in (made, "evaluated on") if key not in self.data]
        for name, row in self.results.items():
            found += [f"results.{name}{key}" for key in _missing_results(row)]
        if self.measured:
            lacking = [name for name in self.classes if not _has_recall(self.per_class.get(name))]
            found += [f"per_class.{name}" for name in lacking] if self.per_class else ["per_class"]
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
    unlabelled = {
        row: {"accuracy_measured": False, "label_free": dict(values["label_free"])}
        for row, values in rows.items()
        if values.get("label_free")
    }
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
        results=finite(labelled or unlabelled),
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
    return {"accuracy_measured": True, **{name: row["metrics"].get(name) for name in names}, **intervals}


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
    elif "kept" in target:
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


def _missing_results(row: Any) -> list[str]:
    """Returns what a row of the results lacks, as it continues the row's name."""
    if not isinstance(row, Mapping):
        return [""]
    if not _says_unmeasured(row):
        return [f".{key}" for key in _MEASURED if not _is_given(key, row.get(key))]
    signals = row.get("label_free")
    if not isinstance(signals, Mapping) or not signals:
        return [".label_free"]
    return [f".label_free.{key}" for key in _LABEL_FREE if not _is_given(key, signals.get(key))]


def _says_unmeasured(row: Any) -> bool:
    return isinstance(row, Mapping) and row.get("accuracy_measured") is False


def _has_recall(row: Any) -> bool:
    if not isinstance(row, Mapping) or not _is_number(row.get("n")):
        return False
    return row["n"] == 0 or _is_number(row.get("recall"))  # a class of which the holdout has no face has no recall


def _is_given(key: str, value: Any) -> bool:
    if key == "shares":
        return isinstance(value, Mapping) and bool(value) and all(map(_is_number, value.values()))
    return _is_number(value) and (key != "n" or value > 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _percent(value: float | None, none: str = "not known") -> str:
    return none if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"


def _interval(value: Any) -> str:
    return f" ({100 * value[0]:.1f} to {100 * value[1]:.1f})" if value else ""


def _cell(value: Any) -> str:
    """Returns text that cannot break a row of a table."""
    return " ".join(str(value).replace("|", "\\|").split())
