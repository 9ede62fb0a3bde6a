"""``ferry demo``: the main job on rendered faces."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import HomeOption, JsonOption, print_json, say


def register(app: typer.Typer) -> None:
    """Adds the command to the tree."""
    app.command("demo", epilog="Example: ferry demo --seed 1")(demo)


def demo(
    home: HomeOption = None,
    seed: Annotated[int, typer.Option(help="Fixes faces, source model and adaptation.")] = 0,
    json: JsonOption = False,
) -> None:
    """Render faces, train a source model, adapt it with CluP, and show what came out (about 5 minutes on 2 cores)."""
    from dataclasses import asdict

    from ...common.progress import duration
    from ..demo import demo as run_demo
    from ..runner import Home
    from .run import next_commands, summarise

    place = Home.at(home)
    result = run_demo(place, seed, say)
    if json:
        print_json({"source": asdict(result.source.record), "clup": asdict(result.clup.record)})
        return
    summarise(result.clup.record, place.root)
    total = result.source.record.seconds + result.clup.record.seconds
    overhead = result.source.record.overhead_seconds + result.clup.record.overhead_seconds
    print(f"Time:    {duration(total)}, of which {duration(overhead)} starting stages and handing over")
    for what, command in zip(
        ("classify pictures", "promote it"), next_commands(result.clup.record, place.root), strict=False
    ):
        print(f"Next:    {what}: {command}")
