"""FER+: ten votes for every face of FER2013."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from ...common.errors import expected
from ..labels import CODES
from ..schema import CONTEMPT, EXPRESSIONS, UNKNOWN, RawFace
from .base import LayoutReader, existing, file_loader
from .fer2013 import COLUMNS as FER2013_COLUMNS
from .fer2013 import UsageTest, face_of_row, find_csv, split_of_usage, with_split
from .table import Row, header_of, raw_rows_of, rows_of
from .tree import split_folders, walk_images

logger = logging.getLogger("ferry")

VOTE_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "nf")
"""The ten columns of votes in their official order."""

_MEANINGS = tuple(CODES["ferplus"].codes[index] for index in range(len(VOTE_COLUMNS)))
_EMOTIONS = 8
_LABEL_CSV_COLUMNS = ("image name", "box", *VOTE_COLUMNS)
_FOLDERS = {"FER2013Train": "Training", "FER2013Valid": "PublicTest", "FER2013Test": "PrivateTest"}

Votes = tuple[float, ...]


@dataclass(frozen=True)
class FerPlusOptions:
    """Options of the layout ``ferplus``.

    Attributes:
        labels: ``majority``: one label. ``soft``: one label and, beside it, the distribution of the votes.
        votes: The csv file with the votes, where it lies elsewhere.
        usage_test: As in the layout ``fer2013``.
    """

    labels: Literal["majority", "soft"] = "majority"
    votes: str = ""
    usage_test: UsageTest = "auto"


class FerPlusReader(LayoutReader[FerPlusOptions]):
    """The votes of FER+ over the faces of FER2013.

    Expected tree::

        SRC/fer2013new.csv                 Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,
                                           fear,contempt,unknown,NF; rows in the order of fer2013.csv
        SRC/fer2013.csv                    or icml_face_data.csv
        or
        SRC/fer2013new.csv                 or one label.csv (without header) in each of the folders
        SRC/FER2013{Train,Valid,Test}/fer*.png
        or
        SRC/*.csv                          file,neutral,...,NF by relative path; or anywhere, named by votes=
        SRC/{train,test}/<expression>/*.jpg

    Columns, which are also the codes from 0: neutral, happiness, surprise, sadness, anger, disgust, fear, contempt,
    unknown, NF (not a face); the last two become ``unknown``. Source: repository of FER+ (Barsoum, Zhang, Canton
    Ferrer and Zhang, ICMI 2016, arXiv 1608.01041).

    The rules for ``labels`` are the published ones. Single votes count as noise and are removed first. *Majority*:
    the expression with more than half of the remaining votes; without one, hence also for ties, the face is
    ``unknown``. *Soft*: the expressions with the most votes, equal ones together, until they hold three quarters of
    the remaining votes, at most three of them; a face is ``unknown`` where unknown or NF comes alone on top, where
    more than three are needed, or where at most half of the votes are covered. Its votes are given over the seven
    expressions and sum to 1 (contempt has no place there); its label is the one with the most votes, the first
    column winning ties. Faces of FER2013 without votes in FER+ are ``unknown``.
    """

    name = "ferplus"
    summary = "fer2013new.csv beside fer2013.csv or FER2013Train, or votes by file beside train and test"
    options_type = FerPlusOptions

    def detect(self, source: Path) -> bool:
        """Tells whether there are votes below `source` itself."""
        return source.is_dir() and (_official_votes(source) is not None or _find_file_votes(source) is not None)

    def faces(self, source: Path, options: FerPlusOptions) -> Iterator[RawFace]:
        """Finds votes and images before the first face is asked for."""
        if not source.is_dir():
            self.refuse(source, "a folder")
        given = self._given(options.votes)
        if given is not None and "file" in header_of(given):
            return self._by_file(source, given, options)
        official = given or existing(source, "fer2013new.csv")
        csv = find_csv(source)
        if official is not None and csv is not None:
            return _by_row(csv, official, options)
        folders = [name for name in _FOLDERS if (source / name).is_dir()]
        if folders:
            return self._by_folder(source, folders, official, options)
        by_file = _find_file_votes(source)
        if by_file is None:
            self.refuse(source, "a folder with the votes of FER+ and the images of FER2013")
        return self._by_file(source, by_file, options)

    @staticmethod
    def _given(votes: str) -> Path | None:
        if not votes:
            return None
        path = Path(votes)
        missing = [name for name in VOTE_COLUMNS if name not in header_of(path)]
        if missing:
            rule = f"a csv file with the columns {', '.join(VOTE_COLUMNS)}"
            raise expected("ferplus.votes", rule, votes, f"Check the path; it lacks {', '.join(missing)}.")
        return path

    def _by_file(self, source: Path, votes: Path, options: FerPlusOptions) -> Iterator[RawFace]:
        tops = split_folders(source)
        if not tops:
            self.refuse(source, "a folder that holds train and test")
        table = {row["file"]: votes_of(row) for row in rows_of(votes, ("file", *VOTE_COLUMNS))}
        paths = [(f"{top}/{path}", split) for top, split in tops.items() for path in walk_images(source / top)]
        known = sum(path in table for path, _ in paths)
        if not known:
            found = paths[0][0] if paths else "no image"
            raise expected(
                "source",
                f"a folder with images that {votes} names, such as {next(iter(table), 'none')}",
                f"{source} with {found}",
                "Pass the folder that the paths in the votes start from.",
            )
        logger.info(
            "%s: votes for %d of %d images, %d votes without image", votes, known, len(paths), len(table) - known
        )
        plain = (RawFace(path, file_loader(source / path), split=split) for path, split in paths)
        faces = (with_split(face, options.usage_test) for face in plain)
        return (_voted(face, table.get(face.key), options) for face in faces)

    def _by_folder(
        self, source: Path, folders: Sequence[str], official: Path | None, options: FerPlusOptions
    ) -> Iterator[RawFace]:
        lists = {name: source / name / "label.csv" for name in folders}
        if official is None and not all(path.is_file() for path in lists.values()):
            self.refuse(source, "a folder that holds fer2013new.csv, or label.csv in every FER2013 folder")
        if official is not None:
            shared = {row["image name"]: votes_of(row) for row in rows_of(official, ("image name", *VOTE_COLUMNS))}
            return self._stream_folders(source, dict.fromkeys(folders, shared), options)
        tables = {
            name: {row["image name"]: votes_of(row) for row in raw_rows_of(path, _LABEL_CSV_COLUMNS)}
            for name, path in lists.items()
        }
        return self._stream_folders(source, tables, options)

    @staticmethod
    def _stream_folders(
        source: Path, tables: Mapping[str, Mapping[str, Votes]], options: FerPlusOptions
    ) -> Iterator[RawFace]:
        for folder, table in tables.items():
            split = split_of_usage(_FOLDERS[folder], options.usage_test, folder)
            for path in walk_images(source / folder):
                face = RawFace(f"{folder}/{path}", file_loader(source / folder / path), split=split)
                yield _voted(face, table.get(os.path.basename(path)), options)


def votes_of(row: Row) -> Votes:
    """Returns the ten votes of a row.

    Raises:
        UserError: A vote is not a number from 0 on.
    """
    try:
        votes = tuple(float(row[name]) for name in VOTE_COLUMNS)
    except ValueError:
        votes = (-1.0,)
    if not all(0 <= vote < float("inf") for vote in votes):
        got = ", ".join(row[name] for name in VOTE_COLUMNS)
        raise expected(f"votes in {row.where}", "ten numbers from 0 on", got, "Get the original file.")
    return votes


def majority(votes: Votes) -> str:
    """Returns the label that more than half of the votes agree on, single votes being removed first.

    Args:
        votes: Ten votes in the order of :data:`VOTE_COLUMNS`.

    Returns:
        A name of the vocabulary; ``"unknown"`` without a majority and where unknown or NF has it.
    """
    kept = _without_single_votes(votes)
    top = max(range(len(kept)), key=kept.__getitem__)
    return _MEANINGS[top] if 2 * kept[top] > sum(kept) else UNKNOWN


def soft(votes: Votes) -> tuple[str, tuple[float, ...] | None]:
    """Returns the label and the distribution over the seven expressions after the published rule.

    Args:
        votes: Ten votes in the order of :data:`VOTE_COLUMNS`.

    Returns:
        The label, and the distribution in the order of ``EXPRESSIONS``, which sums to 1; None for ``"unknown"`` and
        where only contempt was voted for.
    """
    kept = _without_single_votes(votes)
    total, covered = sum(kept), 0.0
    taken: dict[int, float] = {}
    for level in sorted({vote for vote in kept if vote > 0}, reverse=True):
        if covered >= 0.75 * total or len(taken) >= 3:
            break
        best = [index for index, vote in enumerate(kept) if vote == level]
        emotions = [index for index in best if index < _EMOTIONS]
        taken.update(dict.fromkeys(emotions, level))
        covered += level * len(emotions)
        if len(emotions) < len(best):  # unknown or not a face: nothing below it counts
            break
    if not taken or len(taken) > 3 or covered <= 0.5 * total:
        return UNKNOWN, None
    label = _MEANINGS[max(taken, key=lambda index: (taken[index], -index))]
    shares = dict.fromkeys(EXPRESSIONS, 0.0)
    for index, vote in taken.items():
        if _MEANINGS[index] != CONTEMPT:
            shares[_MEANINGS[index]] += vote
    rest = sum(shares.values())
    return label, tuple(share / rest for share in shares.values()) if rest else None


def _without_single_votes(votes: Votes) -> list[float]:
    return [vote if vote > 1 else 0.0 for vote in votes]


def _voted(face: RawFace, votes: Votes | None, options: FerPlusOptions) -> RawFace:
    if votes is None:
        return replace(face, label=UNKNOWN)
    if options.labels == "majority":
        return replace(face, label=majority(votes))
    label, shares = soft(votes)
    return replace(face, label=label, votes=shares)


def _by_row(csv: Path, votes: Path, options: FerPlusOptions) -> Iterator[RawFace]:
    """Joins the two official files row by row; Usage must agree, which reveals a file that was sorted."""
    pixels = rows_of(csv, FER2013_COLUMNS)
    ballots = rows_of(votes, ("usage", "image name", *VOTE_COLUMNS))
    for index, (row, ballot) in enumerate(zip_longest(pixels, ballots)):
        if row is None or ballot is None:
            longer = votes if row is None else csv
            raise expected(str(votes), f"as long as {csv}", f"more rows in {longer}", "Get the original files.")
        if row["usage"].casefold() != ballot["usage"].casefold():
            rule = f"{row['usage']} as in {row.where}"
            raise expected(f"Usage in {ballot.where}", rule, ballot["usage"], "The rows are not in the same order.")
        face = face_of_row(row, index, options.usage_test, {})
        # FER+ leaves the name of an image empty that it took out.
        yield _voted(face, votes_of(ballot) if ballot["image name"] else None, options)


def _official_votes(source: Path) -> Path | None:
    listing = existing(source, "fer2013new.csv")
    labels = existing(source, *(f"{name}/label.csv" for name in _FOLDERS))
    images = find_csv(source) or existing(source, *_FOLDERS)
    return (listing or labels) if images is not None else None


def _find_file_votes(source: Path) -> Path | None:
    needed = {"file", *VOTE_COLUMNS}
    return next((path for path in sorted(source.glob("*.csv")) if needed <= set(header_of(path))), None)
