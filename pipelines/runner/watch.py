"""Shows a run while it happens: a line per stage, and the progress that the stage leaves in a file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...common.progress import duration, per_second

_BAR_AFTER = 2.0
_LINE_EVERY = 15.0


def silent(_: str) -> None:
    """Says nothing; a :class:`Watch` with it draws nothing either."""


class Watch:
    """Reads the records and the progress of stages and tells people about them.

    On a terminal a bar shows the work at hand: rate and time left where the stage counts, else for how long it has been
    going on. Elsewhere a plain line says so every fifteen seconds.

    Args:
        stages: Folder of stage records.
        state: Progress file of the stage at work.
        say: Receives whole lines.
    """

    def __init__(self, stages: Path, state: Path, say: Callable[[str], None]) -> None:
        self.stages, self.state, self.say = stages, state, say
        self._seen: dict[str, str] = {}
        self._work, self._pid, self._since = "starting", 0, time.monotonic()
        self._lined = self._since
        self._told: tuple[str, int] = ("", 0)
        self._bar: Any = None
        self._bar_task: Any = None
        self._bar_of = ""

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_bar()

    def look(self) -> None:
        """Says what has changed since the last look."""
        for path in sorted(self.stages.glob("*.json"), key=lambda entry: entry.stat().st_mtime_ns):
            record = _read(path)
            name, status = record.get("name", ""), record.get("status", "")
            if name and self._seen.get(name) != status:
                self._seen[name] = status
                self._say_status(record)
        state = self._state()
        self._tell(state)
        self._show_progress({} if state.get("finished") else state)

    def _say_status(self, record: dict[str, Any]) -> None:
        name, status = record["name"], record["status"]
        self._pid = record["pid"]
        if status != "running":
            self._tell(self._state())  # its last words
            self._pid = 0
        self._close_bar()
        self._work, self._since = name, time.monotonic()
        if status != "running":
            self._work = "starting the next stage" if status == "done" else "ending the run"
        if status == "running":
            self.say(f"  {name} ...")
        elif status == "done":
            self.say(f"  {name}: done in {duration(record['ended'] - record['started'])}")
            for warning in record.get("warnings", []):
                self.say(f"    note: {warning}")
        elif status == "failed":
            self.say(f"  {name}: failed")

    def _state(self) -> dict[str, Any]:
        """Returns the progress of the stage at work, and not what one before it has left."""
        state = _read(self.state)
        return state if str(state.get("id", "")).startswith(f"{self._pid}-") else {}

    def _tell(self, state: dict[str, Any]) -> None:
        """Says what the work at hand has to say about itself, for example what it will cost; each sentence once."""
        if not state:
            return
        told = self._told[1] if self._told[0] == state["id"] else 0
        for sentence in state["said"][told:]:
            self._close_bar()
            self.say(f"    {state['description']}: {sentence}")
        self._told = (state["id"], len(state["said"]))

    def _show_progress(self, state: dict[str, Any]) -> None:
        now = time.monotonic()
        if sys.stderr.isatty():
            if self.say is not silent and (state or now - self._since >= _BAR_AFTER):
                self._draw(state)
        elif now - max(self._lined, self._since) >= _LINE_EVERY:
            self._lined = now
            self.say(f"    {state['description'] if state else self._work}: {self._numbers(state, bar=False)}")

    def _numbers(self, state: dict[str, Any], bar: bool) -> str:
        if not state:
            return f"{duration(time.monotonic() - self._since)} so far"
        total = f"/{state['total']:,}" if state["total"] and not bar else ""
        left = f", {duration(state['eta_seconds'])} left" if state["eta_seconds"] is not None else ""
        note = f", {state['note']}" if state["note"] else ""
        return f"{state['done']:,}{total} {state['unit']}, {per_second(state['rate'])}{left}{note}"

    def _draw(self, state: dict[str, Any]) -> None:
        work = state.get("id", self._work)
        if self._bar_of != work:  # a bar that had a total cannot lose it
            self._close_bar()
        shown = {
            "description": state.get("description", self._work),
            "total": state.get("total"),
            "completed": state.get("done", 0),
            "numbers": self._numbers(state, bar=True),
        }
        if self._bar is not None:
            self._bar.update(self._bar_task, **shown)
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = [TextColumn("    {task.description}"), BarColumn(), TextColumn("{task.fields[numbers]}")]
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar_task, self._bar_of = self._bar.add_task(**shown), work
        self._bar.start()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
