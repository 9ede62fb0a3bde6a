"""Errors that say what was expected, what was found, and what to do.

The exit code says whether a retry can help: 2 for the user's input, 75 (``EX_TEMPFAIL``) where the same call may
succeed later, 1 for everything else.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, NoReturn


class FerryError(Exception):
    """Base of every error that Ferry raises on purpose; shown to people without a traceback."""

    exit_code = 1


class UserError(FerryError, ValueError):
    """The input is wrong: the same call fails again until somebody changes it."""

    exit_code = 2


class RetryableError(FerryError):
    """Something outside is unavailable: the same call may succeed later, and finished work was kept."""

    exit_code = 75


class Interrupted(RetryableError):
    """Somebody stopped the work (SIGTERM, Ctrl-C): the same call goes on where it was."""


class TrainingDiverged(FerryError):
    """A training cannot go on: non-finite values or a collapse, named in the message."""

    exit_code = 3


def expected(field: str, rule: str, got: Any, fix: str) -> UserError:
    """Builds the one error sentence that Ferry uses for wrong input.

    Args:
        field: Name of the argument, parameter or file.
        rule: What it must be, as it reads after "to be".
        got: What it was; strings are quoted, everything else goes through ``repr``.
        fix: What to do now, as a full sentence.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> print(expected("lr", "positive", -1.0, "Pass a number such as 0.1."))
        Expected `lr` to be positive, but got -1.0. Pass a number such as 0.1.
    """
    return UserError(f"Expected `{field}` to be {rule}, but got {_shown(got)}. {fix}")


def closest(word: str, known: Sequence[str]) -> str:
    """Returns `` Did you mean 'x'?`` for the known word nearest to `word`, or an empty string."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def unknown(kind: str, word: str, known: Sequence[str]) -> UserError:
    """Builds the error for a name that is not among the known ones, with the closest match.

    Example:
        >>> print(unknown("layout", "fer2031", ["fer2013", "rafdb"]))
        Expected `layout` to be one of fer2013, rafdb, but got 'fer2031'. Did you mean 'fer2013'?
    """
    fix = closest(word, known).strip() or "Choose one of those."
    return expected(kind, "one of " + ", ".join(known), word, fix)


@contextmanager
def fields_as(prefix: str, *fields: str, **names: str) -> Iterator[None]:
    """Lets errors name what the caller's user has given, where a library's field of another name was wrong.

    Args:
        prefix: What stands before the fields for the user, for example ``training_``.
        *fields: Fields that differ by the prefix only.
        **names: Other fields, with the user's name for each.

    Raises:
        UserError: The error of the block, renamed.
    """
    try:
        yield
    except UserError as error:
        text = str(error)
        for field, name in {**{field: f"{prefix}{field}" for field in fields}, **names}.items():
            for old in (f"`{field}`", f"`architecture.{field}`"):
                if f"Expected {old} " in text:
                    raise UserError(text.replace(old, f"`{name}`", 1)) from None
        raise


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turns a full disk or a missing right into an error that people can act on.

    Args:
        what: The file or folder that is being written, as it should read in the message.

    Raises:
        RetryableError: The disk is full or over quota.
        UserError: The place cannot be written at all.
    """
    try:
        yield
    except OSError as error:
        _raise_disk_error(error, what)


def of_the_system(error: OSError) -> FerryError:
    """Returns the error for what the system refused: of a path, which is the user's, or of something that may pass.

    Args:
        error: As the system raised it, anywhere.
    """
    path = error.filename2 or error.filename
    reason = error.strerror or str(error) or type(error).__name__
    try:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _raise_disk_error(error, str(path or "output"))
    except FerryError as known:
        return known
    if path is None:
        return RetryableError(f"Expected `system` to do its part, but got '{reason}'. Try again.")
    if isinstance(error, PermissionError):
        return expected(str(path), "accessible to this user", reason, "Change its permissions, or choose another path.")
    return expected(str(path), "a usable path", reason, "Check the path.")


def _raise_disk_error(error: OSError, what: str) -> NoReturn:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise RetryableError(
            f"Expected `disk` to be large enough for {what}, but got '{error.strerror}'. "
            "Free some space and run the same command again; what was finished before is kept."
        ) from error
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        raise expected(
            what, "writable", str(error.strerror), "Choose another folder or change its permissions."
        ) from error
    raise error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else text[:297] + "..."
