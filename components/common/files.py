"""Files that are either whole or absent: write to a temporary name in the same folder, sync, rename."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .errors import disk_errors, expected


@contextmanager
def atomic_file(path: Path | str) -> Iterator[BinaryIO]:
    """Opens a binary file that appears under `path` only when the block ends without an error.

    Args:
        path: The final path; its folder is made where it is missing.

    Yields:
        A writable binary file in the same folder.

    Raises:
        RetryableError: The disk is full; nothing under `path` has changed.
        UserError: The folder cannot be written.
    """
    path = Path(path)
    with disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _named(path):
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
            _sync_folder(path.parent)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` only when the block ends without an error.

    An existing folder at `path` is replaced whole; it stays in place until the new one is complete. Everything inside
    gets at least the rights that the umask gives to new files: some libraries write files that only their owner can
    read, and copies bring the rights of their originals.

    Args:
        path: The final folder.

    Yields:
        The temporary folder, beside `path`.

    Raises:
        RetryableError: The disk is full; the folder at `path` is as before.
        UserError: The parent folder cannot be written.
    """
    path = Path(path)
    with disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _named(path):
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            _grant_usual_rights(temporary)
            if path.exists():
                _exchange(temporary, path)
            else:
                os.replace(temporary, path)
            _sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def write_text(path: Path | str, text: str) -> None:
    """Writes UTF-8 text crash-safely."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Writes JSON crash-safely, sorted and indented; NaN and infinity become null.

    Args:
        path: The file.
        value: Anything that JSON can hold, plus tuples and numpy scalars.
    """
    write_text(path, json.dumps(finite(value), indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path | str, what: str = "file") -> Any:
    """Reads JSON.

    Args:
        path: The file.
        what: What the file is, for the message.

    Raises:
        UserError: The file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise expected(what, "an existing file", str(path), "Check the path.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise expected(what, "valid JSON", f"{path}: {error}", "The file is damaged; make it again.") from None


def finite(value: Any) -> Any:
    """Returns `value` with non-finite floats replaced by None and numpy scalars by Python ones."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def digest_of(value: Any) -> str:
    """Returns the SHA-256 (hex) of a JSON-like value, independent of key order."""
    return hashlib.sha256(json.dumps(finite(value), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_of_file(path: Path | str) -> str:
    """Returns the SHA-256 (hex) of a file's content, read in bounded memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Lets an error about a temporary name be about the path that was asked for."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _exchange(new: Path, path: Path) -> None:
    """Puts `new` in the place of the folder `path`, or leaves that one where it was."""
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        os.replace(path, old / "was")
        os.replace(new, path)
    except BaseException:
        if not path.exists():
            os.replace(old / "was", path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _grant_usual_rights(folder: Path) -> None:
    mask = _umask()
    for place, _, names in os.walk(folder):
        _grant(place, 0o777 & ~mask)
        for name in names:
            path = os.path.join(place, name)
            if not os.path.islink(path):
                _grant(path, 0o666 & ~mask)


def _grant(path: str, rights: int) -> None:
    present = stat.S_IMODE(os.stat(path).st_mode)
    if present | rights != present:
        os.chmod(path, present | rights)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # some network file systems refuse to open a folder; the rename itself is still atomic
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
