"""Records of a run that could not be sent, as JSON lines for later."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger("ferry")

Record = Mapping[str, Any]


class Spool:
    """A file that records are appended to.

    Args:
        path: The file, made with the first record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.used = False

    def append(self, records: Iterable[Record]) -> bool:
        """Appends records; returns False where the file cannot be written, since tracking must not end the work."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(dict(record), sort_keys=True) + "\n" for record in records)
        except OSError as error:
            logger.warning("Tracking: records are lost, %s cannot be written (%s).", self.path, error.strerror)
            return False
        self.used = True
        return True


def read_spool(path: Path) -> list[dict[str, Any]]:
    """Reads a spool file; a last line that was cut off by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            logger.warning("Tracking: a damaged line in %s was left out.", path)
    return records
