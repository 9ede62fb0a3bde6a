"""Keeps decoded faces as one uint8 memory map per (data set, size, channels): decoded once, reused by every stage."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..common.errors import UserError, expected
from ..common.files import atomic_file
from ..common.progress import progress
from .decode import SkippedImage, face_pixels
from .parallel import ordered_map

if TYPE_CHECKING:
    from .store import UnlabelledFaces

logger = logging.getLogger("ferry")

CACHE_VARIABLE = "FERRY_CACHE"
"""Environment variable: the folder for files that can always be made again."""

PIXELS_VERSION = 1
"""Counts up when the same image would decode to other pixels, so that old files are not taken for new ones."""

MAX_SIZE = 4096


def default_cache() -> Path:
    """Returns ``$FERRY_CACHE``, else ``~/.cache/ferry``."""
    folder = os.environ.get(CACHE_VARIABLE, "")
    return Path(folder) if folder else Path.home() / ".cache" / "ferry"


def cached_pixels(faces: UnlabelledFaces, size: int, channels: int = 1, cache: Path | str | None = None) -> np.ndarray:
    """Returns all faces as a memory map, and makes its file where it is missing or damaged.

    See :meth:`ferry.faces.UnlabelledFaces.pixels`. Where several processes ask at once, one decodes and the others
    wait for it.
    """
    if not 1 <= size <= MAX_SIZE:
        raise expected("size", f"between 1 and {MAX_SIZE} pixels", size, "Pass for example 48.")
    if channels not in (1, 3):
        raise expected("channels", "1 or 3", channels, "Pass 1 for grey faces, 3 for colour.")
    shape = (len(faces), channels, size, size)
    if len(faces) == 0:
        return np.zeros(shape, np.uint8)
    folder = Path(cache) if cache is not None else default_cache()
    path = folder / "pixels" / f"{faces.digest}-{size}x{size}x{channels}-v{PIXELS_VERSION}.npy"
    found = _mapped(path, shape)
    if found is None:
        _make_folder(path.parent)
        with _alone(path) as alone:
            found = _mapped(path, shape)
            if found is None:
                if alone:
                    _remove_leftovers(path)
                _decode_into(path, faces, shape)
                found = _mapped(path, shape)
    if found is None:
        raise expected(
            "cache", "a folder that keeps what is written", str(path), f"Set {CACHE_VARIABLE} to another folder."
        )
    return found


def _mapped(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray | None:
    try:
        length = path.stat().st_size
        # Copy-on-write keeps the file safe, and torch takes it without a warning about read-only memory.
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        logger.warning("The decoded faces in %s are damaged (%s) and are made again.", path, error)
        return None
    if array.shape != shape or array.dtype != np.uint8 or length != array.offset + array.nbytes:
        logger.warning("The decoded faces in %s have a wrong length or shape and are made again.", path)
        return None
    result: np.ndarray = array
    return result


def _decode_into(path: Path, faces: UnlabelledFaces, shape: tuple[int, int, int, int]) -> None:
    count, channels, size, _ = shape

    def decode(item: tuple[int, bytes]) -> np.ndarray:
        index, data = item
        try:
            return face_pixels(data, size, channels)
        except SkippedImage as error:
            fix = f"The Faces folder {faces.root} is damaged: import the data set again."
            raise expected(f"image of {faces.keys[index]!r}", "a readable image", str(error), fix) from None

    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with atomic_file(path) as file, progress(f"decoding {faces.split} faces at {size} px", count) as bar:
        np.lib.format.write_array_header_1_0(file, header)
        for _, pixels in ordered_map(decode, enumerate(faces.iter_images()), chunk=32):
            # Plain writes: a full disk is then an error, while a write through a memory map would kill the process.
            file.write(pixels.tobytes())
            bar.advance()


def _remove_leftovers(path: Path) -> None:
    """Removes unfinished files of killed processes, which may be large; only whoever holds the lock may do so."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        if leftover.suffix != ".lock":
            leftover.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(folder, error) from error


def _not_writable(folder: Path, error: OSError) -> UserError:
    fix = f"Set {CACHE_VARIABLE} to a folder that can be written."
    return expected("cache", "a folder that can be written", f"{folder}: {error.strerror}", fix)


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Lets one process at a time make `path`; where files cannot be locked each makes it, slower but right.

    Yields:
        Whether no other process can be making it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield False
        return
    locked = True
    try:
        lock = open(path.with_name(f".{path.name}.lock"), "ab")  # noqa: SIM115 - closed below
    except PermissionError as error:
        raise _not_writable(path.parent, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("Waiting for another process that decodes the same faces.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a network file system without locks
            locked = False
        yield locked
