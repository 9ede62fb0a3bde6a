"""The home of local runs: where runs, checkpoints, decoded faces and the MLflow store lie on this machine."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ...common.errors import RetryableError, disk_errors, expected

HOME_VARIABLE = "FERRY_HOME"
DEFAULT_HOME = ".ferry"


@dataclass(frozen=True)
class Home:
    """A folder that holds everything that local runs leave behind.

    Attributes:
        root: The folder, absolute.
    """

    root: Path

    @classmethod
    def at(cls, root: Path | str | None = None) -> Home:
        """Opens the home at `root`, else at ``$FERRY_HOME``, else at ``.ferry`` in the current folder, and makes it.

        Raises:
            UserError: The place cannot be a writable folder.
        """
        home = cls.find(root)
        with disk_errors(f"home {home.root}"):
            for name in ("runs", "checkpoints", "cache", "spool"):
                (home.root / name).mkdir(parents=True, exist_ok=True)
        return home

    @classmethod
    def find(cls, root: Path | str | None = None) -> Home:
        """Returns the home that :meth:`at` would open, there or not, and makes nothing: for what only reads.

        Raises:
            UserError: The place is no folder.
            OSError: It cannot be looked at.
        """
        path = Path(root or os.environ.get(HOME_VARIABLE) or DEFAULT_HOME).expanduser().absolute()
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            return cls(path)
        if not stat.S_ISDIR(mode):
            raise expected("home", "a folder", str(path), "Pass another --home.")
        return cls(path)

    @property
    def runs(self) -> Path:
        """One folder per run."""
        return self.root / "runs"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of unfinished trainings, by what determines their result."""
        return self.root / "checkpoints"

    @property
    def cache(self) -> Path:
        """Decoded faces."""
        return self.root / "cache"

    @property
    def spool(self) -> Path:
        """Numbers that MLflow did not take."""
        return self.root / "spool"

    @property
    def temporary(self) -> Path:
        """Temporary files of the run at work.

        In no run's own folder, so that the path is short: names of sockets in it must stay below some 100 bytes. Under
        a name that nobody else uses: it is removed whole, and a home may be a folder that holds other things.
        """
        return self.root / "stage-tmp"

    def remove_temporary(self) -> None:
        """Removes what a run left among its temporary files, also where it was killed; the caller holds the lock."""
        shutil.rmtree(self.temporary, ignore_errors=True)

    @property
    def tracking_uri(self) -> str:
        """``$MLFLOW_TRACKING_URI``, else a database file in the home."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def has_store(self) -> bool:
        """Whether there is an MLflow store to read: one that the environment names, or what runs here have left."""
        return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (self.root / "mlflow.db").is_file()

    def require_store(self) -> None:
        """Checks that there is an MLflow store, before something would make an empty one.

        Raises:
            UserError: There is none.
        """
        if not self.has_store:
            raise expected("home", "one with registered models", str(self.root), "Pass another --home.")

    def new_run(self, pipeline: str) -> Path:
        """Makes the folder of a new run; its name is the run's id, sortable by time."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        for attempt in range(1000):
            folder = self.runs / (f"{stamp}-{pipeline}" + (f"-{attempt}" if attempt else ""))
            try:
                with disk_errors(str(folder)):
                    folder.mkdir()
            except FileExistsError:
                continue
            return folder
        raise RetryableError(f"Expected `{self.runs}` to have room for a new run name, but got none. Try again.")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the home for one run.

        Raises:
            RetryableError: Another run holds it.
        """
        with disk_errors(f"home {self.root}"):
            file = open(self.root / "lock", "a+", encoding="utf-8")  # noqa: SIM115 - closed below
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise RetryableError(
                    f"Expected `home` to be free, but got {self.root}, which {_holder(file.read())} is using. "
                    "Wait until it has ended, or pass another --home."
                ) from None
            with disk_errors(f"home {self.root}"):
                file.truncate(0)
                file.write(json.dumps({"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}))
                file.flush()
            yield


def _holder(text: str) -> str:
    try:
        state = json.loads(text)
        return f"a run with process id {state['pid']} (since {state['since']})"
    except (ValueError, KeyError, TypeError):
        return "another run"
