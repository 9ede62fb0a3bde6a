"""Does a training as a TrainJob of Kubeflow's Trainer: hands over the data, follows the job, takes the model back."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ...common.errors import FerryError, Interrupted, RetryableError
from ...common.stage import StageRecord
from .calls import Call, answers, settle
from .exchange import Exchange
from .kubernetes import Cluster
from .logs import JobLogs
from .trainjob import TrainJob

_HANDED_ON = ("FERRY_RUN_ID", "FERRY_PARENT_RUN", "FERRY_LOG_LEVEL", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")
_LOOK_EVERY = 2.0
_PATIENCE_SECONDS = 300.0

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
    exchange = Exchange(f"{job.exchange.rstrip('/')}/{name}")
    keep = False
    try:
        with tempfile.TemporaryDirectory(prefix="ferry-exchange-") as place:
            _train(cluster, exchange, job, name, call, Path(place) / "call", record)
    except KeyboardInterrupt:
        raise Interrupted(f"The training was interrupted; its TrainJob {name} was removed.") from None
    except FerryError:
        keep = True  # its pods' logs say more
        raise
    finally:
        _tidy(cluster, exchange, name, keep)


def _train(
    cluster: Cluster, exchange: Exchange, job: TrainJob, name: str, call: Call, folder: Path, record: StageRecord
) -> None:
    exchange.send_call(call, folder)
    variables = {variable: os.environ[variable] for variable in _HANDED_ON if os.environ.get(variable)}
    cluster.create(job.body(name, cluster.namespace, exchange.place.uri, variables, _owner()))
    logger.info("TrainJob %s: created, %d machines with %d processes each", name, job.nodes, job.processes)
    failure = _follow(cluster, name)
    exchange.fetch_answers(folder)
    _end(folder, failure, name, job, record)
    exchange.fetch_output(Path(call.output))


def _owner() -> dict[str, str] | None:
    name, uid = (os.environ.get(variable, "") for variable in ("FERRY_POD_NAME", "FERRY_POD_UID"))
    return {"name": name, "uid": uid} if name and uid else None


def _follow(cluster: Cluster, name: str) -> str:
    """Waits until a job has ended; returns why it failed, empty where it did not.

    Raises:
        RetryableError: It was removed, or the cluster has not answered for minutes.
    """
    reached = time.monotonic()
    with JobLogs(cluster, name):
        while True:
            try:
                ended, failure = cluster.state(name)
                reached = time.monotonic()
                if ended:
                    return failure
            except RetryableError as error:
                if cluster.is_gone(error) or time.monotonic() - reached > _PATIENCE_SECONDS:
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
    """Removes the job, unless it failed, and what was exchanged; that must not hide how the training ended."""
    if not keep:
        with suppress(FerryError):
            cluster.delete(name)
    try:
        exchange.clear()
    except FerryError as error:
        logger.warning("%s is left behind. %s", exchange.place.uri, error)
