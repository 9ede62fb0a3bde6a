"""``ferry models``, ``ferry promote``, ``ferry rollback``: the registry."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from .output import HomeOption, JsonOption, print_json, print_table

NameOption = Annotated[str, typer.Option("--name", help="Name in the registry; needed where there are several.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the tree."""
    app.command("models", epilog="Example: ferry models --json")(models)
    app.command("promote", epilog="Example: ferry promote 3 --name ferry-clup")(promote)
    app.command("rollback", epilog="Example: ferry rollback --name ferry-clup")(rollback)


def models(home: HomeOption = None, json: JsonOption = False) -> None:
    """List registered models, their versions and aliases."""
    from ...registry import Registry
    from ..runner import Home

    registry = Registry(Home.at(home).tracking_uri)
    versions = [version for name in registry.names() for version in registry.versions(name)]
    if json:
        print_json([asdict(version) for version in versions])
        return
    rows = [
        (
            version.name,
            version.version,
            ", ".join(version.aliases),
            version.tags.get("ferry.method", ""),
            version.tags.get("ferry.verdict", ""),
            datetime.fromtimestamp(version.created / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
        )
        for version in versions
    ]
    print_table("", ["model", "version", "aliases", "method", "verdict", "made (UTC)"], rows, numbers=(1,))


def promote(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The version that becomes champion.")],
    name: NameOption = "",
    home: HomeOption = None,
) -> None:
    """Make a version the champion; refused without a complete model card."""
    from ...registry import Registry, only_model
    from ..runner import Home

    registry = Registry(Home.at(home).tracking_uri)
    found = registry.promote(only_model(registry, name), version)
    print(f"{found.name} version {found.version} is champion: models:/{found.name}@champion")


def rollback(name: NameOption = "", home: HomeOption = None) -> None:
    """Make the previous champion the champion again."""
    from ...registry import Registry, only_model
    from ..runner import Home

    registry = Registry(Home.at(home).tracking_uri)
    found = registry.rollback(only_model(registry, name))
    print(f"{found.name} version {found.version} is champion again: models:/{found.name}@champion")
