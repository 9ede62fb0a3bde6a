"""The sections of a report that speak of models on the holdout: results, classes, calibration, shares, groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from markupsafe import Markup

from .evaluate import Evaluation
from .formats import NONE, count, interval, number, percent, points
from .intervals import Difference
from .metrics import Metrics
from .page import Cell, Figure, Figures, Matrices, Matrix, Section, Table, Tile
from .plots import Bar, interval_chart, legend_mark, reliability_chart

MAX_GROUPS = 24
"""With more group values than this (persons, say) the report leaves the table of groups out."""

_OFF = 0.03  # of a few hundred faces, a smaller distance is chance


def palette(evaluation: Evaluation) -> dict[str, int]:
    """Returns each model's place in the palette: the source grey, the adapted one blue, the others after them."""
    others = [name for name in evaluation.rows if name not in (evaluation.source, evaluation.adapted)]
    order = [evaluation.source, evaluation.adapted, *others]
    places = {name: index for index, name in enumerate(dict.fromkeys(order))}
    return {name: places[name] for name in evaluation.rows}


def tiles(evaluation: Evaluation) -> list[Tile]:
    """Returns the key figures."""
    before, after = evaluation.rows[evaluation.source], evaluation.rows[evaluation.adapted]
    source = evaluation.source
    if not evaluation.labelled:
        old, new = before.label_free, after.label_free
        changed = None if new.agreement is None else 1 - new.agreement
        return [
            Tile("Accuracy", "not known", "no labelled holdout"),
            Tile("Decisions changed", percent(changed), f"against {source}"),
            Tile("Mean confidence", percent(new.mean_confidence), f"{source}: {percent(old.mean_confidence)}"),
            Tile("Classes decided for", f"{new.classes_used} of {len(evaluation.classes)}",
                 f"{source}: {old.classes_used}"),
        ]  # fmt: skip

    def tile(title: str, value: Callable[[Metrics], float | None], extra: str = "") -> Tile:
        old, new = value(before.metrics), value(after.metrics)
        moved = "" if old is None or new is None or source == evaluation.adapted else f" ({points(new - old)})"
        return Tile(title, percent(new), f"{source}: {percent(old)}{moved}{extra}")

    return [
        tile("Mean-class accuracy", lambda item: item.mean_class_accuracy),
        tile("Accuracy", lambda item: item.accuracy),
        _worst_tile(source, before.metrics, after.metrics)
        if before.metrics.worst_class != after.metrics.worst_class
        else tile(f"Worst class: {after.metrics.worst_class}", lambda item: item.min_class_accuracy),
        tile("Calibration error", lambda item: item.ece),
    ]


def _worst_tile(source: str, before: Metrics, after: Metrics) -> Tile:
    """Returns the worst class of each model, without a difference: they are not the same class."""
    old = f"{source}: {before.worst_class} {percent(before.min_class_accuracy)}"
    return Tile(f"Worst class: {after.worst_class}", percent(after.min_class_accuracy), old)


def results(evaluation: Evaluation, notes: Mapping[str, str]) -> Section | None:
    """The table of models, with intervals, and its picture."""
    if not evaluation.labelled:
        return None
    places = palette(evaluation)
    n = count(evaluation.labelled)
    section = Section(
        "results",
        "Results",
        f"All models on the same {n} labelled faces. The interval of 95 % below a number says how far it may lie off "
        "because these faces were drawn and not others; it does not cover the randomness of training.",
    )
    section.parts.append(_results_table(evaluation, notes, "Models on the holdout", restricted=False))
    bars = {
        title: [
            Bar(places[name], getattr(row.metrics, key), getattr(row.metrics, f"{bounds}_interval"))
            for name, row in evaluation.rows.items()
        ]
        for title, key, bounds in (
            ("mean-class", "mean_class_accuracy", "mean_class"),
            ("overall", "accuracy", "accuracy"),
        )
    }
    chart = interval_chart(bars, "Mean-class and overall accuracy of every model with its interval, in percent")
    section.parts.append(Figures([Figure("Accuracy, %", chart)], _legend(evaluation)))
    if any(row.restricted is not None for row in evaluation.rows.values()):
        among = ", ".join(evaluation.scored_classes)
        section.parts.append(
            _results_table(evaluation, {}, f"Decisions among the scored classes only: {among}", restricted=True)
        )
    return section


def classes(evaluation: Evaluation) -> Section | None:
    """Recall, precision and F1 of every class."""
    if not evaluation.labelled:
        return None
    places = palette(evaluation)
    section = Section(
        "classes",
        "Single classes",
        "Recall is the share of a class's faces that the model recognises; precision is the share of its decisions "
        "for a class that are right.",
    )
    shown = [name for name in evaluation.classes if _support(evaluation, name) or name in evaluation.scored_classes]
    section.parts.append(_recall_table(evaluation, shown))
    bars = {
        name: [
            Bar(places[row], item.metrics.per_class[name].recall, item.metrics.per_class[name].recall_interval)
            for row, item in evaluation.rows.items()
        ]
        for name in shown
        if _support(evaluation, name)
    }
    chart = interval_chart(bars, "Recall of every class and model with its interval, in percent")
    section.parts.append(Figures([Figure("Recall by class, %", chart)], _legend(evaluation)))
    section.parts.append(_precision_table(evaluation, shown))
    return section


def confusion(evaluation: Evaluation) -> Section | None:
    """A confusion matrix per model."""
    if not evaluation.labelled:
        return None
    items = []
    for name, row in evaluation.rows.items():
        counts = row.metrics.confusion
        totals = [int(line.sum()) for line in counts]
        shares = [
            [None if not total else float(value / total) for value in line]
            for line, total in zip(counts, totals, strict=True)
        ]
        items.append(Matrix(name, evaluation.classes, counts.tolist(), shares, totals))
    intro = (
        "Each row is a true class, each column a decision. A cell says which percentage of the row's faces got that "
        "decision, and below how many they are; the diagonal is right."
    )
    return Section("confusion", "Confusion matrices", intro, [Matrices(items)])


def calibration(evaluation: Evaluation) -> Section | None:
    """A reliability diagram per model."""
    if not evaluation.labelled:
        return None
    figures = []
    for name, row in evaluation.rows.items():
        metrics = row.metrics
        caption = (
            f"Calibration error (ECE) {percent(metrics.ece)}, Brier score {number(metrics.brier, 3)}, "
            f"log loss {number(metrics.nll, 3)} nats.{_leaning(metrics)}"
        )
        figures.append(Figure(name, reliability_chart(metrics.reliability, name), caption))
    intro = (
        "Bars show how often decisions of a given confidence are right; on the dashed diagonal they are right as "
        "often as the model claims. The hatched part is the distance: bars below the line mean overconfidence, right "
        "less often than claimed; bars above it underconfidence, right more often than claimed. The calibration error "
        "counts both alike."
    )
    return Section("calibration", "Can its confidence be believed?", intro, [Figures(figures)])


def _leaning(metrics: Metrics) -> str:
    """Says on which side a model's confidence is off, where it is clearly so on average."""
    curve = metrics.reliability
    claimed = sum(n * (mean or 0.0) for n, mean in zip(curve.counts, curve.confidence, strict=True)) / metrics.n
    off = claimed - (metrics.accuracy or 0.0)
    if abs(off) < _OFF:
        return ""
    side = "overconfident" if off > 0 else "underconfident"
    return f" Mean confidence {percent(claimed)}, accuracy {percent(metrics.accuracy)}: {side}."


def shares(evaluation: Evaluation) -> Section:
    """Predicted class shares of every model, and the true ones where they are known."""
    true = evaluation.true_shares
    heads = ["Class", *(["True"] if true is not None else []), *evaluation.rows]
    changes = evaluation.source != evaluation.adapted
    known = [row.label_free.shares for row in evaluation.rows.values()] + ([true] if true is not None else [])
    largest = max((share or 0.0 for item in known for share in item.values()), default=0.0) or 1.0
    rows = []
    for name in evaluation.classes:
        cells = [Cell(name)]
        if true is not None:
            cells.append(_share(true[name], largest))
        found = {key: row.label_free.shares[name] for key, row in evaluation.rows.items()}
        cells += [_share(share, largest) for share in found.values()]
        old, new = found[evaluation.source], found[evaluation.adapted]
        if changes:
            cells.append(Cell(NONE if old is None or new is None else points(new - old)))
        rows.append(cells)
    if changes:
        heads.append("Change")
    note = f"Change: {evaluation.adapted} against {evaluation.source}, in points." if changes else ""
    intro = (
        "How the decisions are spread over the classes. A class that vanishes or takes nearly everything is the "
        "commonest sign of a failed adaptation, and it needs no labels to be seen."
    )
    return Section("shares", "Predicted class shares", intro, [Table("Share of all decisions", heads, rows, note)])


def label_free(evaluation: Evaluation) -> Section:
    """Signals that need no labels."""
    rows = [
        [
            Cell(name),
            Cell(percent(row.label_free.mean_confidence)),
            Cell(number(row.label_free.mean_entropy)),
            Cell(number(row.label_free.neighbourhood_density)),
            Cell(number(row.label_free.feature_rank, 1)),
            Cell(percent(row.label_free.agreement) if row.label_free.agreement is not None else NONE),
            Cell(f"{row.label_free.classes_used} of {len(evaluation.classes)}"),
        ]
        for name, row in evaluation.rows.items()
    ]
    heads = ["Model", "Mean confidence", "Entropy, nats", "Neighbourhood density", "Feature rank", "Agrees with source",
             "Classes decided for"]  # fmt: skip
    intro = (
        f"Taken from the outputs on {count(evaluation.images)} faces without any label. None of them is an accuracy: a "
        "model can be sure and wrong. Feature ranks compare only between features of the same size."
    )
    return Section("label-free", "Signals without labels", intro, [Table("Signals without labels", heads, rows)])


def groups(evaluation: Evaluation, title: str) -> Section | None:
    """Accuracy per group value, where groups are given and few enough to be read."""
    values = list(evaluation.rows[evaluation.adapted].groups)
    if not 1 < len(values) <= MAX_GROUPS:
        return None
    rows = []
    for value in values:
        found = {name: row.groups[value] for name, row in evaluation.rows.items()}
        cells = [Cell(value), Cell(count(found[evaluation.adapted].n))]
        for item in found.values():
            mean = percent(item.mean_class_accuracy)
            cells.append(Cell(percent(item.accuracy), f"{interval(item.accuracy_interval)}; mean-class {mean}"))
        rows.append(cells)
    worst = min(values, key=lambda value: _accuracy(evaluation, value))
    best = max(values, key=lambda value: _accuracy(evaluation, value))
    gap = _accuracy(evaluation, best) - _accuracy(evaluation, worst)
    intro = (
        f"{evaluation.adapted} does worst on {worst} and best on {best}, {100 * gap:.1f} points apart. Small groups "
        "have wide intervals; where the intervals overlap, the gap may be chance."
    )
    table = Table(f"Accuracy by {title}", [title, "Faces", *evaluation.rows], rows)
    return Section("groups", "Groups of people or images", intro, [table])


def _results_table(evaluation: Evaluation, notes: Mapping[str, str], caption: str, *, restricted: bool) -> Table:
    found: dict[str, Metrics] = {}
    for name, row in evaluation.rows.items():
        found[name] = row.restricted if restricted and row.restricted is not None else row.metrics
    best = {
        key: max((getattr(item, key) for item in found.values() if getattr(item, key) is not None), default=None)
        for key in ("mean_class_accuracy", "accuracy", "min_class_accuracy")
    }
    rows = []
    for name, item in found.items():
        cells = [
            Cell(name, notes.get(name, ""), mark=legend_mark(palette(evaluation)[name])),
            _best(item.mean_class_accuracy, best["mean_class_accuracy"], interval(item.mean_class_interval)),
            _best(item.accuracy, best["accuracy"], interval(item.accuracy_interval)),
            _best(item.min_class_accuracy, best["min_class_accuracy"], item.worst_class or ""),
            Cell(NONE if item.class_std is None else f"{100 * item.class_std:.1f}", "points"),
            Cell(percent(item.ece)),
            Cell(count(item.n)),
        ]
        if not restricted:
            cells.append(_against(evaluation.differences.get(name)))
            if evaluation.rival:
                cells.append(_against(evaluation.to_rival.get(name)))
        rows.append(cells)
    heads = [
        "Model",
        "Mean-class accuracy",
        "Accuracy",
        "Worst class",
        "Spread of classes",
        "Calibration error",
        "Faces",
    ]
    if not restricted:
        heads.append("Mean-class against source")
        if evaluation.rival:
            heads.append(f"Mean-class against {evaluation.rival}")
    return Table(caption, heads, rows, "The best accuracy of each column is bold." if len(found) > 1 else "")


def _best(value: float | None, best: float | None, sub: str) -> Cell:
    return Cell(percent(value), sub, strong=value is not None and value == best)


def _against(differences: Mapping[str, Difference] | None) -> Cell:
    if not differences:
        return Cell(NONE)
    item = differences["mean_class_accuracy"]
    return Cell(points(item.value), f"{points(item.low)} to {points(item.high)}")


def _recall_table(evaluation: Evaluation, shown: list[str]) -> Table:
    rows = []
    for name in shown:
        found = {key: row.metrics.per_class[name] for key, row in evaluation.rows.items()}
        cells = [Cell(name), Cell(count(found[evaluation.adapted].n))]
        cells += [Cell(percent(item.recall), interval(item.recall_interval)) for item in found.values()]
        if evaluation.source != evaluation.adapted:
            old, new = found[evaluation.source].recall, found[evaluation.adapted].recall
            cells.append(Cell(NONE if old is None or new is None else points(new - old)))
        rows.append(cells)
    heads = ["Class", "Faces", *evaluation.rows]
    note = ""
    if evaluation.source != evaluation.adapted:
        heads.append("Change")
        note = f"Change: {evaluation.adapted} against {evaluation.source}, in points."
    return Table("Recall by class, with its interval of 95 % below", heads, rows, note)


def _precision_table(evaluation: Evaluation, shown: list[str]) -> Table:
    rows = []
    for name in shown:
        items = [row.metrics.per_class[name] for row in evaluation.rows.values()]
        rows.append([Cell(name), *(Cell(percent(item.precision), f"F1 {percent(item.f1)}") for item in items)])
    note = "A dash: the model never decides for the class, or the holdout has none of it."
    return Table("Precision by class, with F1 below", ["Class", *evaluation.rows], rows, note)


def _share(share: float | None, largest: float) -> Cell:
    return Cell(percent(share), bar=None if share is None else share / largest)


def _support(evaluation: Evaluation, name: str) -> int:
    return evaluation.rows[evaluation.adapted].metrics.per_class[name].n


def _accuracy(evaluation: Evaluation, group: str) -> float:
    return evaluation.rows[evaluation.adapted].groups[group].accuracy or 0.0


def _legend(evaluation: Evaluation) -> list[tuple[Markup, str]]:
    return [(legend_mark(place), name) for name, place in palette(evaluation).items()]
