"""What the command prints: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ...common.files import finite

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of runs and the local MLflow store; default: $FERRY_HOME, else .ferry."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def say(line: str) -> None:
    """Prints a line for people on standard error, so that standard output stays for results."""
    print(line, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Prints JSON on standard output; NaN never appears."""
    print(json.dumps(finite(value), indent=2, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], numbers: Sequence[int] = ()) -> None:
    """Prints a table on standard output.

    Args:
        title: Line above the table; empty for none.
        columns: Heads.
        rows: Cells; everything is turned into text.
        numbers: Indices of the columns that are aligned to the right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


def percent(value: float | None) -> str:
    """Returns a fraction as percent with one decimal, or a dash."""
    return "-" if value is None else f"{100 * value:.1f} %"


def metrics_table(metrics: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Prints accuracy and mean-class accuracy of every row of a run.

    Args:
        metrics: Row to metrics, as in ``run.json``.
        names: Row to the name that the report gives it; a row without one goes by its key.
    """
    known = ("source", "adabn", "adapted")
    order = [*known, *sorted(set(metrics) - set(known))]
    rows = [
        (
            names.get(name, name),
            percent(row.get("accuracy")),
            percent(row.get("mean_class_accuracy")),
            percent(row.get("min_class_accuracy")),
            f"{row.get('n', 0):,}",
        )
        for name in order
        if (row := metrics.get(name)) is not None
    ]
    print_table("", ["model", "accuracy", "mean-class accuracy", "worst class", "faces"], rows, numbers=(1, 2, 3, 4))
