"""Does a training as a TrainJob of Kubeflow's Trainer: hands over the data, follows the job, takes the model back."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import time
from pathlib import Path

from ...common.errors import FerryError, Interrupted, RetryableError
from ...common.stage import StageRecord
from .calls import Call, answers, has_cause, settle
from .exchange import Exchange
from .kubernetes import Cluster, Gone
from .logs import JobLogs
from .trainjob import RUN_LABEL, TrainJob

_HANDED_ON = (
    "FERRY_RUN_ID",
    "FERRY_PARENT_RUN",
    "FERRY_LOG_LEVEL",
    # Kubeflow's MLflow plugin gives these together; none is secret.
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_WORKSPACE",
)
_LOOK_EVERY = 2.0
_ANSWERS_EVERY = 15.0
_PATIENCE_SECONDS = 300.0
_AFTER_A_FAILURE = 60.0
"""How long machines may go on after one has said what ended it: those that wait for it know nothing."""

_FAREWELL_SECONDS = 20.0

logger = logging.getLogger("ferry")


def run_on_cluster(call: Call, job: TrainJob, record: StageRecord, cluster: Cluster | None = None) -> None:
    """Does a call on several machines.

    Args:
        call: The call.
        job: How it is spread.
        record: Its name goes into the job's; receives warnings and facts.
        cluster: The cluster; the one that this pod is in, or the current one of the kubeconfig, by default.

    Raises:
        FerryError: As the process raised it that failed first.
        UserError: There is no Kubeflow Trainer, a right is missing, or the cluster refuses the job.
        RetryableError: Cluster or object store cannot be reached, or the job was removed.
        Interrupted: By SIGTERM or Ctrl-C; the job is removed.
    """
    cluster = cluster or Cluster(os.environ.get("FERRY_POD_NAMESPACE", ""))
    cluster.check(job.nodes)
    name = f"ferry-{record.name[:30]}-{secrets.token_hex(4)}"
    _remove_earlier(cluster, job)
    exchange = Exchange(f"{job.exchange.rstrip('/')}/{name}")
    ended = False
    try:
        with tempfile.TemporaryDirectory(prefix="ferry-exchange-") as place:
            folder = Path(place) / "call"
            exchange.send_call(call, folder)
            cluster.create(job.body(name, cluster.namespace, exchange.place.uri, _variables(), _owner()))
            logger.info("TrainJob %s: created, %d machines with %d processes each", name, job.nodes, job.processes)
            ended, failure = _follow(cluster, exchange, folder, name)
            exchange.fetch_answers(folder)
            _end(folder, failure, name, job, record)
            exchange.fetch_output(Path(call.output))
            ended = False  # nothing is left to be looked at
    except KeyboardInterrupt:
        raise Interrupted(f"The training was interrupted; its TrainJob {name} was removed.") from None
    finally:
        _tidy(cluster, exchange, name, keep=ended)


def _variables() -> dict[str, str]:
    return {variable: os.environ[variable] for variable in _HANDED_ON if os.environ.get(variable)}


def _remove_earlier(cluster: Cluster, job: TrainJob) -> None:
    """Removes what the same stage of the same run has left, when its pod went: two would train at once."""
    run = os.environ.get("FERRY_RUN_ID", "")
    if not run:
        return
    for name in cluster.of_labels({**job.labels, RUN_LABEL: run}):
        logger.info("TrainJob %s: of an earlier try, removed", name)
        cluster.delete(name, _PATIENCE_SECONDS)
        Exchange(f"{job.exchange.rstrip('/')}/{name}").clear()


def _owner() -> dict[str, str] | None:
    name, uid = (os.environ.get(variable, "") for variable in ("FERRY_POD_NAME", "FERRY_POD_UID"))
    return {"name": name, "uid": uid} if name and uid else None


def _follow(cluster: Cluster, exchange: Exchange, folder: Path, name: str) -> tuple[bool, str]:
    """Waits until a job has ended, or until a machine has said what ended it and the others go on for nothing.

    Returns:
        Whether the job itself has ended, and why it failed.

    Raises:
        RetryableError: It was removed, or the cluster has not answered for minutes.
    """
    reached = looked = time.monotonic()
    said = 0.0
    with JobLogs(cluster, name):
        while True:
            now = time.monotonic()
            try:
                ended, failure = cluster.state(name)
                reached = now
                if ended:
                    return True, failure
                if now - looked > _ANSWERS_EVERY:
                    looked = now
                    exchange.fetch_answers(folder)
                    said = said or (now if has_cause(answers(folder)) else 0.0)
                if said and now - said > _AFTER_A_FAILURE:
                    return False, "a machine failed, and the others waited for it"
            except Gone:
                raise
            except RetryableError:
                if now - reached > _PATIENCE_SECONDS:
                    raise
            time.sleep(_LOOK_EVERY)


def _end(folder: Path, failure: str, name: str, job: TrainJob, record: StageRecord) -> None:
    """Takes over what the processes answered, or raises what ended them."""
    found = answers(folder)
    if failure and not any(answer.kind for answer in found):
        said = f"Expected `TrainJob {name}` to complete, but got '{failure}'. "
        raise FerryError(said + f"See its pods: kubectl logs -l jobset.sigs.k8s.io/jobset-name={name} --prefix")
    settle(found, job.nodes * job.processes, record)


def _tidy(cluster: Cluster, exchange: Exchange, name: str, keep: bool) -> None:
    """Removes the job, unless it ended with a failure, and what was exchanged; must not hide how the training ended."""
    try:
        if not keep:
            cluster.delete(name, _FAREWELL_SECONDS)  # its pods may still write
        exchange.clear()
    except FerryError as error:
        logger.warning("%s is left behind. %s", exchange.place.uri, error)
