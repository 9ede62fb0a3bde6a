"""Checks of parameters that several pipelines have."""

from __future__ import annotations

from ..common.errors import expected, fields_as, unknown


def check_layout(name: str, value: str) -> None:
    """Checks the name of a data set's layout.

    Raises:
        UserError: There is no such layout; the closest one is suggested.
    """
    if value == "auto":
        return
    from ..faces.readers import READERS

    if value not in READERS:
        raise unknown(name, value, ("auto", *sorted(READERS)))


def check_split(name: str, value: str) -> None:
    """Checks the name of a split; empty means all.

    Raises:
        UserError: No split can have that name.
    """
    if value:
        from ..faces.schema import check_split_name

        with fields_as("", split=name):
            check_split_name(value)


def check_share(name: str, value: float) -> None:
    """Checks a share of all faces.

    Raises:
        UserError: It is not between 0 and 1.
    """
    if not 0.0 <= value <= 1.0:
        raise expected(name, "between 0 and 1", value, "Pass a share such as 0.05 for 5 %.")


def check_precision(value: str) -> None:
    """Checks the precision of training.

    Raises:
        UserError: There is no such precision.
    """
    from ..training.config import PRECISIONS

    if value not in PRECISIONS:
        raise unknown("precision", value, PRECISIONS)
