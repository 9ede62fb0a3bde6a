"""Checks of parameters that several pipelines have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...common.errors import expected, fields_as, unknown


def layouts() -> tuple[str, ...]:
    """Returns the words of a parameter that names a data set's layout."""
    from ...faces.readers import READERS

    return ("auto", *sorted(READERS))


def check_words(values: Mapping[str, Any], choices: Mapping[str, tuple[str, ...]]) -> None:
    """Checks the parameters that take certain words and no others.

    Args:
        values: All parameters.
        choices: The words of each such parameter.

    Raises:
        UserError: A value is none of its words; the closest one is suggested.
    """
    for name, words in choices.items():
        if values[name] not in words:
            raise unknown(name, values[name], words)


def check_split(name: str, value: str) -> None:
    """Checks the name of a split; empty means all.

    Raises:
        UserError: No split can have that name.
    """
    if value:
        from ...faces.schema import check_split_name

        with fields_as("", split=name):
            check_split_name(value)


def check_adaptation(values: Mapping[str, Any]) -> None:
    """Checks what every adaptation has: a target, a source model, a holdout, and a name in the registry.

    Args:
        values: ``target``, ``source``, ``holdout_classes``, ``model_name``, and of target and holdout the split and the
            share that may be skipped.

    Raises:
        UserError: A value is not one of its choices or out of range.
    """
    from ...registry.names import check_model_name

    for name, fix in (("target", "Pass -p target=FOLDER."), ("source", "Pass -p source=MODEL.")):
        if not str(values[name]).strip():
            raise expected(name, "a folder, a file or an address", values[name], fix)
    for name in ("target", "holdout"):
        check_split(f"{name}_split", values[f"{name}_split"])
        check_share(f"{name}_max_skipped", values[f"{name}_max_skipped"])
    _check_scored(values["holdout_classes"])
    if values["model_name"]:  # an empty one registers nothing
        check_model_name(values["model_name"])


def _check_scored(classes: str) -> None:
    """Finds a misspelt class now and not after the training; the classes of an imported holdout are always these."""
    from ...faces.schema import EXPRESSIONS

    for name in filter(None, map(str.strip, classes.split(","))):
        if name not in EXPRESSIONS:
            raise unknown("holdout_classes", name, EXPRESSIONS)


def is_foreign(source: str) -> bool:
    """Tells whether a source model is a local file or folder that is not Ferry's own."""
    from ..catalogue import REMOTE

    path = Path(source).expanduser()
    return not source.startswith(REMOTE) and path.exists() and not (path / "model.json").is_file()


def check_share(name: str, value: float) -> None:
    """Checks a share of all faces.

    Raises:
        UserError: It is not between 0 and 1.
    """
    if not 0.0 <= value <= 1.0:
        raise expected(name, "between 0 and 1", value, "Pass a share such as 0.05 for 5 %.")
