"""The README of every room with a door is made from the door, so that it is never stale.

After a wanted change: FERRY_UPDATE_GOLDEN=1 python -m pytest tests/test_readmes.py
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest
from docstring_parser import parse
from kfp.dsl.base_component import BaseComponent

ROOMS = Path(__file__).parents[1] / "components"
DOORS = sorted(path.parent.name for path in ROOMS.glob("*/component.py"))
AGAIN = "If the change is wanted: FERRY_UPDATE_GOLDEN=1 python -m pytest tests/test_readmes.py"


def doors(room: str) -> dict[str, BaseComponent]:
    module = importlib.import_module(f"ferry.{room}.component")
    return {name: found for name, found in vars(module).items() if isinstance(found, BaseComponent)}


def image_of(door: BaseComponent) -> str:
    address: str = door.component_spec.implementation.container.image  # type: ignore[union-attr]
    return address.rpartition(":")[0]


def row(name: str, what: Any, text: str) -> str:
    kind = what.type.removeprefix("system.").partition("@")[0]
    given = "required" if not getattr(what, "optional", False) else f"`{what.default!r}`"
    return f"| `{name}` | {kind} | {given} | {text} |"


def section(name: str, door: BaseComponent) -> list[str]:
    texts = {
        entry.arg_name: " ".join((entry.description or "").split())
        for entry in parse(door.python_func.__doc__ or "").params
    }
    spec = door.component_spec
    inputs, outputs = spec.inputs or {}, spec.outputs or {}
    lines = [f"## `{name}`", "", spec.description or "", "", f"Image: `{image_of(door)}`.", ""]
    lines += ["| input | type | default | |", "|---|---|---|---|"]
    lines += [row(key, value, texts[key]) for key, value in inputs.items()]
    kinds = {key: value.type.removeprefix("system.").partition("@")[0] for key, value in outputs.items()}
    table = ["", "| output | type | |", "|---|---|---|"] if kinds else []
    return [*lines, *table, *(f"| `{key}` | {kind} | {texts[key]} |" for key, kind in kinds.items()), ""]


def readme(room: str) -> str:
    about = (importlib.import_module(f"ferry.{room}").__doc__ or "").strip().partition("\n\n")[0]
    lines = [f"# {room}", "", about, "", f"<!-- Made from {room}/component.py by tests/test_readmes.py. -->", ""]
    for name, door in doors(room).items():
        lines += section(name, door)
    return "\n".join(lines)


@pytest.mark.parametrize("room", DOORS)
def test_the_readme_says_what_the_door_is(room):
    path = ROOMS / room / "README.md"
    if os.environ.get("FERRY_UPDATE_GOLDEN") == "1":
        path.write_text(readme(room), encoding="utf-8")
    assert path.is_file(), AGAIN
    assert path.read_text(encoding="utf-8") == readme(room), AGAIN


@pytest.mark.parametrize("room", DOORS)
def test_every_input_and_output_of_a_door_is_described(room):
    for door in doors(room).values():
        described = {entry.arg_name for entry in parse(door.python_func.__doc__ or "").params if entry.description}
        assert described == {*(door.component_spec.inputs or {}), *(door.component_spec.outputs or {})}
