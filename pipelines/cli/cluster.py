"""``ferry submit``, ``ferry schedule``, ``ferry schedules``: runs in Kubeflow."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import JsonOption, print_json, print_table, say
from .run import ChoicesOption, NameArgument, PairsOption, compiled, pairs

if TYPE_CHECKING:
    from ..catalogue import PipelineInfo
    from ..cluster.kubeflow import Kubeflow, Uploaded
    from ..cluster.schedules import Schedules

EndpointOption = Annotated[
    str, typer.Option(help="URL of Kubeflow Pipelines' API; default: $KF_PIPELINES_ENDPOINT, else this cluster's.")
]
NamespaceOption = Annotated[str, typer.Option(help="The profile's namespace; default: $FERRY_KFP_NAMESPACE.")]

ProfileOption = Annotated[Path | None, typer.Option(help="YAML file that says what pods stages get.")]
ExperimentOption = Annotated[str, typer.Option(help="Kubeflow's experiment; made where there is none.")]
AccountOption = Annotated[str, typer.Option(help="Service account of the pods; default: Kubeflow's.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the tree."""
    example = "Example: ferry submit clup --profile gpu.yaml -p target=s3://faces/new -p source=models:/fer@champion"
    app.command("submit", epilog=example)(submit)
    nightly = "-p target=s3://faces/new -p source=models:/fer@champion"
    app.command("schedule", epilog=f"Example: ferry schedule clup --cron '0 3 * * *' --name nightly {nightly}")(
        schedule
    )
    schedules = typer.Typer(
        help="List, pause, resume and delete schedules in Kubeflow.",
        no_args_is_help=True,
        epilog="Example: ferry schedules list",
    )
    schedules.command("list", epilog="Example: ferry schedules list --json")(list_)
    for name in ("pause", "resume", "delete"):
        schedules.command(name, epilog=f"Example: ferry schedules {name} nightly")(globals()[name])
    app.add_typer(schedules, name="schedules")


def submit(
    pipeline: NameArgument,
    parameter: PairsOption = None,
    profile: ProfileOption = None,
    choices: ChoicesOption = True,
    endpoint: EndpointOption = "",
    namespace: NamespaceOption = "",
    experiment: ExperimentOption = "ferry",
    service_account: AccountOption = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the run has ended; its end is the exit code.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Start a run in Kubeflow; the pipeline is uploaded once for each content."""
    info, values, kubeflow, uploaded = _uploaded(pipeline, parameter, profile, choices, endpoint, namespace)
    run = kubeflow.submit(
        uploaded, f"ferry-{info.name}", values, experiment=experiment, service_account=service_account
    )
    say(f"Run {run.run} ({run.name}).")
    if wait:
        try:
            run = kubeflow.wait(run, say)
        except KeyboardInterrupt:
            say(f"Not waiting any longer; the run {run.run} goes on in Kubeflow.")
            raise
    if json:
        print_json(asdict(run))
    else:
        print(f"Run:     {run.run}, {run.state.lower()}")
    if wait and run.state != "SUCCEEDED":
        say(f"The run ended as {run.state.lower()}. {run.error}".strip())
        raise typer.Exit(1)


def schedule(
    pipeline: NameArgument,
    cron: Annotated[str, typer.Option(help="When: minute, hour, day, month, weekday; six fields begin with seconds.")],
    name: Annotated[str, typer.Option(help="The schedule's name; one of the same name is replaced.")] = "",
    parameter: PairsOption = None,
    profile: ProfileOption = None,
    choices: ChoicesOption = True,
    endpoint: EndpointOption = "",
    namespace: NamespaceOption = "",
    experiment: ExperimentOption = "ferry",
    service_account: AccountOption = "",
    json: JsonOption = False,
) -> None:
    """Start runs in Kubeflow again and again: one at a time, and none for times that were missed."""
    from ..cluster.schedules import Schedules, cron_of

    when = cron_of(cron)
    info, values, kubeflow, uploaded = _uploaded(pipeline, parameter, profile, choices, endpoint, namespace)
    made, replaced = Schedules(kubeflow).put(
        name or f"ferry-{info.name}", when, uploaded, values, experiment=experiment, service_account=service_account
    )
    if json:
        print_json({**asdict(made), "replaced": replaced})
    else:
        print(f"Schedule: {made.name}, {made.cron}{', in place of the one before' if replaced else ''}")


def list_(endpoint: EndpointOption = "", namespace: NamespaceOption = "", json: JsonOption = False) -> None:
    """List schedules."""
    found = _schedules(endpoint, namespace).all()
    if json:
        print_json([asdict(one) for one in found])
    elif found:
        rows = [(one.name, one.cron, "active" if one.active else "paused", one.id) for one in found]
        print_table("", ["schedule", "cron", "state", "id"], rows)
    else:
        say("No schedules. Make one with: ferry schedule PIPELINE --cron '0 3 * * *'")


ScheduleArgument = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]


def pause(name: ScheduleArgument, endpoint: EndpointOption = "", namespace: NamespaceOption = "") -> None:
    """Let a schedule start no more runs."""
    _schedules(endpoint, namespace).pause(name)
    print(f"Schedule: {name}, paused")


def resume(name: ScheduleArgument, endpoint: EndpointOption = "", namespace: NamespaceOption = "") -> None:
    """Let a paused schedule start runs again; those that it missed are not made up for."""
    _schedules(endpoint, namespace).resume(name)
    print(f"Schedule: {name}, active")


def delete(name: ScheduleArgument, endpoint: EndpointOption = "", namespace: NamespaceOption = "") -> None:
    """Remove a schedule; its runs stay."""
    _schedules(endpoint, namespace).delete(name)
    print(f"Schedule: {name}, deleted")


def _schedules(endpoint: str, namespace: str) -> Schedules:
    from ..cluster.kubeflow import Address, Kubeflow
    from ..cluster.schedules import Schedules

    return Schedules(Kubeflow(Address.from_environment(endpoint, namespace)))


def _uploaded(
    pipeline: str, parameter: list[str] | None, profile: Path | None, choices: bool, endpoint: str, namespace: str
) -> tuple[PipelineInfo, dict[str, Any], Kubeflow, Uploaded]:
    """Checks everything that can be checked here, and makes sure that the pipeline is in Kubeflow."""
    from ..catalogue import checked_parameters, find
    from ..cluster.kubeflow import Address, Kubeflow, check_places

    info = find(pipeline)
    values = checked_parameters(info, pairs(parameter or []))
    check_places(info, values)
    text = compiled(info, profile, choices)
    kubeflow = Kubeflow(Address.from_environment(endpoint, namespace))
    uploaded = kubeflow.upload(f"ferry-{info.name}", text)
    say(f"Pipeline ferry-{info.name}, version {uploaded.name}{' (uploaded)' if uploaded.fresh else ''}.")
    return info, values, kubeflow, uploaded
