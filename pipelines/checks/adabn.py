"""Rules for the values of the pipeline adabn. Knows no kfp: stages run it too, where kfp defines nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def choices() -> dict[str, tuple[str, ...]]:
    """Returns the words of every parameter that takes no others."""
    from .choices import layouts

    return dict.fromkeys(("target_layout", "holdout_layout"), layouts())


def check(values: Mapping[str, Any]) -> None:
    """Checks values beyond their types, before anything runs.

    Raises:
        UserError: A value is not one of its choices or out of range.
    """
    from ...common.errors import expected
    from .choices import check_adaptation, check_words, is_foreign

    check_words(values, choices())
    check_adaptation(values)
    if is_foreign(values["source"]):
        fix = "Adapt it with `ferry run clup`, which needs only what a model predicts."
        raise expected("source", "a model of Ferry, with its weights", values["source"], fix)
