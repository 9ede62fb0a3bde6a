"""Makes an adapted model a version in the MLflow registry."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..common.errors import RetryableError
from ..common.files import read_json
from ..networks import load_info
from ..training.runs import reachable
from .card import ModelCard, make_card

CHALLENGER = "challenger"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Registered:
    """A version in the registry.

    Attributes:
        name: Name of the registered model.
        version: Its version.
        uri: ``models:/NAME/VERSION``.
        run_id: The MLflow run that holds the files.
    """

    name: str
    version: str
    uri: str
    run_id: str


def register(
    model: Path | str,
    evaluation: Path | str,
    report: Path | str,
    name: str,
    *,
    metrics: Mapping[str, Any] | None = None,
    tracking_uri: str = "",
    run_id: str = "",
    tags: Mapping[str, str] | None = None,
) -> Registered:
    """Logs a model with its card, makes it a version with the alias ``challenger``, and tags it.

    Args:
        model: Folder of the adapted classifier.
        evaluation: Folder with ``metrics.json``.
        report: The HTML report.
        name: Name in the registry.
        metrics: ``source`` and ``adapted`` to metrics; read from `evaluation` where None.
        tracking_uri: Tracking URI; empty takes ``MLFLOW_TRACKING_URI``.
        run_id: Run to log into; empty takes ``MLFLOW_RUN_ID``, else makes one.
        tags: Further tags of the version.

    Raises:
        UserError: The folder holds no model.
        RetryableError: The server does not answer; the model stays in its folder.
    """
    info = load_info(model)
    found = read_json(Path(evaluation) / METRICS_FILE, "evaluation")
    rows = metrics or found["metrics"]
    card = make_card(name, info, rows, found)
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    problem = reachable(uri)
    if problem:
        raise RetryableError(
            f"Expected `MLFLOW_TRACKING_URI` to name a server that answers, but got {problem}. "
            f"The model is kept in {model}; run the same command again."
        )
    client = _client(uri)
    run = run_id or os.environ.get("MLFLOW_RUN_ID", "") or _new_run(client)
    with tempfile.TemporaryDirectory(prefix="ferry-register-") as folder:
        packed = Path(folder) / "model"
        pack(model, packed, card)
        client.log_artifacts(run, str(packed), "model")
        client.log_artifact(run, str(report), "model")
    return _version(client, name, run, card, {**_tags(info, found), **(tags or {})})


def pack(model: Path | str, output: Path, card: ModelCard) -> None:
    """Writes the MLflow model: files of the classifier, code that serves it, signature, input example, card.

    Args:
        model: Folder of the classifier.
        output: The folder to make.
        card: The card.
    """
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    inputs = Schema([ColSpec(AnyType(), "image")])
    outputs = Schema([ColSpec(DataType.double, name) for name in card.classes])
    save_model(
        path=str(output),
        python_model=str(Path(__file__).with_name("serving.py")),
        artifacts={"model": str(model)},
        signature=ModelSignature(inputs, outputs),
        input_example=example(),
        pip_requirements=[f"ferry-fer=={__version__}"],
        metadata={"classes": list(card.classes), "method": card.method},
    )
    card.write(output)


def example() -> Any:
    """Returns an input example: one small grey picture, base64 as JSON carries it; no person is on it."""
    import base64
    import io

    import pandas as pd
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((48, 48), 127, np.uint8)).save(file, format="PNG")
    return pd.DataFrame({"image": [base64.b64encode(file.getvalue()).decode()]})


def _client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri or None)


def _new_run(client: Any) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ferry")
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    run = client.create_run(experiment, run_name="register")
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _version(client: Any, name: str, run: str, card: ModelCard, tags: Mapping[str, str]) -> Registered:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name, source=f"runs:/{run}/model", run_id=run, tags=dict(tags), description=card.summary
    )
    client.set_registered_model_alias(name, CHALLENGER, made.version)
    return Registered(name, str(made.version), f"models:/{name}/{made.version}", run)


def _tags(info: Any, evaluation: Mapping[str, Any]) -> dict[str, str]:
    tags = {
        "ferry.version": __version__,
        "ferry.method": info.method,
        "ferry.target_digest": info.lineage.get("target", ""),
        "ferry.source_digest": info.lineage.get("source", ""),
        "ferry.model_digest": info.digest,
        "ferry.run": os.environ.get("FERRY_RUN_ID", ""),
        "ferry.verdict": str(evaluation.get("verdict", {}).get("level", "")),
        "ferry.card": "complete",
    }
    return {key: value for key, value in tags.items() if value}
