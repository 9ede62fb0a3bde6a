"""``ferry models``, ``ferry promote``, ``ferry rollback``, ``ferry sync``: the registry; ``ferry push``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import HomeOption, JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from ...registry import Registry, Version

NameOption = Annotated[str, typer.Option("--name", help="Name in the registry; needed where there are several.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the tree."""
    app.command("models", epilog="Example: ferry models --json")(models)
    app.command("promote", epilog="Example: ferry promote 3 --name ferry-clup")(promote)
    app.command("rollback", epilog="Example: ferry rollback --name ferry-clup")(rollback)
    app.command("push", epilog="Example: ferry push fer.onnx s3://models/fer")(push)
    app.command("sync", epilog="Example: ferry sync")(sync_)


def models(
    name: Annotated[str, typer.Option("--name", help="Only this model.")] = "",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """List registered models, their versions and aliases."""
    from ..runner import Home

    versions: list[Version] = []
    if Home.find(home).has_store:
        registry = _registry(home)
        names = [name] if name else registry.names()
        versions = [version for one in names for version in registry.versions(one)]
    if json:
        print_json([{**asdict(version), "uri": version.uri} for version in versions])
    elif versions:
        columns = ["model", "version", "aliases", "method", "verdict", "card", "made (UTC)"]
        print_table("", columns, [_row(version) for version in versions], numbers=(1,))
    else:
        say(f"No model is registered yet in {Home.find(home).tracking_uri}. Start with: ferry demo")


def promote(
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="The version that becomes champion, or its alias: challenger.")
    ],
    name: NameOption = "",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Make a version the champion; refused without a complete model card."""
    from ...registry import only_model

    registry = _registry(home)
    _show(registry.promote(only_model(registry, name), version), "is champion", json)


def rollback(name: NameOption = "", home: HomeOption = None, json: JsonOption = False) -> None:
    """Make the previous champion the champion again."""
    from ...registry import only_model

    registry = _registry(home)
    _show(registry.rollback(only_model(registry, name)), "is champion again", json)


def _registry(home: Path | None) -> Registry:
    from ...registry import Registry
    from ..runner import Home

    place = Home.find(home)
    place.require_store()
    return Registry(place.tracking_uri)


def _show(found: Version, what: str, json: bool) -> None:
    if json:
        print_json({**asdict(found), "uri": found.uri})
    else:
        print(f"{found.name} version {found.version} {what}: models:/{found.name}@champion")


def _row(version: Version) -> tuple[str, ...]:
    return (
        version.name,
        version.version,
        ", ".join(version.aliases),
        version.tags.get("ferry.method", ""),
        version.tags.get("ferry.verdict", ""),
        version.tags.get("ferry.card", ""),
        datetime.fromtimestamp(version.created / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
    )


def push(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder, or ONNX or TorchScript file.")],
    target: Annotated[str, typer.Argument(metavar="URI", help="s3://bucket/prefix, where nothing else lies.")],
    trust: Annotated[bool, typer.Option("--trust", help="Open a TorchScript file, which runs code from it.")] = False,
    json: JsonOption = False,
) -> None:
    """Upload a source model to an object store, from where runs in Kubeflow take it."""
    from ...common.errors import fields_as
    from ...networks import push_model

    with fields_as("", model="MODEL", target="URI"):
        report = push_model(model, target, trust)
    if json:
        print_json(asdict(report))
        return
    print(f"Sent:    {report.sent:,} files; {report.kept:,} were there already; {report.size / 1e6:,.1f} MB in all")
    print(f"Source:  {report.uri}")


def sync_(home: HomeOption = None, json: JsonOption = False) -> None:
    """Send to MLflow what it did not take when it was away: numbers, and models that are not registered yet."""
    from ..runner import Home
    from ..runner.sync import sync

    found = sync(Home.find(home), say)
    for line in found.left:
        say(f"note: not sent, {line}")
    if json:
        print_json(asdict(found))
    else:
        print(f"Sent:    {found.records:,} records of trainings, {len(found.models):,} models")
    if found.left:
        raise typer.Exit(1)
