"""What surrounds runs in a home: the tracking run of each, records of killed runs, checkpoints that nobody needs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from ...common.errors import FerryError, RetryableError
from .collect import collect
from .home import Home
from .record import RunRecord, load_record

KILLED = "The run was killed; run the same command again to continue from the last checkpoint."


def settle(home: Home) -> list[RunRecord]:
    """Completes the records of killed runs and removes their temporary files; the caller holds the home's lock.

    Returns:
        The records that were completed.
    """
    settled = []
    home.remove_temporary()
    for path in sorted(home.runs.glob("*/run.json")):
        try:
            record = load_record(path)
        except FerryError:  # damaged, or of another version: not for us to change
            continue
        if record.status != "running":
            continue
        record.end("killed", KILLED, RetryableError.exit_code)
        began = datetime.fromisoformat(record.started).timestamp() if record.started else 0.0
        last = max(entry.stat().st_mtime for entry in [path, *path.parent.glob("stages/*"), *path.parent.glob("*.txt")])
        record.seconds = round(max(last - began, 0.0), 2) if began else 0.0
        collect(record, path.parent)
        record.write_if_possible(path.parent)
        close_tracking(record)
        settled.append(record)
    return settled


def open_tracking(home: Home, record: RunRecord) -> dict[str, str]:
    """Prepares the MLflow store once, before stages write to it at the same time, and opens the run's MLflow run.

    Raises:
        RetryableError: The server does not answer.
        UserError: The store cannot be used.
    """
    from ...training import runs

    uri = home.tracking_uri
    run_id = runs.open_run(uri, record.pipeline, record.id, record.parameters, home.root / runs.STORE_FOLDER)
    return {"tracking_uri": uri, "run_id": run_id}


def close_tracking(record: RunRecord) -> None:
    """Ends the run's MLflow run; a server that has gone away does not change how the run ended."""
    if record.mlflow.get("run_id"):
        from ...training import runs

        runs.close_run(record.mlflow["tracking_uri"], record.mlflow["run_id"], record.status == "done")


def remove_checkpoints(record: RunRecord, home: Home) -> None:
    """Removes the checkpoints that a finished run used: it is done, so nothing will continue from them."""
    for task in record.tasks:
        for name in task.checkpoints:
            path = Path(name)
            if path.parent == home.checkpoints:
                path.unlink(missing_ok=True)
                path.with_name(f"{path.name}.previous").unlink(missing_ok=True)
