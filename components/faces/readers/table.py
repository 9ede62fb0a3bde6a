"""Text tables row by row: csv of any usual dialect, and lists whose columns are separated by blanks."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ...common.errors import closest, expected

_DELIMITERS = (",", ";", "\t", "|")
_FIELD_LIMIT = 1 << 20
_BOMS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        number: Number of the row as a spreadsheet shows it, the header being row 1.
        cells: Trimmed texts by column name (lower case).
        where: File and row, for messages.
    """

    number: int
    cells: Mapping[str, str]
    where: str

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


def header_of(path: Path) -> list[str]:
    """Returns the column names of a csv file, trimmed, in lower case; none where the file is not text."""
    try:
        return _header(path)
    except (OSError, UnicodeError):
        return []


def _header(path: Path) -> list[str]:
    with _open(path) as file:
        first = file.readline(_FIELD_LIMIT)
    return [name.strip().strip("\"'").strip().casefold() for name in first.split(_delimiter(first))]


def rows_of(path: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """Yields the rows of a csv file with a header, one at a time.

    Commas, semicolons, tabs and bars are understood, quoted cells, a byte order mark, blanks around names and cells,
    and any case of the column names. Blank lines are passed over.

    Args:
        path: The file.
        columns: Names that must be there, lower case.

    Raises:
        UserError: The file is not text, a column is missing, or a row has more or fewer cells than the header.
    """
    try:
        names = _header(path)
    except UnicodeError as error:
        raise expected(str(path), "UTF-8 text", str(error), "Save the file as UTF-8.") from None
    for column in columns:
        if column not in names:
            fix = f"{closest(column, names).strip()} The file needs the columns {', '.join(columns)}.".strip()
            raise expected(f"columns of {path}", f"a list that holds '{column}'", ", ".join(names), fix)
    return _rows(path, names)


def _rows(path: Path, names: list[str]) -> Iterator[Row]:
    for number, cells in _lines(path):
        if number == 1:
            continue
        where = f"{path} row {number}"
        if len(cells) != len(names):
            rule = f"a row of {len(names)} cells ({', '.join(names)})"
            raise expected(where, rule, f"{len(cells)} cells", "Quote cells that contain the delimiter.")
        yield Row(number, dict(zip(names, cells, strict=True)), where)


def raw_rows_of(path: Path, names: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of a csv file that has no header.

    Args:
        path: The file.
        names: The columns that its format fixes; further cells are ignored.

    Raises:
        UserError: The file is not text or a row is too short.
    """
    for number, cells in _lines(path):
        where = f"{path} row {number}"
        if len(cells) < len(names):
            raise expected(where, f"a row of {', '.join(names)}", ", ".join(cells), "Get the original file.")
        yield Row(number, dict(zip(names, cells, strict=False)), where)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_LIMIT))
    number = 0
    try:
        with _open(path) as file:
            delimiter = _delimiter(file.readline(_FIELD_LIMIT))
            file.seek(0)
            for cells in csv.reader(file, delimiter=delimiter, skipinitialspace=True):
                number += 1
                if any(cell.strip() for cell in cells):
                    yield number, [cell.strip() for cell in cells]
    except UnicodeError as error:
        raise expected(str(path), "UTF-8 text", str(error), "Save the file as UTF-8.") from None
    except csv.Error as error:
        raise expected(f"{path} row {number + 1}", "a csv row", str(error), "Check the quotes in that row.") from None


def list_rows(path: Path, names: Sequence[str]) -> Iterator[Row]:
    """Yields the rows of a list whose columns are separated by blanks; the first column may itself contain blanks.

    Args:
        path: The file, without a header.
        names: The columns.

    Raises:
        UserError: The file is not text or a row is too short.
    """
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                cells = line.strip().rsplit(None, len(names) - 1)
                where = f"{path} row {number}"
                if len(cells) != len(names):
                    raise expected(where, "the columns " + " ".join(names), line.strip(), "Get the original file.")
                yield Row(number, dict(zip(names, cells, strict=True)), where)
    except UnicodeError as error:
        raise expected(str(path), "UTF-8 text", str(error), "Get the original file.") from None


def box_of(row: Row, left: str, top: str, right: str, bottom: str) -> tuple[int, int, int, int]:
    """Returns a box of whole pixels that covers the four numbers.

    Raises:
        UserError: A number is missing or the box is empty.
    """
    try:
        edges = [float(row[name]) for name in (left, top, right, bottom)]
    except ValueError:
        edges = [math.nan]
    if not all(map(math.isfinite, edges)) or edges[2] <= edges[0] or edges[3] <= edges[1]:
        got = ", ".join(f"{name}={row[name]}" for name in (left, top, right, bottom))
        raise expected(
            f"box in {row.where}", "four numbers with left < right and top < bottom", got, "Correct the row."
        )
    return math.floor(edges[0]), math.floor(edges[1]), math.ceil(edges[2]), math.ceil(edges[3])


def _open(path: Path) -> IO[str]:
    with open(path, "rb") as file:
        start = file.read(3)
    encoding = next((name for bom, name in _BOMS if start.startswith(bom)), "utf-8")
    return open(path, encoding=encoding, newline="")


def _delimiter(first_line: str) -> str:
    """Returns the delimiter that the header uses most: names of columns contain none of them."""
    return max(_DELIMITERS, key=first_line.count)
