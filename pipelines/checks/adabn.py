"""Rules for the values of the pipeline adabn. Knows no kfp: stages run it too, where kfp defines nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check(values: Mapping[str, Any]) -> None:
    """Checks values beyond their types, before anything runs.

    Raises:
        UserError: A value is not one of its choices or out of range.
    """
    from ...common.errors import expected
    from .choices import check_adaptation, is_foreign

    check_adaptation(values)
    if is_foreign(values["source"]):
        fix = "Adapt it with `ferry run clup`, which needs only what a model predicts."
        raise expected("source", "a model of Ferry, with its weights", values["source"], fix)
