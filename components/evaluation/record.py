"""The sections of a report that speak of the run: pseudo-labels, curves, embeddings, parameters, what is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..common.progress import progress
from .arrays import to_numpy
from .embedding import Embedding, embed
from .evaluate import Evaluation
from .formats import count, percent, seconds, short, words
from .page import Cell, Figure, Figures, Remarks, Section, Table, Terms
from .plots import histogram_chart, legend_mark, line_chart, scatter_chart
from .quality import LabelQuality, pseudo_label_quality, purity_histogram

MAX_CURVES = 8
_TITLES = {
    "loss": "Loss",
    "max_code": "Largest code",
    "perplexity": "Prototype perplexity",
    "rank": "Feature rank",
    "spread": "Spread of embeddings",
    "prototype_spread": "Spread of prototypes",
    "accuracy": "Accuracy on the labels trained on",
    "learning_rate": "Learning rate",
}
_NO_CURVE = {"step", "epoch", "seconds", "images", "images_per_second", "time"}
_SECRET = re.compile(r"pass(word|wd)?$|secret|token|credential|api_?key|access_?key", re.IGNORECASE)


@dataclass(frozen=True)
class PseudoLabelData:
    """Pseudo-labels of the target images, for the report.

    Attributes:
        labels: Class indices [N].
        kept: Whether each trains the target model, bool [N].
        purity: Purity of each image's cluster [N], or None.
        true_labels: True class indices [N] where they happen to exist, -1 where one is unknown, or None.
        note: A line that says how they were made.
    """

    labels: Any
    kept: Any
    purity: Any = None
    true_labels: Any = None
    note: str = ""

    def quality(self, classes: Sequence[str]) -> LabelQuality:
        """Returns how many there are of each class, and how many are right where that is known."""
        return pseudo_label_quality(self.labels, self.kept, classes, self.true_labels)


@dataclass(frozen=True)
class History:
    """Records of one training.

    Attributes:
        name: What was trained, as a heading.
        records: One mapping per log line: ``step``, ``epoch`` and scalars.
        prototypes: Number of prototypes K where there are some: levels ln K, 1/K and K are drawn.
        note: A line below the heading.
        collapse: Signs of collapse that the training ended with, as sentences; its method says which there are.
        remarks: A sentence for a curve's caption, by the name of its scalar.
    """

    name: str
    records: Sequence[Mapping[str, Any]] = field(default_factory=list)
    prototypes: int | None = None
    note: str = ""
    collapse: Sequence[str] = ()
    remarks: Mapping[str, str] = field(default_factory=dict)

    def points(self, key: str) -> list[tuple[float, float]]:
        """Returns (x, value) of a scalar; x is the step, else the epoch, else the line's number."""
        found, x_name = [], self.x_name
        for index, record in enumerate(self.records):
            value: Any = record.get(key)
            x: Any = record.get(x_name, index)
            if _is_number(value) and _is_number(x):
                found.append((float(x), float(value)))
        return found

    @property
    def x_name(self) -> str:
        """Which field counts: step, epoch or line."""
        return next((key for key in ("step", "epoch") if any(_is_number(r.get(key)) for r in self.records)), "line")

    @property
    def curves(self) -> list[str]:
        """Names of the scalars, the well-known ones first."""
        seen = dict.fromkeys(k for record in self.records for k, v in record.items() if _is_number(v))
        others = [key for key in seen if key not in _TITLES and key not in _NO_CURVE]
        return [key for key in _TITLES if key in seen] + others


def pseudo_labels(data: PseudoLabelData, classes: Sequence[str]) -> Section:
    """Coverage and, where true labels exist, correctness of pseudo-labels; purity; lost classes."""
    quality = data.quality(classes)
    intro = (
        f"{count(quality.kept)} of {count(quality.n)} target faces ({percent(quality.coverage)}) keep a pseudo-label."
    )
    if quality.accuracy is not None:
        where = "all faces" if quality.known == quality.n else f"{count(quality.known)} of {count(quality.n)} faces"
        intro += (
            f" For this report only, the true label is known of {where}; no training saw it. There "
            f"{percent(quality.accuracy)} of all pseudo-labels are right, and {percent(quality.kept_accuracy)} of the "
            f"kept ones (mean over classes {percent(quality.kept_mean_class)})."
        )
    else:
        intro += " How many are right is not known; labels of the target's own faces (target_labels) would tell it."
    section = Section("pseudo-labels", "Pseudo-labels", f"{intro} {data.note}".strip())
    known = quality.accuracy is not None
    rows = [
        [
            Cell(name),
            Cell(count(item.given)),
            Cell(count(item.kept), "lost" if item.kept == 0 else percent(item.kept / item.given)),
            *([Cell(percent(item.right)), Cell(percent(item.found))] if known else []),
        ]
        for name, item in quality.per_class.items()
    ]
    heads = ["Class", "Given", "Kept", *(["Kept and right", "Found among kept"] if known else [])]
    note = (
        "Kept and right: share of the class's kept pseudo-labels that are right (precision). Found among kept: of the "
        "kept faces that truly are of the class, the share whose pseudo-label says so (recall)."
    )
    section.parts.append(Table("Pseudo-labels by class", heads, rows, note if known else ""))
    if data.purity is not None and len(to_numpy(data.purity)):
        edges, everything, kept = purity_histogram(data.purity, data.kept)
        mean = float(np.nanmean(to_numpy(data.purity).astype(float))) if everything.sum() else math.nan
        label = "Histogram of cluster purity, all faces and kept ones"
        caption = f"Mean purity {mean:.3f}. Grey: all faces; blue: kept ones." if math.isfinite(mean) else ""
        chart = histogram_chart(edges, everything, kept, "purity of the face's cluster", label)
        section.parts.append(Figures([Figure("Purity", chart, caption)]))
    return section


def curves(history: History, anchor: str) -> Section | None:
    """All curves of one training."""
    figures = []
    for key in history.curves[:MAX_CURVES]:
        points = history.points(key)
        title = _TITLES.get(key, key.replace("_", " ").capitalize())
        levels = _levels(key, history.prototypes)
        finite = [y for _, y in points if math.isfinite(y)]
        caption = f"From {short(finite[0])} to {short(finite[-1])}." if finite else "No finite value."
        if levels:
            caption += " Dashed: " + "; ".join(f"{name} = {short(value)}" for name, value in levels.items()) + "."
        if history.remarks.get(key):
            caption += f" {history.remarks[key]}"
        chart = line_chart(points, title, history.x_name, levels, f"{anchor} {key}")
        figures.append(Figure(title, chart, caption))
    if not figures:
        return None
    intro = history.note
    if history.prototypes:
        intro = (
            f"{intro} A collapsed pretraining stays at ln K (here ln {history.prototypes:,}) with a largest code near "
            "1/K; DeepClusterV2, whose codes stay flat in healthy trainings too, at ln K with a spread of prototypes "
            "near 0. A perplexity near K says that all prototypes are in use."
        ).strip()
    return Section(anchor, history.name, intro, [Figures(figures)])


def embeddings(
    evaluation: Evaluation, features: Mapping[str, Any], points: int, seed: int
) -> tuple[Section | None, list[str]]:
    """Pictures of the source's and the adapted model's features; says what could not be drawn."""
    wanted = list(dict.fromkeys([evaluation.source, evaluation.adapted]))
    drawn: dict[str, Embedding] = {}
    missing = []
    with progress("drawing embeddings", len(wanted), "pictures") as bar:
        for name in wanted:
            found = None if features.get(name) is None else embed(features[name], points, seed)
            if found is not None:
                drawn[name] = found
            elif features.get(name) is None:
                missing.append(f"No embedding of {name}: it exposes no features.")
            else:
                missing.append(f"No embedding of {name}: fewer than three faces, or the same features for all.")
            bar.advance()
    if not drawn:
        return None, missing
    by = "decision"
    colours = {name: evaluation.rows[name].decisions for name in drawn}
    if evaluation.labels is not None:
        by, colours = "true class", dict.fromkeys(drawn, evaluation.labels)
    figures = []
    for name, item in drawn.items():
        chart = scatter_chart(
            item.points, colours[name][item.indices], evaluation.classes, f"{item.method} of {name}'s features"
        )
        caption = f"{item.method} of {count(len(item.points))} faces."
        figures.append(Figure(name, chart, caption))
    legend = [(legend_mark(index, "c"), name) for index, name in enumerate(evaluation.classes)]
    intro = (
        f"Each point is a face, its shape and colour the {by}; near points have similar features. Distances between "
        "far groups mean little, and the pictures are not to the same scale."
    )
    return Section("embedding", "Features before and after", intro, [Figures(figures, legend)]), missing


def run_record(parameters: Mapping[str, Any], lineage: Mapping[str, Any], times: Mapping[str, float]) -> Section | None:
    """Parameters, lineage and times."""
    parts: list[Table] = []
    if times:
        total = sum(times.values())
        rows = [[Cell(k), Cell(seconds(v), bar=v / total if total > 0 else None)] for k, v in times.items()]
        rows.append([Cell("Together", strong=True), Cell(seconds(total), strong=True)])
        parts.append(Table("Time by stage", ["Stage", "Time"], rows))
    for caption, head, values in (("Lineage", "What", lineage), ("Parameters", "Parameter", parameters)):
        if values:
            pairs = _flat(values)
            parts.append(Table(caption, [head, "Value"], [[Cell(k), Cell(v)] for k, v in pairs], text=True))
    return Section("run", "The run", "", list(parts)) if parts else None


def left_out(remarks: Sequence[str]) -> Section | None:
    """What the report or the run leaves out, and why."""
    return Section("left-out", "What was left out", "", [Remarks(list(remarks))]) if remarks else None


def reading() -> Section:
    """What the terms mean and what the model must not be used for."""
    terms = (
        ("Source model", "the model as it came, trained elsewhere; it never saw the target."),
        ("Target, holdout", "the new domain; its holdout has labels that adaptation never sees."),
        ("AdaBN", "the source model with the target's statistics in batch normalisation: a baseline to beat."),
        ("Pseudo-label", "the expression that a teacher model gave a target face; training takes it for the truth."),
        ("Purity", "share of the most frequent teacher label among the faces of a cluster; 1 is agreement."),
        ("Accuracy", "share of faces that are decided right. Frequent classes weigh most."),
        ("Mean-class accuracy", "mean of the recalls of all classes; every class weighs the same."),
        ("Spread of classes", "standard deviation of those recalls; 0 is even."),
        (
            "Calibration error (ECE)",
            "mean distance of confidence and accuracy over 15 bins of the top probability; 0 is best.",
        ),
        ("Interval of 95 %", "Wilson's for shares, Newcombe's for paired differences, joined over classes in squares."),
        ("Neighbourhood density", "soft neighbourhood density: higher where decisions form tight groups."),
        ("Feature rank", "effective rank (RankMe): how many directions of the features are in use."),
    )
    return Section(
        "reading",
        "How to read this",
        "The model names the expression that a face displays, not what a person feels. Article 5(1)(f) of the EU AI "
        "Act forbids inferring people's emotions at work and in education, except for medical or safety reasons.",
        [Terms(terms)],
    )


def _levels(key: str, prototypes: int | None) -> dict[str, float]:
    if not prototypes or prototypes < 2:
        return {}
    levels = {"loss": {"ln K": math.log(prototypes)}, "max_code": {"1/K": 1 / prototypes}}
    return levels.get(key, {"K": float(prototypes)} if key == "perplexity" else {})


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{name}.")
        else:
            pairs.append((name, "hidden" if _SECRET.search(name) and value else words(value)))
    return pairs


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
