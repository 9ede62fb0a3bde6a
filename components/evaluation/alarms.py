"""What a reader must not overlook: collapsed or shifted decisions, lost classes, thin evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .formats import names, percent, points
from .metrics import Metrics
from .quality import LabelQuality

MOVED = 0.10
"""A class whose share of the decisions moves by at least this much is reported."""

FEW_IMAGES = 30
"""Below this many images a class's recall is called uncertain: its 95 % interval spans up to 34 points."""

FEW_LABELS = 20
"""With fewer kept pseudo-labels of known truth than this, a class's share of right ones raises no alarm."""

_VANISHED = 0.25
_SEEN = 0.02
_DOMINANT = 0.80
_CLOSER = 0.02

Shares = Mapping[str, float | None]


@dataclass(frozen=True)
class Alarm:
    """One observation.

    Attributes:
        level: ``warning`` for what speaks against a model, ``note`` for what limits the evidence or only informs.
        text: A full sentence.
    """

    level: Literal["warning", "note"]
    text: str


def share_alarms(before: Shares, after: Shares, true: Shares | None = None, name: str = "the model") -> list[Alarm]:
    """Compares predicted class shares before and after adaptation; label shift is the commonest way to fail.

    Args:
        before: Share of each class among the source model's decisions.
        after: The same of the adapted model.
        true: True shares where labels exist; a move towards them is a note, away from them a warning.
        name: The adapted model's name, for the text.

    Returns:
        Collapsed classes first, then one class that takes nearly all, then large moves.
    """
    pairs = {key: (b, a) for key in before if (b := before[key]) is not None and (a := after.get(key)) is not None}
    gone = [key for key, (b, a) in pairs.items() if _vanished(b, a, None if true is None else true.get(key) or 0.0)]
    alarms = [Alarm("warning", _gone(name, key, *pairs[key])) for key in gone]
    for key, (_, a) in pairs.items():
        if len(pairs) > 1 and a >= _DOMINANT and ((true or {}).get(key) or 0) < _DOMINANT:
            alarms.append(Alarm("warning", f"{percent(a)} of {name}'s decisions are {key}: it may have collapsed."))
    moved = [key for key, (b, a) in pairs.items() if abs(a - b) >= MOVED and key not in gone]
    if moved:
        alarms.append(_moved(pairs, moved, true, name))
    return alarms


def total_variation(first: Shares, second: Shares) -> float:
    """Returns half the sum of absolute differences of two distributions over the same names, 0 to 1."""
    return sum(abs((first[key] or 0) - (second.get(key) or 0)) for key in first) / 2


def evidence_alarms(source: Metrics, adapted: Metrics, name: str = "the model") -> list[Alarm]:
    """Reports classes that are never recognised, confidence that got worse, and classes with few or no images."""
    alarms = []
    present = {key: item for key, item in adapted.per_class.items() if item.n}
    dead = [key for key, item in present.items() if item.correct == 0]
    if dead and len(present) > 1:
        alive = [key for key in dead if source.per_class[key].correct]
        which = "" if alive == dead else f" of {names(alive)}"
        before = f"; the source model recognises some{which}" if alive else ""
        alarms.append(Alarm("warning", f"{name} recognises no image of {names(dead)}{before}."))
    if source.ece is not None and adapted.ece is not None and adapted.ece - source.ece >= 0.05:
        text = f"{name}'s confidence is less reliable than its source's: calibration error {percent(source.ece)} before"
        alarms.append(Alarm("warning", f"{text}, {percent(adapted.ece)} after. Do not use it as a threshold as it is."))
    few = [f"{key} ({item.n})" for key, item in present.items() if item.n < FEW_IMAGES]
    if few:
        alarms.append(Alarm("note", f"Few holdout images of {names(few)}: their numbers are uncertain."))
    if adapted.n and adapted.missing_classes:
        text = f"The holdout has no image of {names(adapted.missing_classes)}; no mean counts "
        alarms.append(Alarm("note", text + ("it." if len(adapted.missing_classes) == 1 else "them.")))
    if adapted.left_out:
        alarms.append(Alarm("note", f"{adapted.left_out:,} holdout images are of classes that are not scored."))
    return alarms


def collapse_alarms(signs: Sequence[str], name: str) -> list[Alarm]:
    """Reports signs of collapse that a training ended with; which there are is for its method to say."""
    return [Alarm("warning", f"{name} ended with a sign of collapse. {sign}") for sign in signs]


def overlap_alarm(shared: int, holdout: int) -> list[Alarm]:
    """Reports pictures of the holdout that the model was adapted to."""
    if not shared:
        return []
    text = (
        f"{shared:,} of {holdout:,} holdout faces are in the target too, as was allowed: the model was adapted to "
        "these pictures, so its results may be better than on new ones."
    )
    return [Alarm("warning", text)]


def lost_class_alarm(lost: Sequence[str]) -> list[Alarm]:
    """Reports classes that keep no pseudo-label."""
    if not lost:
        return []
    them = "this class" if len(lost) == 1 else "these classes"
    text = f"No pseudo-label is left for {names(list(lost))}: training on them teaches nothing about {them}."
    return [Alarm("warning", text)]


def wrong_labels_alarm(quality: LabelQuality) -> list[Alarm]:
    """Reports classes most of whose kept pseudo-labels are wrong, where true labels tell it."""
    wrong = {
        key: item
        for key, item in quality.per_class.items()
        if item.checked >= FEW_LABELS and item.right is not None and item.right < 0.5
    }
    if not wrong:
        return []
    shares = names([f"{key} ({percent(item.right)} of {item.checked:,} are right)" for key, item in wrong.items()])
    them = "this class" if len(wrong) == 1 else "these classes"
    text = f"Most of the kept pseudo-labels are wrong for {shares}: training took many other faces for {them}."
    return [Alarm("warning", text)]


def _gone(name: str, key: str, before: float, after: float) -> str:
    return (
        f"{name} hardly decides for {key} any more: {percent(before)} of the decisions before, {percent(after)} after."
    )


def _vanished(before: float, after: float, true: float | None) -> bool:
    due = before if true is None else true  # with labels, the truth says how often a class is due
    return before >= _SEEN and due >= _SEEN and after < _VANISHED * due and after < before


def _moved(pairs: Mapping[str, tuple[float, float]], moved: list[str], true: Shares | None, name: str) -> Alarm:
    text = names([f"{key} {points(pairs[key][1] - pairs[key][0])} points" for key in moved])
    text = f"The share of {name}'s decisions moved a lot: {text}."
    if true is None:
        return Alarm("warning", text + " Check that the target really has such a mix of expressions.")
    before = total_variation({key: b for key, (b, _) in pairs.items()}, true)
    after = total_variation({key: a for key, (_, a) in pairs.items()}, true)
    away = f"from {100 * before:.0f} to {100 * after:.0f} points"
    if after > before + _CLOSER:
        return Alarm("warning", f"{text} It moved away from the true shares (distance {away}).")
    if after < before - _CLOSER:
        return Alarm("note", f"{text} It moved towards the true shares (distance {away}).")
    return Alarm("note", f"{text} It is as far from the true shares as before (distance {away}).")
