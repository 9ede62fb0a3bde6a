"""The command tree. Every command imports what it needs when it runs, so that ``ferry --help`` answers at once."""

from __future__ import annotations

from typing import Annotated

import typer

from ... import __version__
from . import cluster, demo, doctor, faces, models, predict, run, serve

app = typer.Typer(
    name="ferry",
    help="Adapt facial-expression models to new, unlabelled faces without the source data.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: ferry demo",
)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Adapt facial-expression models to new, unlabelled faces without the source data."""


demo.register(app)
run.register(app)
faces.register(app)
predict.register(app)
serve.register(app)
models.register(app)
cluster.register(app)
doctor.register(app)
