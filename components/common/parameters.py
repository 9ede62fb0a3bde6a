"""Frozen dataclasses as configuration: built from a mapping, checked by type, closest match for a wrong key."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import closest, expected

T = TypeVar("T")


def from_mapping(kind: type[T], values: Mapping[str, Any], name: str = "") -> T:
    """Builds a configuration dataclass from a mapping.

    Strings are converted to the type of the field, so that ``-p lr=0.1`` and ``{"lr": 0.1}`` mean the same. Rules
    beyond types belong into the dataclass's ``__post_init__``.

    Args:
        kind: A dataclass.
        values: Field names and values.
        name: Prefix for field names in messages, for example ``"pretraining."``.

    Returns:
        An instance of `kind`.

    Raises:
        UserError: A key is unknown or a value has the wrong type.
    """
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind) if field.init]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            fix = closest(key, known).strip() or "Remove it."
            raise expected(f"{name}{key}", "one of the fields " + ", ".join(sorted(known)), key, fix)
    return kind(**{key: convert(f"{name}{key}", value, hints[key]) for key, value in values.items()})


def convert(field: str, value: Any, hint: Any) -> Any:
    """Converts `value` to the type `hint`, strictly: no rounding, no truthiness.

    Args:
        field: The field's name, for the message.
        value: A string or an already typed value.
        hint: ``bool``, ``int``, ``float``, ``str``, a ``Literal``, an optional of those, or a tuple of one of those.

    Raises:
        UserError: The value does not fit.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        if value is None or (value in ("", "none", "None") and type(None) in arguments):
            return None
        if all(typing.get_origin(argument) is typing.Literal for argument in inner):
            return _literal(field, value, tuple(word for one in inner for word in typing.get_args(one)))
        return convert(field, value, inner[0])
    if origin is typing.Literal:
        return _literal(field, value, arguments)
    if origin is tuple:
        items = [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else list(value)
        return tuple(convert(field, item, arguments[0]) for item in items)
    return _CONVERTERS[hint](field, value) if hint in _CONVERTERS else value


def _literal(field: str, value: Any, words: tuple[Any, ...]) -> Any:
    if value in words:
        return value
    fix = closest(str(value), [str(word) for word in words]).strip() or "Choose one of those."
    raise expected(field, "one of " + ", ".join(map(str, words)), value, fix)


def _bool(field: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise expected(field, "true or false", value, "Pass true or false.")


def _int(field: str, value: Any) -> int:
    if not isinstance(value, bool):
        try:
            if float(value) == int(float(value)):
                return int(float(value)) if not isinstance(value, (int, str)) else int(value)
        except (TypeError, ValueError, OverflowError):
            pass
    raise expected(field, "a whole number", value, "Pass a number such as 10.")


def _float(field: str, value: Any) -> float:
    if not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    raise expected(field, "a number", value, "Pass a number such as 0.1.")


def _str(field: str, value: Any) -> str:
    if isinstance(value, (str, Path)):
        return str(value)
    raise expected(field, "text", value, "Pass text.")


_CONVERTERS = {bool: _bool, int: _int, float: _float, str: _str}
