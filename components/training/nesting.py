"""The MLflow run of a pipeline run on a cluster, under which the runs of its stages are nested.

Nobody opens or closes it there: the first stage that tracks makes it, each stage finds it by the id of the run in
Kubeflow, and its state is that of the stages so far. Where Kubeflow's own MLflow plugin gives a run to each stage
(``MLFLOW_RUN_ID``), none of this happens.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from .runs import experiment

PARENT_VARIABLE = "FERRY_PARENT_RUN"
"""Environment variable: the MLflow run under which new runs are nested."""

RUN_VARIABLE = "FERRY_RUN_ID"
"""Environment variable: id of the pipeline run, which its stages share."""

OUTPUT_VARIABLE = "FERRY_OUTPUT_URI"
"""Environment variable: where the stage's model will lie, for a machine that only hands it back."""

PARENT_TAG, STAGE_TAG = "mlflow.parentRunId", "ferry.stage"

_KEY_TAG, _KIND_TAG = "ferry.run", "ferry.kind"
_PLAIN = re.compile(r"[\w.\-]{1,200}", re.ASCII)
_AGAIN_SECONDS = 0.5
_STORES = {"minio": "minio://", "s3": "s3://", "gcs": "gs://"}


def parent_run(client: Any, uri: str = "") -> str:
    """Returns the run under which a stage's run belongs, and makes it where it is missing; empty for none.

    Args:
        client: MLflow client.
        uri: Tracking URI of the client.
    """
    given = os.environ.get(PARENT_VARIABLE, "")
    key = os.environ.get(RUN_VARIABLE, "")
    if given or not _PLAIN.fullmatch(key):
        return given
    place = experiment(client, uri)
    found = _first(client, place, key)
    if not found:
        tags = {_KEY_TAG: key, _KIND_TAG: "pipeline"}
        made = str(client.create_run(place, tags=tags, run_name=key).info.run_id)
        time.sleep(_AGAIN_SECONDS)  # another stage that began at the same time has made its own by then
        found = _first(client, place, key) or made
        if found != made:
            client.delete_run(made)
    client.update_run(found, status="RUNNING")
    return found


def leave_parent(client: Any, parent: str, status: str) -> None:
    """Gives the run of the pipeline the state of a stage that has ended; a failure stays until that stage succeeds.

    Args:
        client: MLflow client.
        parent: From :func:`parent_run`; nothing happens for an empty one, nor for one that somebody else opened.
        status: FINISHED, FAILED or KILLED.
    """
    if not parent or os.environ.get(PARENT_VARIABLE):
        return
    last = {run.data.tags.get(STAGE_TAG, ""): run.info.status for run in _children(client, parent)}
    client.set_terminated(parent, "FAILED" if "FAILED" in last.values() else status)


def nested(parent: str, stage: str) -> dict[str, str]:
    """Returns the tags of a stage's run.

    Args:
        parent: From :func:`parent_run`.
        stage: Name of the stage.
    """
    return {STAGE_TAG: stage, **({PARENT_TAG: parent} if parent else {})}


def artifact_uri(path: Path | str) -> str:
    """Returns where an artifact of Kubeflow Pipelines lies, as its store names it; empty for a path of this machine.

    Args:
        path: Path under which Kubeflow's executor has it, such as ``/minio/bucket/key``.
    """
    text = str(path)
    kind, _, rest = text.lstrip("/").partition("/")
    return f"{_STORES[kind]}{rest}" if text.startswith("/") and kind in _STORES and rest else ""


def _first(client: Any, place: str, key: str) -> str:
    filters = f"tags.`{_KEY_TAG}` = '{key}' and tags.`{_KIND_TAG}` = 'pipeline'"
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    found = client.search_runs([place], filter_string=filters, order_by=order, max_results=1)
    return str(found[0].info.run_id) if found else ""


def _children(client: Any, parent: str) -> list[Any]:
    place = client.get_run(parent).info.experiment_id
    filters, order = f"tags.`{PARENT_TAG}` = '{parent}'", ["attributes.start_time ASC"]
    return list(client.search_runs([place], filter_string=filters, order_by=order, max_results=200))
