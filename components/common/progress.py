"""Progress that people see: a bar on a terminal, plain lines in a log, a small state file for a watching runner."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

logger = logging.getLogger("ferry")

STATE_VARIABLE = "FERRY_PROGRESS_FILE"
"""Environment variable: where a stage leaves its progress for the runner that watches it (JSON, replaced whole)."""

_SHOW_AFTER = 2.0
_LOG_EVERY = 10.0
_STATE_EVERY = 0.5
_RATE_OVER = 30.0
_RATE_OF_AT_LEAST = 10
_RATE_OVER_AT_LEAST = 1.0
_MARK_EVERY = 0.5


class Progress:
    """Counts work and shows rate and time left.

    The rate is that of the last thirty seconds, and of ten steps where they take longer, so that a slow minute is soon
    forgotten. The first step, in which work often still starts up, is left out. Where there is no more than that, and
    at the end, it is the mean since the start.
    Nothing is shown for work that ends within two seconds. On a terminal a bar is drawn; otherwise a plain line is
    logged at most every ten seconds. Where ``FERRY_PROGRESS_FILE`` is set, the state is also left there, so that a
    runner can show it elsewhere.

    Args:
        description: What is being done, as a noun phrase.
        total: Units of work, or None where the end is unknown.
        unit: The unit's name, plural.
        start: Units already done, for resumed work; they do not count into the rate.
    """

    def __init__(self, description: str, total: int | None, unit: str = "images", start: int = 0) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self._start = start
        self.note = ""
        self._said: list[str] = []
        self._id = f"{os.getpid()}-{time.time_ns()}"
        self._began = self._logged = self._stated = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque()
        self._bar: Any = None
        self._task: Any = None
        self._state_file = os.environ.get(STATE_VARIABLE, "")

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._refresh_bar()
            self._bar.stop()
        elif kind is None and self.seconds >= _SHOW_AFTER and not sys.stderr.isatty():
            logger.info("%s: done, %s", self.description, self._numbers(finished=True))
        if self._state_file and kind is None and self.seconds >= _SHOW_AFTER:
            self._leave_state(finished=True)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    @property
    def rate(self) -> float:
        """Units per second, lately."""
        if self._marks:
            (since, before), (until, done) = self._marks[0], self._marks[-1]
            if until - since >= _RATE_OVER_AT_LEAST:
                return (done - before) / (until - since)
        return self.mean_rate

    @property
    def mean_rate(self) -> float:
        """Units per second since the start."""
        return (self.done - self._start) / max(self.seconds, 1e-9)

    @property
    def eta(self) -> float | None:
        """Seconds left at the present rate, or None where they are unknown."""
        if self.total is None or self.done == self._start:
            return None
        return max(self.total - self.done, 0) / max(self.rate, 1e-9)

    def advance(self, by: int = 1, note: str = "") -> None:
        """Counts `by` units as done; `note` (a loss, a name) is shown behind the numbers."""
        self.done += by
        self.note = note or self.note
        now = time.monotonic()
        self._mark(now)
        if now - self._began < _SHOW_AFTER:
            return
        if sys.stderr.isatty():
            self._refresh_bar()
        elif now - self._logged >= _LOG_EVERY:
            self._logged = now
            logger.info("%s: %s", self.description, self._numbers())
        if self._state_file and now - self._stated >= _STATE_EVERY:
            self._stated = now
            self._leave_state()

    def say(self, text: str) -> None:
        """Says a sentence about the work once: in the log, and to a runner that watches."""
        logger.info("%s: %s", self.description, text)
        self._said.append(text)
        if self._state_file:
            self._leave_state()

    def _mark(self, now: float) -> None:
        """Notes what is done by now, for the rate: some sixty marks, from the last one that is old enough on."""
        marks = self._marks
        if len(marks) > 1 and now - marks[-2][0] < _MARK_EVERY:
            marks.pop()
        marks.append((now, self.done))
        while len(marks) > _RATE_OF_AT_LEAST + 1 and now - marks[1][0] >= _RATE_OVER:
            marks.popleft()

    def _refresh_bar(self) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
            ]
            self._bar = Bar(*columns, console=Console(stderr=True), transient=False)
            self._task = self._bar.add_task(self.description, total=self.total, numbers="")
            self._bar.start()
        self._bar.update(self._task, completed=self.done, numbers=self._numbers(eta=False))

    def _numbers(self, eta: bool = True, finished: bool = False) -> str:
        count = f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"
        text = f"{count} {self.unit}, {per_second(self.mean_rate if finished else self.rate)}"
        if finished:
            text += f", {duration(self.seconds)}"
        elif eta and self.eta is not None:
            text += f", {duration(self.eta)} left"
        return f"{text}, {self.note}" if self.note else text

    def _leave_state(self, finished: bool = False) -> None:
        state = {
            "id": self._id,
            "finished": finished,
            "said": self._said,
            "description": self.description,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "rate": round(self.rate, 2),
            "eta_seconds": None if self.eta is None else round(self.eta, 1),
            "note": self.note,
        }
        path = Path(self._state_file)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(state), encoding="utf-8")
            os.replace(temporary, path)
        except OSError:  # progress must never end the work that it describes
            self._state_file = ""


@contextmanager
def progress(description: str, total: int | None, unit: str = "images", start: int = 0) -> Iterator[Progress]:
    """Opens a :class:`Progress` for a block."""
    with Progress(description, total, unit, start) as bar:
        yield bar


def per_second(rate: float) -> str:
    """Returns a rate with at least two digits, also where it is slow.

    Example:
        >>> per_second(1234.5), per_second(0.3671)
        ('1,234/s', '0.37/s')
    """
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def duration(seconds: float) -> str:
    """Returns seconds as people say them.

    Example:
        >>> duration(75), duration(4000), duration(3.21)
        ('1 min 15 s', '1 h 6 min', '3.2 s')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
