"""Pictures that occur more than once: the error where they cross a split, and the table that lists them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from itertools import islice
from pathlib import Path

import numpy as np

from ..common.errors import UserError, expected
from ..common.files import write_text
from ..common.progress import progress
from .decode import SkippedImage, content_of, decode_image
from .parallel import ordered_map
from .splits import Place, Repeats, describe
from .store import LabelledFaces, UnlabelledFaces
from .writer import FacesWriter

NO_LABEL = -1
"""Label of a face for which none is known."""

_SHOWN = 20


def check_overlap(
    repeats: Repeats, writer: FacesWriter, classes: Sequence[str] | None, overlap: str, output: Path
) -> None:
    """Raises UserError where a picture is in two splits and `overlap` is ``"error"``; lists all beside `output`."""
    if not repeats.across or overlap != "error":
        return
    beside = output.with_name(f"{output.name}.overlap.csv")
    write_duplicates(beside, repeats, writer, classes, crossing_only=True)
    between = Counter(" and ".join(sorted({place.split for place in places})) for places in repeats.crossing())
    got = ", ".join(f"{count:,} in {names}" for names, count in between.most_common())
    fix = (
        "Go on with the overlap recorded: overlap='allow' (--allow-overlap); "
        "or leave the copies out of the training split: overlap='drop_from_train' (--overlap drop_from_train); "
        "or split anew by content: splits='hash' (--splits hash)."
    )
    shown = list(islice(repeats.crossing(), _SHOWN))
    names = _keys_of(shown, writer)
    lines = ["  " + _one_per_split(places, names) for places in shown]
    message = str(expected("pictures in more than one split", "none", got, fix))
    raise UserError("\n".join([message, *lines, f"All of them are listed in {beside}."]))


def write_duplicates(
    path: Path, repeats: Repeats, writer: FacesWriter, classes: Sequence[str] | None, crossing_only: bool = False
) -> None:
    """Writes a CSV table with one line per copy: number of the picture, split, key, label."""
    names = _keys_of(list(repeats.crossing()) if crossing_only else list(repeats.pictures), writer)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["picture", "split", "key", "label"])
        table.writerows(describe(repeats, names.__getitem__, classes, crossing_only))


def _one_per_split(places: Sequence[Place], names: Mapping[Place, str]) -> str:
    first = {place.split: place for place in reversed(places)}
    text = " = ".join(f"{split}: {names[first[split]]}" for split in sorted(first, reverse=True))
    return text + (f" (and {len(places) - len(first)} more copies)" if len(places) > len(first) else "")


def _keys_of(pictures: Sequence[Sequence[Place]], writer: FacesWriter) -> dict[Place, str]:
    rows: dict[str, list[int]] = {}
    for places in pictures:
        for place in places:
            rows.setdefault(place.split, []).append(place.row)
    keys = {split: writer.keys(split, wanted) for split, wanted in rows.items()}
    return {place: keys[place.split][place.row] for places in pictures for place in places}


def shared_faces(first: UnlabelledFaces, second: UnlabelledFaces) -> list[tuple[str, str]]:
    """Finds pictures that two sets share, by their pixels; decodes both.

    Returns:
        Pairs of keys, one for each face of `second` whose picture is in `first`.
    """
    seen = {content: row for row, content in enumerate(contents(first))}
    pairs = [(seen.get(content), row) for row, content in enumerate(contents(second))]
    return [(first.keys[there], second.keys[here]) for there, here in pairs if there is not None]


def labels_by_picture(faces: UnlabelledFaces, labelled: LabelledFaces) -> np.ndarray:
    """Finds labels of faces in another set that holds the same pictures, by their pixels; decodes both.

    Args:
        faces: Faces without labels.
        labelled: Where their pictures may be.

    Returns:
        Labels, int64 [N]; -1 where the picture is not in `labelled`, or is there with more than one label.
    """
    known: dict[bytes, int] = {}
    for content, label in zip(contents(labelled), labelled.labels.tolist(), strict=True):
        if known.setdefault(content, label) != label:
            known[content] = NO_LABEL
    return np.fromiter((known.get(content, NO_LABEL) for content in contents(faces)), np.int64, len(faces))


def require_disjoint(
    training: UnlabelledFaces,
    holdout: UnlabelledFaces,
    what: str = "holdout",
    fix: str = "Take the copies out, or import both from one source with splits='hash'.",
    listing: Path | None = None,
) -> None:
    """Raises UserError where a holdout holds a picture of the training set, by its pixels.

    Args:
        training: What a model is trained or adapted on.
        holdout: What it is scored on.
        what: The field's name in the message.
        fix: What to do, in the message.
        listing: A CSV file for all shared pictures; the message has the first 20.
    """
    pairs = shared_faces(training, holdout)
    if not pairs:
        return
    lines = [f"  {one} = {other}" for one, other in pairs[:_SHOWN]]
    if listing is not None:
        table = StringIO()
        csv.writer(table).writerows([("training", "holdout"), *pairs])
        write_text(listing, table.getvalue())
        lines.append(f"All of them are listed in {listing}.")
    got = f"{len(pairs):,} of {len(holdout):,} shared"
    raise UserError("\n".join([str(expected(what, f"free of pictures of {training!r}", got, fix)), *lines]))


def contents(faces: UnlabelledFaces) -> Iterator[bytes]:
    """Yields 16 bytes per face, in order, that are equal where the decoded pixels are equal."""

    def decode(item: tuple[int, bytes]) -> bytes:
        index, data = item
        try:
            return content_of(decode_image(data))
        except SkippedImage as error:
            fix = f"The Faces folder {faces.root} is damaged: import the data set again."
            raise expected(f"image of {faces.keys[index]!r}", "a readable image", str(error), fix) from None

    with progress(f"comparing {faces.split} faces", len(faces)) as bar:
        for _, content in ordered_map(decode, enumerate(faces.iter_images()), chunk=32):
            bar.advance()
            yield content
