"""Checks of parameters that several pipelines have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..common.errors import UserError, unknown


@contextmanager
def fields_as(prefix: str, *fields: str, **names: str) -> Iterator[None]:
    """Lets errors name a pipeline's parameter where a library's field of another name was wrong.

    Args:
        prefix: What stands before the fields in the pipeline, for example ``training_``.
        *fields: Fields that differ by the prefix only.
        **names: Other fields, with the parameter's name.

    Raises:
        UserError: The error of the block, renamed.
    """
    try:
        yield
    except UserError as error:
        text = str(error)
        for field, name in {**{field: f"{prefix}{field}" for field in fields}, **names}.items():
            for old in (f"`{field}`", f"`architecture.{field}`"):
                if f"Expected {old} " in text:
                    raise UserError(text.replace(old, f"`{name}`", 1)) from None
        raise


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


def check_precision(value: str) -> None:
    """Checks the precision of training.

    Raises:
        UserError: There is no such precision.
    """
    from ..training.config import PRECISIONS

    if value not in PRECISIONS:
        raise unknown("precision", value, PRECISIONS)
