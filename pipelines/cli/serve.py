"""``ferry serve``: predictions over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import HomeOption

_OPTIONS = ("host", "port", "name", "refresh", "device", "max_bytes", "max_instances", "max_waiting", "grace")


def register(app: typer.Typer) -> None:
    """Adds the command to the tree."""
    app.command("serve", epilog="Example: ferry serve models:/ferry-clup@champion --port 8080")(serve)


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, foreign model, or models:/NAME@ALIAS.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 listens on all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8080,
    name: Annotated[str, typer.Option(help="The model's name; default: the registry's, or the file's.")] = "",
    refresh: Annotated[float, typer.Option(help="Seconds between two looks at an alias; 0 never looks again.")] = 60.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    max_bytes: Annotated[int, typer.Option(help="Largest body of a request.")] = 32 << 20,
    max_instances: Annotated[int, typer.Option(help="Most pictures of a request.")] = 256,
    max_waiting: Annotated[int, typer.Option(help="Requests that may wait while one is at work.")] = 64,
    grace: Annotated[float, typer.Option(help="Seconds for requests at work after SIGTERM.")] = 25.0,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log every request.")] = False,
    home: HomeOption = None,
    trust: Annotated[bool, typer.Option("--trust", help="Open a TorchScript file, which runs code from it.")] = False,
) -> None:
    """Serve a model over HTTP, for people and for KServe; an alias of the registry is followed."""
    from ...common.errors import fields_as
    from ..api import serve as serve_model

    options = {option: f"--{option.replace('_', '-')}" for option in _OPTIONS}
    with fields_as("", model="MODEL", source="MODEL", **options):
        serve_model(
            model,
            home=home,
            trust=trust,
            host=host,
            port=port,
            name=name,
            refresh=refresh,
            device=device,
            max_bytes=max_bytes,
            max_instances=max_instances,
            max_waiting=max_waiting,
            grace=grace,
            access_log=access_log,
        )
