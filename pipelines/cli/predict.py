"""``ferry predict``: expressions of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import HomeOption, JsonOption, percent, print_json, print_table


def register(app: typer.Typer) -> None:
    """Adds the command to the tree."""
    app.command("predict", epilog="Example: ferry predict models:/ferry-clup@champion face.jpg")(predict)


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, foreign model, or models:/NAME@ALIAS.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files, or folders of them.")],
    home: HomeOption = None,
    trust: Annotated[bool, typer.Option("--trust", help="Open a TorchScript file, which runs code from it.")] = False,
    json: JsonOption = False,
) -> None:
    """Predict the displayed expression of images."""
    from ...common.errors import fields_as
    from ..api import predict as predict_files

    with fields_as("", model="MODEL", images="IMAGES"):
        found = predict_files(model, images, home=home, trust=trust)
    if json:
        print_json([entry.to_json() for entry in found])
    else:
        rows = [(entry.image, entry.label or "-", percent(entry.probability), entry.note) for entry in found]
        print_table("", ["image", "expression", "probability", "note"], rows, numbers=(2,))
    if any(entry.label == "" for entry in found):
        raise typer.Exit(2)
