"""Makes an adapted model a version in the MLflow registry."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..common.errors import expected
from ..common.files import digest_of, read_json
from ..training.nesting import artifact_uri, leave_parent, nested, parent_run
from ..training.runs import MODEL_DIGEST, connect, experiment, pages, server_errors
from .card import ModelCard, make_card
from .lock import alone
from .names import check_model_name

if TYPE_CHECKING:
    from ..networks import ModelInfo

CHALLENGER = "challenger"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"
VERSION_TAG = "ferry.version"
"""Tag that every version of Ferry has: the version of Ferry that registered it."""

_KEY_TAG = "ferry.registration"
_DESCRIPTION_CHARACTERS = 5000  # what MLflow's database holds


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
    report: Path | str | None,
    name: str,
    *,
    tracking_uri: str = "",
    run_id: str = "",
    tags: Mapping[str, str] | None = None,
) -> Registered:
    """Logs a model with its card, makes it a version, tags it, and last gives it the alias ``challenger``.

    Nothing that fails on the way leaves a version with the alias. The same model and evaluation registered again in
    the same run, as a retry does, is the same version.

    Args:
        model: Folder of the adapted classifier.
        evaluation: Folder with ``metrics.json``.
        report: The HTML report, or None.
        name: Name in the registry.
        tracking_uri: Tracking URI; empty takes ``MLFLOW_TRACKING_URI``.
        run_id: Run to log into; empty takes ``MLFLOW_RUN_ID``, else makes one.
        tags: Further tags of the version.

    Returns:
        The version.

    Raises:
        UserError: The folder holds no whole classifier, or the name or the server cannot be used.
        RetryableError: The server does not answer, or a promotion of the same model does not end; the model stays in
            its folder.
    """
    from ..networks import load_classifier

    check_model_name(name)
    info = load_classifier(model).info  # reads the weights too: a damaged model must not reach the registry
    found = read_json(Path(evaluation) / METRICS_FILE, "evaluation")
    card = make_card(name, info, found)
    advice = f"The model is kept in {model}: run the same command again."
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    client = connect(uri, advice)
    with server_errors(advice), _run(client, uri, run_id or os.environ.get("MLFLOW_RUN_ID", "")) as run:
        key = digest_of([info.digest, found, __version__])
        version = _existing(client, name, run, key)
        if version is None:
            source = _log(client, run, f"model-{key[:12]}", model, report, card)
            links = {"ferry.model_uri": artifact_uri(model), "ferry.report_uri": artifact_uri(report or "")}
            known = {**_tags(info, found, card, _run_key(client, run)), **{k: v for k, v in links.items() if v}}
            all_tags = {**known, **(tags or {}), _KEY_TAG: key}
            version = _version(client, name, source, run, all_tags)
        _describe(client, replace(card, version=version))
        with alone(client, name) as lock:  # a promotion may be about to take the alias from the version before
            lock.check()
            client.set_registered_model_alias(name, CHALLENGER, version)
    return Registered(name, version, f"models:/{name}/{version}", run)


def register_later(
    model: Path | str,
    evaluation: Path | str,
    report: Path | str | None,
    name: str,
    *,
    made_at: float,
    tracking_uri: str = "",
    run_id: str = "",
) -> Registered:
    """Registers a model some time after it was made; one that is registered already stays as it is.

    Args:
        model: As for :func:`register`.
        evaluation: As for :func:`register`.
        report: As for :func:`register`.
        name: Name in the registry.
        made_at: When the model was made, seconds since the epoch.
        tracking_uri: As for :func:`register`.
        run_id: As for :func:`register`.

    Returns:
        The version, which may be one that somebody else made of the same model.

    Raises:
        UserError: As for :func:`register`; or there is a newer version, from which this one would take the alias.
        RetryableError: As for :func:`register`.
    """
    from ..networks import load_info

    check_model_name(name)
    digest, advice = load_info(model).digest, f"The model is kept in {model}."
    client = connect(tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", ""), advice)
    with server_errors(advice):
        versions = list(pages(client.search_model_versions, filter_string=f"name = '{name}'"))
    same = next((one for one in versions if dict(one.tags).get(MODEL_DIGEST) == digest), None)
    if same is not None and same.run_id != run_id:  # one of the same run may have been left half registered
        return Registered(name, str(same.version), f"models:/{name}/{same.version}", str(same.run_id))
    newer = max((one for one in versions if one.creation_timestamp / 1000 > made_at), key=_number, default=None)
    if newer is not None and same is None:
        fix = f"Compare them by hand; the model is in {model}."
        raise expected("model", f"newer than {name} version {newer.version}", str(model), fix)
    return register(model, evaluation, report, name, tracking_uri=tracking_uri, run_id=run_id)


def _number(version: Any) -> int:
    return int(version.version)


def pack(model: Path | str, output: Path, card: ModelCard) -> None:
    """Writes the MLflow model: files of the classifier, code that serves it, signature, input example, card.

    The column ``image`` is of MLflow's type ``any``. Its type ``binary`` would decode base64 of JSON by itself but
    refuse pixels, and a tensor would refuse encoded pictures; what a cell may hold is checked by the model. MLflow
    reads no such column from CSV, so requests are JSON.

    Args:
        model: Folder of the classifier.
        output: The folder to make.
        card: The card.
    """
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    inputs = Schema([ColSpec(AnyType(), "image")])
    outputs = Schema([ColSpec(DataType.double, name) for name in card.classes])
    with tempfile.TemporaryDirectory(prefix="ferry-pack-") as folder:
        weights = Path(folder) / "classifier"  # one name, whatever the folder is called here
        shutil.copytree(model, weights)
        for file in weights.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)  # servers often run as another user
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the type hint: the signature is given
            save_model(
                path=str(output),
                python_model=str(Path(__file__).with_name("serving.py")),
                artifacts={"model": str(weights)},
                signature=ModelSignature(inputs, outputs),
                input_example=example(),
                pip_requirements=[f"ferry-fer=={__version__}"],
                metadata={"classes": list(card.classes), "method": card.method},
            )
    description = Model.load(str(output))
    flavour = description.flavors["python_function"]
    flavour["model_code_path"] = Path(flavour["model_code_path"]).name  # no paths of this machine
    for artifact in flavour["artifacts"].values():
        artifact["uri"] = artifact["path"]
    description.save(str(output / "MLmodel"))
    card.write(output)


def example() -> Any:
    """Returns an input example: one small grey picture, base64 as JSON carries it; no person is on it."""
    import base64

    import numpy as np
    import pandas as pd

    from ..faces.decode import encode_png

    return pd.DataFrame({"image": [base64.b64encode(encode_png(np.full((48, 48), 127, np.uint8))).decode()]})


@contextmanager
def _run(client: Any, uri: str, run_id: str) -> Iterator[str]:
    """Yields a run to log into; one that is made here ends with the block."""
    if run_id:
        yield run_id
        return
    parent = parent_run(client, uri)
    tags = nested(parent, "register")
    run = str(client.create_run(experiment(client, uri), tags=tags, run_name="register").info.run_id)
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    finally:
        client.set_terminated(run, status)
        leave_parent(client, parent, status)


def _log(client: Any, run: str, place: str, model: Path | str, report: Path | str | None, card: ModelCard) -> str:
    """Uploads everything, and returns where it is."""
    with tempfile.TemporaryDirectory(prefix="ferry-register-") as folder:
        packed = Path(folder) / "model"
        pack(model, packed, card)
        if report is not None:
            shutil.copyfile(report, packed / REPORT_FILE)
        client.log_artifacts(run, str(packed), place)
    return f"runs:/{run}/{place}"


def _existing(client: Any, name: str, run: str, key: str) -> str | None:
    """Returns the version that an earlier try made of the same, if it came that far."""
    found = pages(client.search_model_versions, filter_string=f"name = '{name}' and run_id = '{run}'")
    return next((str(one.version) for one in found if dict(one.tags).get(_KEY_TAG) == key), None)


def _version(client: Any, name: str, source: str, run: str, tags: Mapping[str, str]) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(client.create_model_version(name, source=source, run_id=run, tags=dict(tags)).version)


def _describe(client: Any, card: ModelCard) -> None:
    """Shows the card on the version's page of the MLflow UI."""
    text = card.to_markdown()
    if len(text) > _DESCRIPTION_CHARACTERS:
        end = "\n\n(Shortened: the whole card is card.md among the files of this version.)\n"
        text = text[: _DESCRIPTION_CHARACTERS - len(end)].rsplit("\n", 1)[0] + end
    client.update_model_version(card.name, card.version, text)


def _run_key(client: Any, run: str) -> str:
    """Returns the pipeline run: Ferry's id of it, else the one in the tags of the MLflow run, else that run."""
    tags = client.get_run(run).data.tags
    return os.environ.get("FERRY_RUN_ID") or tags.get("ferry.run") or tags.get("kfp.pipeline_run_id") or run


def _tags(info: ModelInfo, evaluation: Mapping[str, Any], card: ModelCard, run: str) -> dict[str, str]:
    """Returns the tags of a version; the data digest is over all that training saw: faces and pseudo-labels."""
    missing = card.missing()
    seen = {key: info.lineage[key] for key in ("faces", "target", "labels") if info.lineage.get(key)}
    tags = {
        VERSION_TAG: __version__,
        "ferry.method": info.method,
        "ferry.target_digest": info.lineage.get("target", ""),
        "ferry.data_digest": digest_of(seen) if seen else "",
        "ferry.source_digest": info.lineage.get("source", ""),
        "ferry.lineage": ", ".join(f"{key}={value}" for key, value in sorted(info.lineage.items())),
        MODEL_DIGEST: info.digest,
        "ferry.run": run,
        "ferry.verdict": str(evaluation.get("verdict", {}).get("level", "")),
        "ferry.card": f"missing: {', '.join(missing)}" if missing else "complete",
    }
    return {key: value for key, value in tags.items() if value}
