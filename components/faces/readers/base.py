"""What all readers share: options, the error that shows the expected tree, files that are read only when asked."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from ...common.errors import UserError, expected
from ...common.parameters import from_mapping
from ..schema import UNKNOWN, RawFace
from .tree import entries, is_folder, is_image

Options = TypeVar("Options")

_SHOWN_ENTRIES = 12


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a layout that has none."""


class LayoutReader(Generic[Options]):
    """Base of the readers: one public layout of a data set.

    A subclass sets `name`, `summary` and `options_type`, shows its tree and codes in its docstring after a line
    ``Expected tree::``, and implements :meth:`detect` and :meth:`faces`.

    Attributes:
        name: The layout's name.
        summary: How to recognise the layout, in half a sentence.
        labelled: Whether the layout gives labels; where the files decide, it is set before the first face.
        options_type: A frozen dataclass.
    """

    name: str = ""
    summary: str = ""
    labelled: bool = True
    options_type: type[Options]

    def detect(self, source: Path) -> bool:
        """Tells whether `source` looks like this layout, from names alone."""
        raise NotImplementedError

    def faces(self, source: Path, options: Options) -> Iterator[RawFace]:
        """Checks the tree at once and returns an iterator over the faces."""
        raise NotImplementedError

    def read(self, source: Path, options: Mapping[str, Any]) -> Iterator[RawFace]:
        """Yields the faces below `source`, lazily and in a deterministic order.

        Options and tree are checked by the call itself, before the first face is asked for.

        Args:
            source: Folder or file in this layout.
            options: Names and values; see the reader's ``options_type``.

        Returns:
            An iterator; memory stays bounded by the longest folder listing.

        Raises:
            UserError: An option is unknown or wrong, the tree does not fit, or a label is not known.
        """
        settings = self.check_options(options)
        source = Path(source)
        if not source.exists():
            raise expected("source", "an existing file or folder", str(source), "Check the path.")
        return self._at_least_one(self.faces(source, settings), source)

    def check_options(self, options: Mapping[str, Any]) -> Options:
        """Returns the typed options.

        Raises:
            UserError: An option is unknown (with the closest match) or has a wrong value.
        """
        known = [field.name for field in dataclasses.fields(self.options_type)]  # type: ignore[arg-type]
        if not known and options:
            name = next(iter(options))
            raise expected(f"{self.name}.{name}", "left out", options[name], f"The layout {self.name} has no options.")
        return from_mapping(self.options_type, options, f"{self.name}.")

    @classmethod
    def expected_tree(cls) -> str:
        """Returns the tree that the docstring shows, without its indentation."""
        _, _, after = inspect.cleandoc(cls.__doc__ or "").partition("Expected tree::\n")
        lines = []
        for line in after.splitlines():
            if line.strip() and not line.startswith(" "):
                break
            lines.append(line)
        return inspect.cleandoc("\n".join(lines))

    def refuse(self, source: Path, rule: str) -> NoReturn:
        """Raises the error for a tree that does not fit, with what was found and what was expected.

        Args:
            source: What the user passed.
            rule: What is missing, as it reads after "to be", for example "a folder that holds label/label.lst".
        """
        fix = f"The layout {self.name} looks like this:\n{self.expected_tree()}"
        raise expected("source", rule, f"{source} ({found(source)})", fix)

    def _at_least_one(self, faces: Iterator[RawFace], source: Path) -> Iterator[RawFace]:
        empty = True
        for face in faces:
            empty = False
            yield face
        if empty:
            self.refuse(source, "a source with at least one image")


def found(source: Path) -> str:
    """Describes what is at `source` in one line: a few names, and how many files of each kind."""
    if not source.is_dir():
        return "a file" if source.exists() else "nothing there"
    folders = [entry.name for entry in entries(source) if is_folder(entry)]
    files = [entry.name for entry in entries(source) if not is_folder(entry)]
    kinds = Counter(Path(name).suffix.lower() or "without extension" for name in files)
    parts = []
    if folders:
        more = f" and {len(folders) - _SHOWN_ENTRIES} more" if len(folders) > _SHOWN_ENTRIES else ""
        parts.append("folders " + ", ".join(folders[:_SHOWN_ENTRIES]) + more)
    if files:
        shown = [name for name in files if not is_image(name)][:_SHOWN_ENTRIES]
        parts.append("files " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
        parts.extend([", ".join(shown)] if shown else [])
    return "it holds " + "; ".join(parts) if parts else "it is empty"


def existing(folder: Path, *candidates: str) -> Path | None:
    """Returns the first of the relative paths that exists below `folder`, or None."""
    return next((folder / candidate for candidate in candidates if (folder / candidate).exists()), None)


def file_loader(path: str | os.PathLike[str], where: str = "image") -> Callable[[], bytes]:
    """Returns what reads the file when it is called.

    Args:
        path: The image.
        where: Name of the place that mentions it, for the message of a missing file.
    """
    return partial(_read_file, os.fspath(path), where)


def broken(key: str, split: str, error: UserError) -> RawFace:
    """Returns a face that cannot be read: it is skipped and counted, with the error as the reason."""
    return RawFace(key, failing(error), UNKNOWN, split)


def failing(error: UserError) -> Callable[[], bytes]:
    """Returns a loader that raises `error`."""
    return partial(_fail, error)


def _read_file(path: str, where: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        if os.path.islink(path) and not os.path.isfile(path):
            got = f"{path} -> {os.readlink(path)}"
            raise expected(where, "a link to an image file", got, "Correct or remove the link.") from None
        if not isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
            raise
        raise expected(where, "an existing image file", path, "Restore the file, or take it off the list.") from None


def _fail(error: UserError) -> bytes:
    raise error
