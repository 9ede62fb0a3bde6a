"""``ferry run``, ``ferry parameters``, ``ferry compile``, ``ferry runs``."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...common.errors import FerryError, disk_errors, expected
from .output import HomeOption, JsonOption, metrics_table, print_json, print_table, say

if TYPE_CHECKING:
    from ..catalogue import PipelineInfo
    from ..runner import Home, RunRecord, RunResult

PairsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter",
        "-p",
        metavar="KEY=VALUE",
        help="A parameter (see: ferry parameters PIPELINE); may be repeated.",
    ),
]
ChoicesOption = Annotated[
    bool,
    typer.Option(
        "--choices/--no-choices",
        help="Offer the words of a parameter in Kubeflow's form; servers older than 2.16 refuse such a pipeline.",
    ),
]
NameArgument = Annotated[str, typer.Argument(metavar="PIPELINE", help="clup, adabn or source.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the tree."""
    app.command(
        "run",
        epilog="Example: ferry run clup -p target=faces/ -p source=model/ -p holdout=labelled/",
        context_settings={"allow_extra_args": True},  # for a better word about them than that they are unexpected
    )(run)
    app.command("parameters", epilog="Example: ferry parameters clup --json")(show_parameters)
    app.command("compile", epilog="Example: ferry compile clup -o clup.yaml")(compile_)
    app.command("runs", epilog="Example: ferry runs --json")(runs)


def run(
    context: typer.Context,
    pipeline: NameArgument,
    parameter: PairsOption = None,
    home: HomeOption = None,
    seed: Annotated[int | None, typer.Option(help="Fixes the run; the same as -p seed=N.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Copy the run's model to this folder.")] = None,
    on: Annotated[
        str, typer.Option(help="Where stages run: local (processes) or docker (containers, from Ferry's images).")
    ] = "local",
    json: JsonOption = False,
) -> None:
    """Run a pipeline on this machine; the same command goes on where an interrupted run stopped."""
    from dataclasses import asdict

    from ...common.progress import duration
    from ..catalogue import find
    from ..runner import Home, RunFailed, load_record, run_local

    if context.args:
        word = context.args[0]
        fix = f"Write -p {word if '=' in word else f'KEY={word}'}; see: ferry parameters {pipeline}"
        raise expected("--parameter", "given as -p KEY=VALUE", word, fix)
    values: dict[str, object] = dict(pairs(parameter or []))
    if seed is not None:
        if "seed" in values:
            raise expected(
                "seed", "given once", f"--seed {seed} and -p seed={values['seed']}", "Remove one of the two."
            )
        values["seed"] = seed
    info = find(pipeline)
    if output is not None:
        check_output(output)
    place = Home.at(home)
    try:
        result = run_local(info, values, place, say=say, on=on)
    except RunFailed as error:
        if json:
            print_json(asdict(load_record(error.folder)))
        raise
    if output is not None:
        copy_model(result, output)
    if json:
        print_json(asdict(result.record))
        return
    summarise(result.record, place.root)
    overhead = duration(result.record.overhead_seconds)
    print(f"Time:    {duration(result.record.seconds)}, of which {overhead} starting stages and handing over")
    if output is not None:
        print(f"Copy:    {output}")


def check_output(output: Path) -> None:
    """Checks, before the run, the folder that its model will be copied to.

    Raises:
        UserError: There is something else than a model, which is never replaced, or nothing can be written there.
    """
    empty = output.is_dir() and not any(output.iterdir())
    if output.exists() and not empty and not (output / "model.json").is_file():
        fix = "Something else is there, and it is never replaced: choose another folder."
        raise expected("--output", "a new folder or that of a model", str(output), fix)
    there = next(path for path in output.absolute().parents if path.exists())
    try:
        with disk_errors(str(output)), tempfile.TemporaryDirectory(prefix=".", dir=there):
            pass
    except OSError as error:
        fix = f"{there}: {error.strerror}. Choose another folder."
        raise expected("--output", "in a folder that can be written", str(output), fix) from error


def copy_model(result: RunResult, output: Path) -> None:
    """Copies the model that a run made last; the folder of an older model is replaced whole."""
    from ...common.files import atomic_folder

    model = _last_model(result.record)
    with atomic_folder(output) as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)


def _last_model(record: RunRecord) -> str:
    """Returns the path of the model that the run was for; those before it are its inputs and its baseline."""
    return [task.artifacts["model"] for task in record.tasks if "model" in task.artifacts][-1]


def summarise(record: RunRecord, home: Path) -> None:
    """Prints what a finished run is good for: numbers, report, model, where to look further."""
    if any(row.get("n") for row in record.metrics.values()):
        names: dict[str, str] = next((task.facts["names"] for task in record.tasks if "names" in task.facts), {})
        metrics_table(record.metrics, names)
    if record.report:
        print(f"Report:  {record.report}")
    if record.model:
        print(f"Model:   {record.model['name']}, version {record.model['version']} ({record.model['uri']})")
    else:
        print(f"Model:   {_last_model(record)}")
    print(f"Run:     {home / 'runs' / record.id / 'run.json'}")
    uri = record.mlflow.get("tracking_uri", "")
    if uri.startswith("sqlite"):
        print(f"MLflow:  {mlflow_command(uri)}")
    elif uri:
        print(f"MLflow:  {uri}")


def mlflow_command(uri: str) -> str:
    """Returns the command that opens the MLflow UI, so that it works when copied into a shell."""
    return shlex.join([_program("mlflow"), "ui", "--backend-store-uri", uri])


def next_commands(record: RunRecord, home: Path) -> list[str]:
    """Returns the commands that use and promote what a run registered; none where it registered nothing."""
    if not record.model:
        return []
    name, version, place = record.model["name"], record.model["version"], ["--home", str(home)]
    return [
        shlex.join([_program("ferry"), "predict", record.model["uri"], "PICTURE", *place]),
        shlex.join([_program("ferry"), "promote", str(version), "--name", name, *place]),
    ]


def _program(name: str) -> str:
    """Returns the name of a program, or its path where the shell would not find it."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() and shutil.which(name) is None else name


def pairs(texts: list[str], option: str = "--parameter", example: str = "-p seed=1") -> dict[str, str]:
    """Returns ``key=value`` texts as a mapping.

    Args:
        texts: What was given.
        option: The option that it was given with, for messages.
        example: How it is written right.

    Raises:
        UserError: A text has no ``=``, or a key comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise expected(option, "KEY=VALUE", text, f"Write, for example, {example}.")
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
                name: {
                    "type": entry.kind.__name__,
                    "default": entry.default,
                    "description": entry.description,
                    **({"choices": entry.choices} if entry.choices else {}),
                }
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
    profile: Annotated[
        Path | None, typer.Option(help="YAML file that says what pods, images and secrets stages get.")
    ] = None,
    choices: ChoicesOption = True,
) -> None:
    """Compile a pipeline to YAML for Kubeflow."""
    from ...common.files import write_text
    from ..catalogue import find

    write_text(output, compiled(find(pipeline), profile, choices))
    say(f"Wrote {output}.")


def compiled(pipeline: PipelineInfo, profile: Path | None, choices: bool) -> str:
    """Returns a pipeline compiled with a profile, after saying what should be known of it."""
    from ..catalogue import compile_pipeline, stages
    from ..cluster.advice import advice
    from ..cluster.profile import load_profile

    given = None if profile is None else load_profile(profile)
    text = compile_pipeline(pipeline, given, choices=choices)
    for sentence in advice(given, stages(pipeline)):
        say(f"note: {sentence}")
    return text


def runs(home: HomeOption = None, json: JsonOption = False) -> None:
    """List the runs of a home, newest first."""
    from ..runner import Home

    place = Home.find(home)
    records = _records(place)
    if json:
        names = ("id", "pipeline", "status", "started", "seconds", "metrics", "report", "model", "error")
        print_json([{name: getattr(record, name) for name in names} for record in records])
        return
    if not records:
        say(f"No runs in {place.root}. Start with: ferry demo")
        return
    rows = [
        (
            record.id,
            record.status,
            f"{record.seconds:,.0f} s",
            _gain(record.metrics),
            f"{record.model['name']} v{record.model['version']}" if record.model else "",
        )
        for record in records
    ]
    print_table("", ["run", "status", "time", "mean-class accuracy", "model"], rows, numbers=(2, 3))


def _records(home: Home) -> list[RunRecord]:
    """Returns the records of a home, newest first; those of killed runs are completed where no run is at work."""
    from ...common.errors import RetryableError
    from ..runner import load_record
    from ..runner.settle import settle

    paths = sorted(home.runs.glob("*/run.json"), reverse=True)
    if paths and os.access(home.root, os.W_OK):
        try:
            with home.lock():
                settle(home)
        except RetryableError:
            pass
    found = []
    for path in paths:
        try:
            found.append(load_record(path))
        except FerryError as error:
            say(f"note: {path} is left out. {error}")
    return found


def _gain(metrics: dict[str, Any]) -> str:
    if "source" not in metrics or "adapted" not in metrics:
        return ""
    before, after = (metrics[name].get("mean_class_accuracy") for name in ("source", "adapted"))
    return "" if before is None or after is None else f"{100 * before:.1f} -> {100 * after:.1f} %"
