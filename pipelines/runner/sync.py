"""Sends to MLflow what it did not take when it was away: numbers of trainings, and models that were made meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ...common.errors import FerryError, RetryableError, expected
from .collect import specification
from .home import Home
from .record import RunRecord, TaskRecord, load_record
from .settle import close_tracking, settle

REGISTRATION = "register"
"""The stage that makes a model a version in the registry."""

_ADVICE = "Nothing was lost: start the server and run `ferry sync` again."
_INPUTS = ("model", "evaluation", "report")


@dataclass
class Synced:
    """What was sent.

    Attributes:
        records: Numbers and ends of runs that MLflow has now.
        models: The versions that were made: name, version, URI, MLflow run.
        left: What could not be sent, and why; a line each.
    """

    records: int = 0
    models: list[dict[str, Any]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def sync(home: Home, say: Callable[[str], None]) -> Synced:
    """Sends what is kept in a home; what was sent is not sent again.

    Args:
        home: The home; no run may be at work in it.
        say: Receives lines for people.

    Returns:
        What was sent, and what was not.

    Raises:
        RetryableError: The MLflow server does not answer, or a run is at work.
    """
    found = Synced()
    if not home.runs.is_dir():
        return found
    with home.lock():
        settle(home)
        records = {path.parent: record for path in sorted(home.runs.glob("*/run.json")) if (record := _loaded(path))}
        uris = {record.mlflow.get("run_id", ""): record.mlflow.get("tracking_uri", "") for record in records.values()}
        for path in sorted(home.spool.glob("*.jsonl")):
            with _kept(found, str(path)):
                found.records += _numbers(path, uris, home)
        for folder, record in records.items():
            task = unregistered(record)
            if task is not None:
                with _kept(found, record.id):
                    found.models.append(_registered(record, task, folder, home))
                    say(f"{record.id}: {record.model['name']} version {record.model['version']}")
    return found


@contextmanager
def _kept(found: Synced, what: str) -> Iterator[None]:
    """Lets one thing that cannot be sent not keep the others from it; a server that is away ends all."""
    try:
        yield
    except RetryableError:
        raise
    except ConnectionError as error:
        raise RetryableError(f"Expected MLflow to answer for {what}, but got {error}. {_ADVICE}") from error
    except (FerryError, OSError) as error:
        found.left.append(f"{what}: {error}")


def _connected(uri: str, home: Home) -> str:
    """Returns the address of the store that a run was recorded in, unless the environment names another."""
    from ...training.runs import connect

    place = os.environ.get("MLFLOW_TRACKING_URI") or uri or home.tracking_uri
    connect(place, _ADVICE)
    return place


def unregistered(record: RunRecord) -> TaskRecord | None:
    """Returns the registration of a run that failed because the server was away, else None."""
    if record.status != "failed":
        return None
    failed = [task for task in record.tasks if task.status != "done"]
    if [task.name for task in failed] != [REGISTRATION] or failed[0].exit_code != RetryableError.exit_code:
        return None
    return failed[0]


def _loaded(path: Path) -> RunRecord | None:
    try:
        return load_record(path)
    except FerryError:  # damaged, or of another version: not for us to change
        return None


def _numbers(path: Path, uris: Mapping[str, str], home: Home) -> int:
    from ...training import upload_spool
    from ...training.spool import read_spool

    runs = {str(entry.get("run", "")) for entry in read_spool(path)}
    return upload_spool(path, _connected(next((uris[run] for run in sorted(runs) if run in uris), ""), home))


def _registered(record: RunRecord, task: TaskRecord, folder: Path, home: Home) -> dict[str, Any]:
    """Registers what a run made, and completes its record."""
    from ...registry.register import register_later

    inputs, before = _inputs(folder, record), record.mlflow.get("tracking_uri", "")
    uri, name = _connected(before, home), str(record.parameters["model_name"])
    made = register_later(
        inputs["model"],
        inputs["evaluation"],
        inputs["report"],
        name,
        made_at=datetime.fromisoformat(record.started).timestamp() + record.seconds if record.started else 0.0,
        tracking_uri=uri,
        run_id=record.mlflow.get("run_id", "") if uri == before else "",
    )
    task.status, task.error, task.exit_code = "done", "", 0
    record.model = asdict(made)
    record.end("done")
    record.write(folder)
    if uri == before:
        close_tracking(record)
    return record.model


def _inputs(folder: Path, record: RunRecord) -> dict[str, Path]:
    """Returns the paths of what the registration takes, as the compiled pipeline says which task made it."""
    import yaml

    try:
        wired = specification(folder)["root"]["dag"]["tasks"][REGISTRATION]["inputs"]["artifacts"]
        made = {task.name: task.artifacts for task in record.tasks}
        sources = {name: wired[name]["taskOutputArtifact"] for name in _INPUTS}
        return {name: Path(made[at["producerTask"]][at["outputArtifactKey"]]) for name, at in sources.items()}
    except (OSError, yaml.YAMLError, LookupError, TypeError, StopIteration) as error:
        fix = "Run the same command again."
        raise expected("run", "one whose files are all there", f"{folder}: {error!r}", fix) from error
