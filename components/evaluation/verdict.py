"""The first sentence of a report: is the adapted model better than its source, in plain words and never oversold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .alarms import Alarm
from .formats import change, count, percent
from .intervals import Difference
from .metrics import Metrics

Level = Literal["better", "mixed", "unclear", "worse", "unknown"]
Differences = Mapping[str, Difference]

_WORDS = {"accuracy": "accuracy", "mean_class_accuracy": "mean-class accuracy"}


@dataclass(frozen=True)
class Verdict:
    """The verdict.

    Attributes:
        level: ``better``, ``mixed``, ``unclear``, ``worse``, or ``unknown`` without a labelled holdout.
        sentence: What was found.
        advice: What to do.
        use: Name of the row to use, or "" where labels or a person must decide.
    """

    level: Level
    sentence: str
    advice: str
    use: str


def judge(
    metrics: Mapping[str, Metrics],
    source: str,
    adapted: str,
    to_source: Differences,
    to_rival: Differences | None = None,
    rival: str = "",
    rival_to_source: Differences | None = None,
) -> Verdict:
    """Judges the adapted model against its source and against the best other row.

    Args:
        metrics: Metrics of every row, by name; all with images.
        source: Name of the source row.
        adapted: Name of the adapted row.
        to_source: ``adapted - source`` by metric.
        to_rival: ``adapted - rival`` by metric, or None where there is no third row.
        rival: Name of the best other row.
        rival_to_source: ``rival - source`` by metric, or None where there is no third row.
    """
    level, metric = _level(to_source["mean_class_accuracy"], to_source["accuracy"])
    sentence = _sentence(metrics, source, adapted, to_source, metric, level)
    if to_rival is not None:
        gap, reached = to_rival["mean_class_accuracy"], percent(metrics[rival].mean_class_accuracy)
        against = f"{adapted} minus {rival}: {change(gap)}"
        sentence += f" {rival} alone reaches a mean-class accuracy of {reached} ({against})."
    if level == "worse" and rival_to_source is not None and rival_to_source["mean_class_accuracy"].low > 0:
        sentence += f" {rival} minus {source}: {change(rival_to_source['mean_class_accuracy'])}."
        return Verdict("worse", sentence, f"Use {rival} instead of {adapted}.", rival)
    if to_rival is not None and level != "worse":
        if gap.value < 0:
            return _rival_wins(adapted, rival, gap, sentence, level)
        if level == "better" and (loss := to_rival["accuracy"]).high < 0:
            sentence += f" Its accuracy is below {rival}'s ({change(loss)})."
            return Verdict("mixed", sentence, _advice("mixed", adapted, source), "")
        if not gap.clear and level == "better":
            advice = f"{adapted} is not clearly better than {rival}: take the one that costs less."
            return Verdict("better", sentence, advice, adapted)
    use = {"better": adapted, "worse": source}.get(level, "")
    return Verdict(level, sentence, _advice(level, adapted, source), use)


def judge_without_labels(
    adapted: str, source: str, images: int, agreement: float | None, warnings: list[Alarm], left_out: int = 0
) -> Verdict:
    """Says what can be said where no labelled image counts: that no accuracy is known, and what moved.

    Args:
        adapted: Name of the adapted row.
        source: Name of the source row.
        images: Number of images.
        agreement: Share of them that both decide alike, or None.
        warnings: What speaks against the adapted model.
        left_out: Labelled images of classes that are not scored.
    """
    reason = f"All {_faces(left_out)} are of classes that do not count" if left_out else "No labelled holdout was given"
    sentence = f"{reason}, so the accuracy of {adapted} on the target is not known."
    if agreement is not None and adapted != source:
        sentence += f" It decides {percent(1 - agreement)} of {count(images)} faces differently from {source}."
    if warnings:
        advice = "There are warnings below: keep the source model until labelled faces show a gain."
        return Verdict("unknown", sentence, advice, source)
    advice = "Label some target faces before it is promoted: 400 give the accuracy to within about 5 points."
    return Verdict("unknown", sentence, advice, "")


def judge_alone(name: str, metrics: Metrics) -> Verdict:
    """Says how one model does that is compared with none."""
    sentence = (
        f"{name} reaches a mean-class accuracy of {percent(metrics.mean_class_accuracy)} and an accuracy of "
        f"{percent(metrics.accuracy)} on {_faces(metrics.n)}."
    )
    return Verdict("unclear", sentence, "There is no other model to compare it with.", "")


def _level(mean_class: Difference, accuracy: Difference) -> tuple[Level, str]:
    up = [item.low > 0 for item in (mean_class, accuracy)]
    down = [item.high < 0 for item in (mean_class, accuracy)]
    if any(up) and any(down):
        return "mixed", "mean_class_accuracy"
    if any(down):
        return "worse", "mean_class_accuracy" if down[0] else "accuracy"
    if up[0]:
        return "better", "mean_class_accuracy"
    if up[1]:
        return ("better" if mean_class.value >= 0 else "mixed"), "accuracy"
    return "unclear", "mean_class_accuracy"


def _sentence(
    metrics: Mapping[str, Metrics], source: str, adapted: str, differences: Differences, metric: str, level: Level
) -> str:
    other = "accuracy" if metric == "mean_class_accuracy" else "mean_class_accuracy"
    main, second = differences[metric], differences[other]
    text = f"{adapted} {_verb(main)} {_WORDS[metric]} {_from_to(metrics, source, adapted, metric)} ({change(main)})"
    if level == "mixed":
        link = "but" if (main.value > 0) != (second.value > 0) else "and"
        text += (
            f", {link} {_verb(second)} {_WORDS[other]} {_from_to(metrics, source, adapted, other)} ({change(second)})"
        )
    return f"{text} on {_faces(main.n)}."


def _verb(difference: Difference) -> str:
    if difference.clear:
        return "raises" if difference.value > 0 else "lowers"
    return "does not clearly change" if difference.value else "does not change"


def _from_to(metrics: Mapping[str, Metrics], source: str, adapted: str, metric: str) -> str:
    before, after = (getattr(metrics[name], metric) for name in (source, adapted))
    return f"from {percent(before)} to {percent(after)}" if before != after else f"({percent(before)})"


def _rival_wins(adapted: str, rival: str, gap: Difference, sentence: str, level: Level) -> Verdict:
    if gap.clear:
        return Verdict("worse", sentence, f"Use {rival} instead of {adapted}.", rival)
    advice = f"{adapted} is no better than {rival}: take the one that costs less unless more faces say otherwise."
    return Verdict("unclear" if level == "unclear" else "mixed", sentence, advice, "")


def _advice(level: Level, adapted: str, source: str) -> str:
    if level == "better":
        return f"Use {adapted}, after a look at the single classes below."
    if level == "worse":
        return f"Keep the source model ({source})."
    if level == "mixed":
        return "It gains on some classes and loses on others: look at the class table and decide which ones matter."
    return "The interval includes zero: keep the source model until more labelled faces show a gain."


def _faces(number: int) -> str:
    return f"{count(number)} labelled holdout face{'' if number == 1 else 's'}"
