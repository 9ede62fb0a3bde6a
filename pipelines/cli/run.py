"""``ferry run``, ``ferry parameters``, ``ferry compile``, ``ferry runs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...common.errors import expected
from .output import HomeOption, JsonOption, metrics_table, print_json, print_table, say

PairsOption = Annotated[
    list[str] | None, typer.Option("--parameter", "-p", metavar="KEY=VALUE", help="A parameter; may be repeated.")
]
NameArgument = Annotated[str, typer.Argument(metavar="PIPELINE", help="clup or source.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the tree."""
    app.command("run", epilog="Example: ferry run clup -p target=faces/ -p source=model/ -p holdout=labelled/")(run)
    app.command("parameters", epilog="Example: ferry parameters clup --json")(show_parameters)
    app.command("compile", epilog="Example: ferry compile clup -o clup.yaml")(compile_)
    app.command("runs", epilog="Example: ferry runs --json")(runs)


def run(
    pipeline: NameArgument,
    parameter: PairsOption = None,
    home: HomeOption = None,
    seed: Annotated[int | None, typer.Option(help="Fixes the run; the same as -p seed=N.")] = None,
    json: JsonOption = False,
) -> None:
    """Run a pipeline on this machine."""
    from ..catalogue import find
    from ..runner import Home, run_local

    values: dict[str, object] = dict(pairs(parameter or []))
    if seed is not None:
        values["seed"] = seed
    info = find(pipeline)
    place = Home.at(home)
    say(f"{info.summary}. Home: {place.root}")
    result = run_local(info, values, place, say=say)
    if json:
        from dataclasses import asdict

        print_json(asdict(result.record))
        return
    summarise(result.record, place.root)


def summarise(record: object, home: Path) -> None:
    """Prints what a finished run is good for: numbers, report, model, where to look further."""
    from ..runner import RunRecord

    if not isinstance(record, RunRecord):
        return
    if record.metrics:
        metrics_table(record.metrics)
    if record.report:
        print(f"Report:  {record.report}")
    for task in record.tasks:
        if "model" in task.artifacts and not record.model:
            print(f"Model:   {task.artifacts['model']}")
    if record.model:
        print(f"Model:   {record.model['name']}, version {record.model['version']} ({record.model['uri']})")
    print(f"Run:     {home / 'runs' / record.id / 'run.json'}")
    uri = record.mlflow.get("tracking_uri", "")
    if uri.startswith("sqlite"):
        print(f"MLflow:  mlflow ui --backend-store-uri {uri}")
    elif uri:
        print(f"MLflow:  {uri}")


def pairs(texts: list[str]) -> dict[str, str]:
    """Returns ``key=value`` texts as a mapping.

    Raises:
        UserError: A text has no ``=``, or a key comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise expected("--parameter", "KEY=VALUE", text, "Write, for example, -p seed=1.")
        if key.strip() in found:
            raise expected(key.strip(), "given once", text, "Remove one of the two.")
        found[key.strip()] = value
    return found


def show_parameters(pipeline: NameArgument, json: JsonOption = False) -> None:
    """Show the parameters of a pipeline with their defaults."""
    from ..catalogue import find, parameters

    known = parameters(find(pipeline))
    if json:
        print_json(
            {
                name: {"type": entry.kind.__name__, "default": entry.default, "description": entry.description}
                for name, entry in known.items()
            }
        )
        return
    rows = [
        (name, entry.kind.__name__, "(required)" if entry.required else repr(entry.default), entry.description)
        for name, entry in known.items()
    ]
    print_table(find(pipeline).summary, ["parameter", "type", "default", "meaning"], rows)


def compile_(
    pipeline: NameArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The YAML file to write.")],
) -> None:
    """Compile a pipeline to YAML for Kubeflow."""
    from ...common.files import write_text
    from ..catalogue import compile_pipeline, find

    write_text(output, compile_pipeline(find(pipeline)))
    say(f"Wrote {output}.")


def runs(home: HomeOption = None, json: JsonOption = False) -> None:
    """List the runs of a home, newest first."""
    from ..runner import Home, load_record

    place = Home.at(home)
    records = [load_record(path) for path in sorted(place.runs.glob("*/run.json"), reverse=True)]
    if json:
        print_json([{"id": r.id, "status": r.status, "pipeline": r.pipeline, "metrics": r.metrics} for r in records])
        return
    rows = [
        (
            record.id,
            record.status,
            f"{record.seconds:.0f} s",
            _gain(record.metrics),
            f"{record.model['name']} v{record.model['version']}" if record.model else "",
        )
        for record in records
    ]
    print_table("", ["run", "status", "time", "mean-class accuracy", "model"], rows)


def _gain(metrics: dict[str, dict[str, float]]) -> str:
    if "source" not in metrics or "adapted" not in metrics:
        return ""
    before, after = (metrics[name].get("mean_class_accuracy") for name in ("source", "adapted"))
    return "" if before is None or after is None else f"{100 * before:.1f} -> {100 * after:.1f} %"
