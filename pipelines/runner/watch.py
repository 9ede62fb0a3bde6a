"""Shows a run while it happens: a line per stage, and the progress that the stage leaves in a file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...common.progress import duration

_LINE_EVERY = 15.0


class Watch:
    """Reads the records and the progress of stages and tells people about them.

    Args:
        stages: Folder of stage records.
        state: Progress file of the stage at work.
        say: Receives whole lines.
    """

    def __init__(self, stages: Path, state: Path, say: Callable[[str], None]) -> None:
        self.stages, self.state, self.say = stages, state, say
        self._seen: dict[str, str] = {}
        self._said = time.monotonic()
        self._bar: Any = None
        self._bar_task: Any = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_bar()

    def look(self) -> None:
        """Says what has changed since the last look."""
        for path in sorted(self.stages.glob("*.json"), key=lambda entry: entry.stat().st_mtime_ns):
            record = _read(path)
            name, status = record.get("name", ""), record.get("status", "")
            if not name or self._seen.get(name) == status:
                continue
            first = name not in self._seen
            self._seen[name] = status
            self._close_bar()
            if status == "running" and first:
                self.say(f"  {name} ...")
            elif status == "done":
                self.say(f"  {name}: done in {duration(record['ended'] - record['started'])}")
                for warning in record.get("warnings", []):
                    self.say(f"    note: {warning}")
            elif status == "failed":
                self.say(f"  {name}: failed")
        self._show_progress()

    def _show_progress(self) -> None:
        state = _read(self.state)
        if not state:
            return
        if sys.stderr.isatty():
            self._draw(state)
        elif time.monotonic() - self._said >= _LINE_EVERY:
            self._said = time.monotonic()
            total = f"/{state['total']:,}" if state["total"] else ""
            left = f", {duration(state['eta_seconds'])} left" if state["eta_seconds"] is not None else ""
            note = f", {state['note']}" if state["note"] else ""
            count = f"{state['done']:,}{total} {state['unit']}, {state['rate']:,.0f}/s"
            self.say(f"    {state['description']}: {count}{left}{note}")

    def _draw(self, state: dict[str, Any]) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = [TextColumn("    {task.description}"), BarColumn(), TextColumn("{task.fields[numbers]}")]
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar_task = self._bar.add_task("", total=None, numbers="")
            self._bar.start()
        left = f", {duration(state['eta_seconds'])} left" if state["eta_seconds"] is not None else ""
        self._bar.update(
            self._bar_task,
            description=state["description"],
            total=state["total"],
            completed=state["done"],
            numbers=f"{state['done']:,} {state['unit']}, {state['rate']:,.0f}/s{left}",
        )

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self.state.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
