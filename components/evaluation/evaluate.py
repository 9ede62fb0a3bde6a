"""Evaluates any number of models on one set of target images, with or without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..common.errors import expected, unknown
from ..common.files import finite, write_json
from .alarms import Alarm, evidence_alarms, share_alarms
from .arrays import Floats, Integers, check_classes, check_labels, check_scores
from .intervals import Difference, paired_difference
from .labelfree import LabelFree, label_free_metrics, predicted_shares
from .metrics import Metrics, classification_metrics, group_metrics
from .verdict import Verdict, judge, judge_alone, judge_without_labels

FORMAT = 1
_METRICS = ("accuracy", "mean_class_accuracy")


class OutputsLike(Protocol):
    """What a model says about N images; ``ferry.networks.Outputs`` is one."""

    @property
    def logits(self) -> Any:
        """Logits [N, C]."""

    @property
    def features(self) -> Any:
        """Features [N, D], or None."""


@dataclass(frozen=True)
class RowEvaluation:
    """One model.

    Attributes:
        metrics: Metrics among all classes; n = 0 without labels.
        restricted: Metrics with decisions among the scored classes only; None where all classes are scored.
        label_free: Signals that need no labels.
        decisions: Class indices [N].
        groups: Metrics per group value; empty without groups or labels.
    """

    metrics: Metrics
    restricted: Metrics | None
    label_free: LabelFree
    decisions: Integers
    groups: Mapping[str, Metrics] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        classes: Class names in index order.
        scored_classes: Those that count.
        images: Number of images, labelled or not.
        labels: True class indices [N], or None.
        source: Name of the source row.
        adapted: Name of the adapted row.
        rows: Every model by name, in the given order.
        differences: ``row - source`` by row and metric; empty without labels.
        rival: Name of the best row beside these two, AdaBN in a run of CluP; "" where there is none or no label.
        to_rival: ``row - rival`` by row and metric, the source left out; empty without a rival.
        verdict: The verdict in words.
        alarms: What the reader must not overlook; warnings first.
        true_shares: True share of each class, or None without labels.
    """

    classes: tuple[str, ...]
    scored_classes: tuple[str, ...]
    images: int
    labels: Integers | None
    source: str
    adapted: str
    rows: Mapping[str, RowEvaluation]
    differences: Mapping[str, Mapping[str, Difference]]
    rival: str
    to_rival: Mapping[str, Mapping[str, Difference]]
    verdict: Verdict
    alarms: tuple[Alarm, ...]
    true_shares: Mapping[str, float | None] | None

    @property
    def labelled(self) -> int:
        """Number of labelled images that are scored."""
        return self.rows[self.adapted].metrics.n

    def run_metrics(self) -> dict[str, Any]:
        """Returns the ``metrics`` of ``run.json``: ``source`` and ``adapted``."""
        return {
            "source": finite(self.rows[self.source].metrics.to_json()),
            "adapted": finite(self.rows[self.adapted].metrics.to_json()),
        }

    def to_json(self) -> dict[str, Any]:
        """Returns everything but single decisions, as plain finite values; rows keep their order in ``order``."""
        rows = {
            name: {
                "metrics": row.metrics.to_json(),
                "details": row.metrics.details(),
                "restricted": None if row.restricted is None else row.restricted.to_json(),
                "label_free": row.label_free.to_json(),
                "groups": {group: item.to_json() for group, item in row.groups.items()},
            }
            for name, row in self.rows.items()
        }
        value = {
            "format": FORMAT,
            "classes": self.classes,
            "scored_classes": self.scored_classes,
            "images": self.images,
            "n": self.labelled,
            "source": self.source,
            "adapted": self.adapted,
            "order": list(self.rows),
            "rows": rows,
            "metrics": self.run_metrics(),
            "differences": _plain(self.differences),
            "rival": self.rival,
            "differences_to_rival": _plain(self.to_rival),
            "verdict": vars(self.verdict),
            "alarms": [vars(alarm) for alarm in self.alarms],
            "true_shares": None if self.true_shares is None else dict(self.true_shares),
        }
        result: dict[str, Any] = finite(value)
        return result

    def write(self, path: Path | str) -> None:
        """Writes ``metrics.json`` crash-safely."""
        write_json(path, self.to_json())


def evaluate(
    rows: Mapping[str, OutputsLike],
    labels: Any,
    classes: Sequence[str],
    *,
    source: str = "",
    adapted: str = "",
    scored_classes: Sequence[str] | None = None,
    groups: Sequence[Any] | None = None,
    alarms: Sequence[Alarm] = (),
    seed: int = 0,
) -> Evaluation:
    """Evaluates models on the same images.

    Args:
        rows: Name and outputs (logits [N, C], features [N, D] or None) of each model, in the report's order.
        labels: True class indices [N]; None or an empty list without a labelled holdout.
        classes: The C class names in index order.
        source: Name of the source row; default the first.
        adapted: Name of the adapted row; default the last.
        scored_classes: Classes that count; default all. Others stay decidable, but a second set of metrics has the
            decisions among the scored ones only.
        groups: One value per image, for metrics per group.
        alarms: What the caller knows to speak against the adapted model or to limit the evidence.
        seed: Draws images for the signals that cannot take all.

    Raises:
        UserError: There is no row, a name is unknown, shapes do not fit or a value is NaN or infinite.
    """
    names = check_classes(classes)
    source, adapted = _roles(rows, source, adapted)
    images = len(check_scores(rows[source].logits, names, f"{source}.logits"))
    truth = None if labels is None or len(labels) == 0 else check_labels(labels, len(names), images)
    for name, row in rows.items():
        if (got := len(check_scores(row.logits, names, f"{name}.logits"))) != images:
            raise expected(f"{name}.logits", f"as many as {source}'s ({images})", got, "Use one split for all models.")
    base = _decisions(check_scores(rows[source].logits, names, source))
    scored = None if scored_classes is None else check_classes(scored_classes, "scored_classes")
    done = {
        name: _row(row, names, truth, scored, groups, None if name == source else base, seed)
        for name, row in rows.items()
    }
    return _conclude(done, names, scored or names, truth, source, adapted, alarms)


def _roles(rows: Mapping[str, OutputsLike], source: str, adapted: str) -> tuple[str, str]:
    if not rows:
        raise expected("rows", "at least one model", "none", "Pass the outputs of the source and the adapted model.")
    for kind, name in (("source", source), ("adapted", adapted)):
        if name and name not in rows:
            raise unknown(kind, name, list(rows))
    order = list(rows)
    return source or order[0], adapted or order[-1]


def _row(
    outputs: OutputsLike,
    names: tuple[str, ...],
    truth: Integers | None,
    scored: tuple[str, ...] | None,
    groups: Sequence[Any] | None,
    base: Integers | None,
    seed: int,
) -> RowEvaluation:
    logits = check_scores(outputs.logits, names, "logits")
    scores, labels = (logits[:0], np.zeros(0, np.int64)) if truth is None else (logits, truth)
    restricted = None
    if scored is not None:
        restricted = classification_metrics(
            scores, labels, names, from_logits=True, scored_classes=scored, decide_among="scored"
        )
    grouped = {}
    if groups is not None and truth is not None:
        grouped = group_metrics(scores, labels, groups, names, from_logits=True, scored_classes=scored)
    return RowEvaluation(
        metrics=classification_metrics(scores, labels, names, from_logits=True, scored_classes=scored),
        restricted=restricted,
        label_free=label_free_metrics(
            logits, names, from_logits=True, features=outputs.features, reference=base, seed=seed
        ),
        decisions=_decisions(logits),
        groups=grouped,
    )


def _conclude(
    rows: Mapping[str, RowEvaluation],
    names: tuple[str, ...],
    scored: tuple[str, ...],
    truth: Integers | None,
    source: str,
    adapted: str,
    known: Sequence[Alarm],
) -> Evaluation:
    true_shares = None if truth is None else predicted_shares(truth, names)
    before, after = rows[source], rows[adapted]
    alarms = list(known)
    if source != adapted:
        alarms += share_alarms(before.label_free.shares, after.label_free.shares, true_shares, adapted)
    alarms += evidence_alarms(before.metrics, after.metrics, adapted)
    alarms.sort(key=lambda alarm: alarm.level != "warning")
    compare = _Comparison(rows, truth, [names.index(name) for name in scored])
    differences = {name: compare(name, source) for name in rows if name != source} if compare.possible else {}
    rival = _rival(rows, source, adapted) if compare.possible else ""
    to_rival = {name: compare(name, rival) for name in rows if name not in (source, rival)} if rival else {}
    verdict = _verdict(rows, source, adapted, alarms, differences, rival, to_rival)
    return Evaluation(
        classes=names,
        scored_classes=scored,
        images=len(after.decisions),
        labels=truth,
        source=source,
        adapted=adapted,
        rows=rows,
        differences=differences,
        rival=rival,
        to_rival=to_rival,
        verdict=verdict,
        alarms=tuple(alarms),
        true_shares=true_shares,
    )


def _rival(rows: Mapping[str, RowEvaluation], source: str, adapted: str) -> str:
    others = [name for name in rows if name not in (source, adapted)] if source != adapted else []
    return max(others, key=lambda name: rows[name].metrics.mean_class_accuracy or 0.0, default="")


def _verdict(
    rows: Mapping[str, RowEvaluation],
    source: str,
    adapted: str,
    alarms: list[Alarm],
    differences: Mapping[str, Mapping[str, Difference]],
    rival: str,
    to_rival: Mapping[str, Mapping[str, Difference]],
) -> Verdict:
    if not rows[adapted].metrics.n:
        warnings = [alarm for alarm in alarms if alarm.level == "warning"]
        signals, left_out = rows[adapted].label_free, rows[adapted].metrics.left_out
        return judge_without_labels(adapted, source, signals.n, signals.agreement, warnings, left_out)
    metrics = {name: row.metrics for name, row in rows.items()}
    if source == adapted:
        return judge_alone(source, metrics[source])
    gap, gain = to_rival.get(adapted), differences.get(rival)
    return judge(metrics, source, adapted, differences[adapted], gap, rival, gain)


def _plain(differences: Mapping[str, Mapping[str, Difference]]) -> dict[str, Any]:
    return {name: {metric: item.to_json() for metric, item in items.items()} for name, items in differences.items()}


def _decisions(logits: Floats) -> Integers:
    return logits.argmax(axis=1) if len(logits) else np.zeros(0, dtype=np.int64)


class _Comparison:
    """Paired differences over the images that are scored."""

    def __init__(self, rows: Mapping[str, RowEvaluation], truth: Integers | None, scored: list[int]) -> None:
        self._mask = np.zeros(0, bool) if truth is None else np.isin(truth, scored)
        self._truth = np.zeros(0, np.int64) if truth is None else truth[self._mask]
        self._rows = rows
        self.possible = len(self._truth) > 0

    def __call__(self, name: str, other: str) -> dict[str, Difference]:
        first, second = (self._rows[key].decisions[self._mask] for key in (other, name))
        found = {metric: paired_difference(self._truth, first, second, metric=metric) for metric in _METRICS}
        return {metric: item for metric, item in found.items() if item is not None}
