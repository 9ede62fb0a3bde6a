"""A database as MLflow's store: one process at a time makes its tables; errors that say whether a retry can help.

Nothing here imports MLflow.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ..common.errors import FerryError, RetryableError, disk_errors, expected

_STORE_SECONDS = 20.0
"""How long to wait for a local store that another process has locked; MLflow's own value."""


def database_of(uri: str) -> Path | None:
    """Returns the file of a SQLite store, or None."""
    path = uri.removeprefix("sqlite:///").split("?")[0] if uri.startswith("sqlite:///") else ""
    return Path(path) if path and path != ":memory:" else None


@contextmanager
def store_lock(uri: str) -> Iterator[None]:
    """Lets one process at a time make tables in a new SQLite store: two at once crash each other."""
    database = database_of(uri)
    if database is None:
        yield
        return
    import fcntl

    with disk_errors(f"MLflow store {database}"):
        database.parent.mkdir(parents=True, exist_ok=True)
        file = open(database.with_name(database.name + ".lock"), "w")  # noqa: SIM115 - closed below
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, at most 300 characters, without passwords in addresses."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return without_password(line)[:300].rstrip(".")


def without_password(text: str) -> str:
    """Returns a text whose addresses have lost their user and password."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def look_at(uri: str) -> None:
    """Reads from a store that is there: MLflow itself tries for two minutes to open what is no file."""
    database = database_of(uri)
    if database is not None and database.exists():
        with closing(sqlite3.connect(database, timeout=_STORE_SECONDS)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()


@contextmanager
def store_errors(uri: str, advice: str) -> Iterator[None]:
    """Turns the errors of a database into Ferry's."""
    from alembic.util import CommandError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, CommandError) as error:
        raise _store_error(uri, error, advice) from None


def _store_error(uri: str, error: Exception, advice: str) -> FerryError:
    """Returns the error for a database that MLflow cannot open: full disks and locks pass, damaged files do not."""
    database, said = database_of(uri), first_line(error)
    if "disk is full" in said:
        return RetryableError(
            f"Expected `disk` to be large enough for {database or uri}, but got '{said}'. "
            "Free some space and run the same command again."
        )
    if re.search(r"is locked|\bbusy\b", said):
        return RetryableError(
            f"Expected `MLFLOW_TRACKING_URI` to name a store that is free, but got {without_password(uri)}: {said}. "
            "Another process is at work in it: run the same command again."
        )
    if database is None:
        fix = advice
    elif re.search("not a database|malformed", said):
        fix = (
            f"Restore it from a backup, or move {database} away: a new store is made, without the models that are "
            "registered in this one, and runs keep their run.json."
        )
    elif re.search("unable to open|readonly", said):
        fix = f"Check the path: {database} must be a file that this user can read and write, in a folder like that."
    else:
        fix = f"{database} is as it was. A newer version of MLflow may have made it: use that one, or another store."
    got = f"{without_password(uri)}: {said}"
    return expected("MLFLOW_TRACKING_URI", "a store that MLflow can open", got, fix)
