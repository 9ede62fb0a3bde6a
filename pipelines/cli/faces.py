"""``ferry faces``: import, look at and render data sets of faces."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ...common.errors import expected
from .output import JsonOption, print_json, print_table, say
from .run import pairs


def register(app: typer.Typer) -> None:
    """Adds the commands to the tree."""
    faces = typer.Typer(
        help="Import, look at and render data sets of faces.",
        no_args_is_help=True,
        epilog="Example: ferry faces import fer2013/ -o faces/fer2013",
    )
    faces.command("import", epilog="Example: ferry faces import fer2013/ --layout fer2013 -o faces/fer2013")(import_)
    faces.command("push", epilog="Example: ferry faces push faces/fer2013 s3://faces/fer2013")(push)
    faces.command("show", epilog="Example: ferry faces show faces/fer2013 --sheet sheet.png")(show)
    faces.command("render", epilog="Example: ferry faces render 2000 --style line -o faces/line")(render)
    faces.command("layouts", epilog="Example: ferry faces layouts")(show_layouts)
    app.add_typer(faces, name="faces")


def import_(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder, file, or s3://bucket/prefix.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The Faces folder to make.")],
    layout: Annotated[str, typer.Option(help="Name of the layout (see: ferry faces layouts), or auto.")] = "auto",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the layout; may be repeated."),
    ] = None,
    splits: Annotated[str, typer.Option(help="as_given, or hash: split anew by content.")] = "as_given",
    holdout_fraction: Annotated[float, typer.Option(help="Share of the test split for --splits hash.")] = 0.2,
    take: Annotated[str, typer.Option(help="Import only this split.")] = "",
    labels: Annotated[str, typer.Option(help="keep, or drop: write the unlabelled type.")] = "keep",
    contempt: Annotated[str, typer.Option(help="drop, or keep as an eighth class.")] = "drop",
    unknown: Annotated[str, typer.Option(help="drop, or keep as a last class.")] = "drop",
    overlap: Annotated[
        str, typer.Option(help="Same picture in two splits: error, allow or drop_from_train.")
    ] = "error",
    allow_overlap: Annotated[bool, typer.Option("--allow-overlap", help="The same as --overlap allow.")] = False,
    max_skipped: Annotated[float, typer.Option(help="Largest share of faces that may be skipped.")] = 0.05,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing Faces folder.")] = False,
    json: JsonOption = False,
) -> None:
    """Import a data set into a Faces folder: Parquet shards and faces.json."""
    from ...faces import import_faces

    report = import_faces(
        source,
        output,
        layout,
        options=pairs(option or [], "--option", "--option label_map=joy=happiness"),
        overwrite=overwrite,
        splits=splits,
        holdout_fraction=holdout_fraction,
        take=take,
        labels=labels,
        contempt=contempt,
        unknown=unknown,
        overlap="allow" if allow_overlap else overlap,
        max_skipped=max_skipped,
    )
    if json:
        print_json(_plain(asdict(report)))
        return
    for split, count in report.images.items():
        title, classes = f"{split}: {count:,} faces", report.per_class.get(split, {})
        if classes:
            print_table(title, ["class", "faces"], list(classes.items()), (1,))
        else:
            print(f"{title}, without labels")
    for title, counts in (("Skipped", report.skipped), ("Left out by label", report.dropped)):
        for reason, count in counts.items():
            print(f"{title}: {count:,} ({reason})")
    if report.skipped_file:
        print(f"All that were skipped: {report.skipped_file}")
    if report.duplicates_file:
        print(f"Pictures that occur more than once: {report.duplicates_file}")
    for warning in report.warnings:
        say(f"note: {warning}")
    print(f"Faces:   {report.output}")


def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A Faces folder.")],
    target: Annotated[str, typer.Argument(metavar="URI", help="s3://bucket/prefix, where nothing else lies.")],
    json: JsonOption = False,
) -> None:
    """Upload a Faces folder to an object store; the same command goes on after an interruption."""
    from ...faces import push_faces

    report = push_faces(folder, target)
    if json:
        print_json(asdict(report))
        return
    print(f"Sent:    {report.sent:,} files; {report.kept:,} were there already; {report.size / 1e6:,.1f} MB in all")
    print(f"Faces:   {report.uri}")


def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A Faces folder.")],
    sheet: Annotated[
        Path | None, typer.Option(help="The contact sheet's PNG; default: DIR-sheet.png, in this folder.")
    ] = None,
    per_class: Annotated[int, typer.Option(help="Faces per class on the contact sheet.")] = 8,
    json: JsonOption = False,
) -> None:
    """Show counts per class, sizes, duplicates and overlap of splits, and draw a contact sheet."""
    from ...faces import contact_sheet, summarise_faces

    summary = summarise_faces(folder)
    target = sheet or Path(f"{folder.name or 'faces'}-sheet.png")
    drawn = True
    if sheet is None and not os.access(Path.cwd(), os.W_OK):  # nobody asked for the sheet, so it is no reason to fail
        say(f"note: no contact sheet, as {Path.cwd()} is not writable. Pass --sheet PNG for one elsewhere.")
        drawn = False
    else:
        contact_sheet(folder, target, per_class=per_class)
    if json:
        print_json({**_plain(asdict(summary)), "sheet": str(target) if drawn else None})
        return
    print(summary.text())
    if drawn:
        print(f"Contact sheet: {target}")


def render(
    count: Annotated[int, typer.Argument(help="Number of faces.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The Faces folder to make.")],
    style: Annotated[str, typer.Option(help="shaded, line, low_light, thermal or webcam.")] = "shaded",
    size: Annotated[int, typer.Option(help="Edge length in pixels.")] = 48,
    seed: Annotated[int, typer.Option(help="Fixes the faces.")] = 0,
    holdout: Annotated[float, typer.Option(help="Share of the split test.")] = 0.2,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Write the unlabelled type.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing Faces folder.")] = False,
    json: JsonOption = False,
) -> None:
    """Render parametric faces that show the seven expressions."""
    from ...faces import render_faces

    if count < 1:
        raise expected("COUNT", "at least 1", count, "Pass a number such as 300.")
    if not 0 <= holdout < 1:
        raise expected("--holdout", "at least 0 and below 1", holdout, "Pass 0.2, or 0 for no split test.")
    splits = {"train": 1.0 - holdout, "test": holdout} if holdout > 0 else {"train": 1.0}
    info = render_faces(output, count, style, seed, size, splits=splits, labels=not unlabelled, overwrite=overwrite)
    if json:
        print_json({"root": str(info.root), **info.as_json()})
        return
    print(f"Faces:   {info.root}")


def show_layouts(json: JsonOption = False) -> None:
    """List the layouts that can be imported."""
    from ...faces.readers import READERS

    rows = [
        (name, " ".join((reader.__doc__ or "").partition(".\n")[0].split()).rstrip("."))
        for name, reader in READERS.items()
    ]
    if json:
        print_json(dict(rows))
        return
    print_table("", ["layout", "what it is"], rows)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
