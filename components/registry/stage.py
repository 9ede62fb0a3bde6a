"""The registration stage on artifacts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ..common.stage import StageRecord


def register_stage(
    model: Path | str, evaluation: Path | str, report: Path | str, name: str, record: StageRecord
) -> None:
    """Registers the adapted model, or does nothing without a name.

    Args:
        model: Folder of the adapted classifier.
        evaluation: Folder with ``metrics.json``.
        report: The HTML report.
        name: Name in the registry; empty registers nothing.
        record: Receives the fact ``model``.

    Raises:
        RetryableError: The MLflow server does not answer; the model stays in its folder.
    """
    if not name:
        record.warn("No model name was given: nothing was registered.")
        return
    from .register import register

    record.facts["model"] = asdict(register(model, evaluation, report, name))
