"""MLflow runs of whole pipelines, and models by registry URI. The numbers of trainings go through :mod:`.tracking`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.errors import RetryableError, UserError, expected
from .tracking import prepare_store, probe

_EXPERIMENT = "ferry"


def reachable(uri: str) -> str:
    """Returns why a tracking server cannot be reached, or an empty string."""
    try:
        probe(uri)
    except ConnectionError as error:
        return str(error)
    return ""


def open_run(
    uri: str, pipeline: str, run_key: str, parameters: Mapping[str, Any], artifacts: Path | None = None
) -> str:
    """Makes the MLflow run of a pipeline run, and the store where it is new; returns the run's id.

    Args:
        uri: Tracking URI.
        pipeline: Name of the pipeline.
        run_key: Ferry's id of the run.
        parameters: Parameters of the run.
        artifacts: Folder for artifacts of a new local store; MLflow's own default is the current folder.

    Raises:
        RetryableError: The server does not answer.
    """
    problem = reachable(uri)
    if problem:
        raise RetryableError(
            f"Expected `MLFLOW_TRACKING_URI` to name a server that answers, but got {problem}. "
            "Start the server, or unset the variable to keep records in the home; nothing has been run yet."
        )
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it would announce every table that it makes
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from mlflow.entities import Param

    client = MlflowClient(uri)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
    if uri.startswith("sqlite:") and artifacts is not None and client.get_experiment_by_name(name) is None:
        client.create_experiment(name, artifact_location=artifacts.absolute().as_uri())
    prepare_store(uri)
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found is not None else client.create_experiment(name)
    tags = {"ferry.pipeline": pipeline, "ferry.run": run_key}
    run = client.create_run(experiment, tags=tags, run_name=run_key)
    shown = [Param(key, str(value)[:6000]) for key, value in parameters.items() if str(value)]
    client.log_batch(run.info.run_id, params=shown)
    return str(run.info.run_id)


def close_run(uri: str, run_id: str, success: bool) -> None:
    """Ends a run; a server that has gone away is no reason to fail now."""
    if reachable(uri):
        return
    from mlflow import MlflowClient

    MlflowClient(uri).set_terminated(run_id, "FINISHED" if success else "FAILED")


def is_registry_uri(text: str) -> bool:
    """Tells whether a text names a model of the MLflow registry, as in ``models:/NAME@champion``."""
    return text.startswith("models:/")


def download_model(uri: str) -> Path:
    """Downloads the weights folder of a registered model.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

    Returns:
        The folder with ``model.safetensors`` and ``model.json``.

    Raises:
        UserError: There is no such model, or it was not registered by Ferry.
        RetryableError: The server does not answer.
    """
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    problem = reachable(tracking)
    if problem:
        raise RetryableError(
            f"Expected `MLFLOW_TRACKING_URI` to name a server that answers, but got {problem}. Try again."
        )
    import mlflow
    from mlflow.exceptions import MlflowException

    if tracking:
        mlflow.set_tracking_uri(tracking)
    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri))
    except MlflowException as error:
        first = str(error).splitlines()[0]
        raise expected("model", "a registered model", f"{uri}: {first}", "See: ferry models") from None
    found = sorted(folder.rglob("model.json"))
    if not found:
        raise UserError(
            f"Expected `{uri}` to be registered by Ferry, but got a model without model.json. "
            "Register it with Ferry, or pass its files as a folder."
        )
    return found[0].parent
