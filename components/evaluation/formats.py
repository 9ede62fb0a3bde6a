"""How numbers read in the report: one place, so that text, tables and pictures agree."""

from __future__ import annotations

from typing import Any

from ..common.progress import duration
from .intervals import Difference, Interval

NONE = "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def percent(value: float | None, digits: int = 1) -> str:
    """Returns a share as percent, or a dash for None.

    Example:
        >>> percent(0.5123).split()
        ['51.2', '%']
    """
    return NONE if value is None else f"{100 * value:.{digits}f}{_SPACE}%"


def points(value: float | None, digits: int = 1) -> str:
    """Returns a difference of shares in percentage points, with its sign."""
    if value is None:
        return NONE
    text = f"{100 * abs(value):.{digits}f}"
    if float(text) == 0:
        return f"±{text}"
    return f"{_MINUS if value < 0 else '+'}{text}"


def interval(bounds: Interval | None, digits: int = 0) -> str:
    """Returns an interval of shares, such as "47-55" with a dash, without the percent sign."""
    if bounds is None:
        return NONE
    return f"{100 * bounds[0]:.{digits}f}{NONE}{100 * bounds[1]:.{digits}f}"


def change(difference: Difference) -> str:
    """Returns a difference with its interval, as the headline has it."""
    level = f"{100 * difference.confidence:.0f}{_SPACE}%"
    low, high = points(difference.low), points(difference.high)
    return f"{points(difference.value)} points, {level} interval {low} to {high}"


def number(value: float | None, digits: int = 2) -> str:
    """Returns a plain number with a fixed count of digits behind the point."""
    return NONE if value is None else f"{value:.{digits}f}"


def short(value: float) -> str:
    """Returns a number in at most four significant digits, for axes and curves."""
    return f"{value:.4g}".replace("-", _MINUS)


def count(value: int) -> str:
    """Returns a whole number with separators between thousands."""
    return f"{value:,}"


def seconds(value: float) -> str:
    """Returns a time as people say it."""
    return duration(value)


def words(value: Any) -> str:
    """Returns a parameter's value as people write it: no quotes, ``yes`` and ``no``, commas in lists."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return NONE
    if isinstance(value, dict):
        return ", ".join(f"{key}: {words(item)}" for key, item in value.items()) or NONE
    if isinstance(value, (list, tuple)):
        return ", ".join(words(item) for item in value) or NONE
    return f"{value:g}" if isinstance(value, float) else str(value)


def names(items: tuple[str, ...] | list[str]) -> str:
    """Returns names as an enumeration: ``a, b and c``."""
    quoted = list(items)
    if len(quoted) < 2:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"
