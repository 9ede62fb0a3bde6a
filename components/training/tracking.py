"""Numbers of a training to MLflow: joins the run that is there, else makes one, and never harms the training.

All traffic happens in one background thread, in batches. A server that is away costs the training a few seconds at
the start and at the end and nothing between; what could not be sent is kept in a file and can be sent later with
:func:`upload_spool`.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..common.checkpoints import local_folder
from ..common.errors import Interrupted
from .nesting import OUTPUT_VARIABLE, artifact_uri, leave_parent, nested, parent_run
from .runs import connect, experiment, probe
from .spool import Record, Spool, read_spool

logger = logging.getLogger("ferry")

SPOOL_VARIABLE = "FERRY_SPOOL"
"""Environment variable: folder for records that could not be sent; else they are kept beside checkpoints."""

_FLUSH_SECONDS = 10.0
_CLOSE_SECONDS = 8.0
_SLOW_SERVER_SECONDS = 30.0
_LONGEST_PAUSE = 300.0
_METRICS_AT_ONCE = 1000
_PARAMETERS_AT_ONCE = 100
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]", re.ASCII)


class Tracker:
    """Where a stage leaves its numbers; made with :func:`open_tracker`.

    Every call returns at once. Use it in a ``with`` block, which ends a run that was made here as FINISHED, as KILLED
    after an interruption, or as FAILED after any other error.

    Args:
        stage: Prefix of all names.
        store: Where records go; None for a tracker that does nothing.
    """

    def __init__(self, stage: str, store: RunStore | None = None) -> None:
        self.stage = stage
        self._store = store
        self._records: list[Record] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._status = "FINISHED"
        self._spool_folder = os.environ.get(SPOOL_VARIABLE) or str(local_folder() or "")
        self._spool: Spool | None = None
        self._in_flight: list[Record] = []
        self._pause, self._retry_at, self._reason, self._warned = _FLUSH_SECONDS, 0.0, "", False
        self._thread: threading.Thread | None = None
        if store is not None:
            self._thread = threading.Thread(target=self._work, name=f"tracking-{stage}", daemon=True)
            self._thread.start()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        stopped = kind is not None and issubclass(kind, (KeyboardInterrupt, Interrupted))
        self.close("FINISHED" if kind is None else "KILLED" if stopped else "FAILED")

    @property
    def active(self) -> bool:
        """Whether records go anywhere."""
        return self._store is not None

    @property
    def run_id(self) -> str:
        """Id of the MLflow run, empty while there is none."""
        return "" if self._store is None else self._store.run_id

    def metrics(self, values: Mapping[str, Any], step: int) -> None:
        """Records numbers at a step; None, NaN and infinity are left out.

        Args:
            values: Name and number; the stage's name is put before.
            step: Optimiser steps done.
        """
        now = int(time.time() * 1000)
        numbers = {key: float(value) for key, value in values.items() if value is not None}
        self._put(
            {"kind": "metric", "key": self._name(key), "value": value, "step": int(step), "time": now}
            for key, value in numbers.items()
            if math.isfinite(value)
        )

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Records settings."""
        self._put({"kind": "parameter", "key": self._name(key), "value": str(value)} for key, value in values.items())

    def tags(self, values: Mapping[str, Any]) -> None:
        """Records tags of the run; their names are not prefixed."""
        self._put({"kind": "tag", "key": key, "value": str(value)} for key, value in values.items())

    def artifact(self, path: Path | str, folder: str = "") -> None:
        """Records a file or folder; it must stay in place until :meth:`close`.

        Args:
            path: What to upload.
            folder: Where in the run's artifacts, below the stage's name.
        """
        place = f"{self.stage}/{folder}" if folder else self.stage
        self._put([{"kind": "artifact", "path": str(Path(path).absolute()), "folder": place}])

    def link(self, name: str, path: Path | str) -> None:
        """Records where an artifact lies that is not uploaded: it stays in the store of the pipeline.

        Args:
            name: What it is.
            path: Its path; one of this machine means nothing to others and is left out.
        """
        if uri := artifact_uri(path) or os.environ.get(OUTPUT_VARIABLE, ""):
            self.tags({f"ferry.{self.stage}.{name}": uri})

    def spool_to(self, folder: Path | str) -> None:
        """Says where unsent records are kept if the environment does not."""
        self._spool_folder = self._spool_folder or str(folder)

    def flush(self) -> None:
        """Asks for everything to be sent now, without waiting for it."""
        self._wake.set()

    def close(self, status: str = "FINISHED") -> None:
        """Sends the rest and ends the run if it was made here; waits a few seconds for a server that is away.

        Args:
            status: FINISHED, FAILED or KILLED.
        """
        if self._thread is None or self._store is None or self._closing:
            return
        self._status, self._closing = status, True
        self._wake.set()
        end = time.monotonic() + _CLOSE_SECONDS
        while self._thread.is_alive() and time.monotonic() < end:
            self._thread.join(0.1)
            if self._store.reached:  # it has answered, so it is only slow
                end = max(end, self._store.reached + _SLOW_SERVER_SECONDS)
        if self._thread.is_alive():
            self._keep(self._ended([*self._in_flight, *self._take()]), "no answer")

    def _name(self, key: str) -> str:
        return _NOT_IN_NAMES.sub("_", f"{self.stage}/{key}")

    def _put(self, records: Iterable[Record]) -> None:
        if self._store is not None and not self._closing:
            with self._lock:
                self._records.extend(records)

    def _ended(self, records: list[Record]) -> list[Record]:
        """Returns records with the end of the run behind them, for a store that could not be told."""
        if self._store is None or not self._store.own or not (records or self._spool or self._store.run_id):
            return records
        return [*records, {"kind": "end", "status": self._status}]

    def _take(self) -> list[Record]:
        with self._lock:
            records, self._records = self._records, []
        return records

    def _work(self) -> None:
        """The background thread: opens the run, then sends every few seconds until the tracker is closed."""
        closing = False
        self._send([], closing)
        while not closing:
            self._wake.wait(_FLUSH_SECONDS)
            self._wake.clear()
            closing = self._closing
            self._in_flight = self._take()
            if self._in_flight or closing:
                self._send(self._in_flight, closing)
            self._in_flight = []

    def _send(self, records: list[Record], closing: bool) -> None:
        if self._store is None:
            return
        if time.monotonic() < self._retry_at and not closing:
            self._keep(records, self._reason)
            return
        try:
            self._store.open()
            self._store.write(records)
            records = []
            if closing:
                self._store.end(self._status)
                self._upload_kept()
            self._pause = _FLUSH_SECONDS
        except Exception as error:  # whatever goes wrong in tracking, the training goes on
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            self._retry_at = time.monotonic() + self._pause
            self._reason = str(error) or type(error).__name__
            self._keep(self._ended(records) if closing else records, self._reason)

    def _upload_kept(self) -> None:
        if self._store is not None and self._spool is not None and self._spool.used:
            self._store.write(read_spool(self._spool.path))
            self._spool.path.unlink(missing_ok=True)
            self._spool.used = False

    def _keep(self, records: list[Record], reason: str) -> None:
        """Writes records to the file for later; warns the first time."""
        if self._store is None or not records:
            return
        if self._spool is None:
            stage = re.sub(r"[^a-z0-9]+", "-", self.stage.lower())
            self._spool = Spool(Path(self._spool_folder or ".") / f"tracking-{stage}-{os.getpid()}.jsonl")
        if not self._warned:
            self._warned = True
            short = " ".join(reason.split())[:300]
            logger.warning(
                "Tracking: MLflow takes no records (%s); they are kept in %s, and "
                "ferry.training.upload_spool(PATH) can send them later.",
                short,
                self._spool.path,
            )
        about = {"stage": self.stage, "run": self._store.run_id}
        self._spool.append({**record, **about} for record in records)


class RunStore:
    """One MLflow run, joined or made.

    Args:
        uri: Tracking URI, empty for MLflow's own default.
        run_id: The run to join, empty to make one.
        stage: Name of a new run.
    """

    def __init__(self, uri: str, run_id: str, stage: str) -> None:
        self.uri, self.run_id, self.stage = uri, run_id, stage
        self.own = not run_id
        self.reached = 0.0
        """When the store last answered (monotonic clock), 0 if never; then it is worth waiting for."""
        self._client: Any = None
        self._parent = ""

    def open(self) -> None:
        """Connects, and makes the run where there is none.

        Raises:
            ConnectionError: The server does not answer.
            FerryError: The server is busy, refuses, or cannot be used.
        """
        probe(self.uri)
        self.reached = time.monotonic()
        if self._client is None:
            from mlflow import get_tracking_uri

            self._client = connect(self.uri or get_tracking_uri())
        if not self.run_id:
            self._parent = parent_run(self._client, self.uri)
            tags = nested(self._parent, self.stage)
            run = self._client.create_run(experiment(self._client, self.uri), tags=tags, run_name=self.stage)
            self.run_id = run.info.run_id
            logger.info("Tracking: made MLflow run %s", self.run_id)

    def write(self, records: list[Any]) -> None:
        """Sends records in batches.

        Args:
            records: As :class:`Tracker` makes them.
        """
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(one["key"], one["value"], one["time"], one["step"]) for one in _of(records, "metric")]
        for start in range(0, len(metrics), _METRICS_AT_ONCE):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _METRICS_AT_ONCE])
        tags = [RunTag(one["key"], one["value"][:5000]) for one in _of(records, "tag")]
        for start in range(0, len(tags), _PARAMETERS_AT_ONCE):
            self._client.log_batch(self.run_id, tags=tags[start : start + _PARAMETERS_AT_ONCE])
        params = [Param(one["key"], one["value"][:6000]) for one in _of(records, "parameter")]
        for start in range(0, len(params), _PARAMETERS_AT_ONCE):
            self._write_parameters(params[start : start + _PARAMETERS_AT_ONCE])
        for one in _of(records, "artifact"):
            self._write_artifact(Path(one["path"]), one["folder"])

    def _write_parameters(self, params: list[Any]) -> None:
        """Sends parameters; one that the run already has with another value (a resumed training) stays as it is."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(self.run_id, params=params)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            if len(params) > 1:
                for param in params:
                    self._write_parameters([param])
            else:
                logger.info("Tracking: the run keeps its earlier value of %s.", params[0].key)

    def _write_artifact(self, path: Path, folder: str) -> None:
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), f"{folder}/{path.name}")
        elif path.is_file():
            self._client.log_artifact(self.run_id, str(path), folder)
        else:
            logger.warning("Tracking: %s is gone and was not uploaded.", path)

    def end(self, status: str) -> None:
        """Ends the run if it was made here, and gives the pipeline's run the state so far.

        Args:
            status: FINISHED, FAILED or KILLED.
        """
        if self.own and self.run_id:
            self._client.set_terminated(self.run_id, status)
            leave_parent(self._client, self._parent, status)


def open_tracker(stage: str) -> Tracker:
    """Opens the tracking of a stage.

    With ``MLFLOW_RUN_ID`` it joins that run and never ends it. Else with ``MLFLOW_TRACKING_URI`` it makes a run,
    nested under that of the pipeline (see :func:`~ferry.training.nesting.parent_run`), and ends it. Else it does
    nothing, and says so. In processes other than the first of a distributed training it does nothing.

    Args:
        stage: Name of the stage; prefix of all names.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        return Tracker(stage)
    uri, run_id = os.environ.get("MLFLOW_TRACKING_URI", ""), os.environ.get("MLFLOW_RUN_ID", "")
    if not uri and not run_id:
        logger.info("Tracking: off, since neither MLFLOW_RUN_ID nor MLFLOW_TRACKING_URI is set")
        return Tracker(stage)
    return Tracker(stage, RunStore(uri, run_id, stage))


def upload_spool(path: Path | str, uri: str = "") -> int:
    """Sends the records of a spool file to their runs and removes the file; returns how many there were.

    Args:
        path: A ``tracking-*.jsonl`` file.
        uri: Tracking URI, empty for ``MLFLOW_TRACKING_URI``.

    Raises:
        ConnectionError: The server does not answer; the file stays.
        FerryError: The server is busy, refuses, or cannot be used; the file stays.
    """
    path, uri = Path(path), uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    records = read_spool(path)
    for run, stage in sorted({(record["run"], record["stage"]) for record in records}):
        of_run = [record for record in records if record["run"] == run and record["stage"] == stage]
        ends = [record["status"] for record in _of(of_run, "end")]
        store = RunStore(uri, run, stage)
        store.own = store.own or bool(ends)
        store.open()
        store.write(of_run)
        store.end(ends[-1] if ends else "KILLED")  # without a word about its end it had none
    path.unlink()
    return len(records)


def _of(records: list[Any], kind: str) -> list[Any]:
    return [record for record in records if record["kind"] == kind]
