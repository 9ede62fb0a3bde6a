"""MLflow as a place to keep whole runs and models: bounded waits, errors that say what to do, models by registry URI.

The numbers of trainings go through :mod:`.tracking`, which never fails; here a server that is away is an error.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import shutil
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..common.errors import FerryError, RetryableError, UserError, disk_errors, expected, unknown
from ..common.files import atomic_folder, read_json
from .store import database_of, first_line, look_at, store_errors, store_lock

logger = logging.getLogger("ferry")

MODEL_DIGEST = "ferry.model_digest"
"""Tag of a version in the registry: SHA-256 of the model's content; only Ferry sets it."""
STORE_FOLDER = "mlartifacts"
"""Folder for artifacts beside the database of a local store; MLflow's own default is the current folder."""

_PROBE_SECONDS = 3.0
_WEIGHTS, _INFO = "model.safetensors", "model.json"
_EXPERIMENT = "ferry"
_SCHEME = "models:/"
_URI = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
# MLflow's own defaults, 7 retries of 120 s each, would hold a stage for a quarter of an hour.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
_PASSING = {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "RESOURCE_EXHAUSTED",
    "REQUEST_LIMIT_EXCEEDED",
    "DEADLINE_EXCEEDED",
    "ABORTED",
    "CANCELLED",
    "IO_ERROR",
}
_REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"}


def probe(uri: str) -> None:
    """Checks within a few seconds that a tracking server answers; MLflow itself would retry for minutes.

    Args:
        uri: Tracking URI; one that is not HTTP is not checked.

    Raises:
        ConnectionError: No answer. Any HTTP answer will do, also a refusal.
    """
    if urlsplit(uri).scheme not in ("http", "https"):
        return
    address = re.sub(r"//[^/]*@", "//", uri).rstrip("/")  # without user and password
    try:
        urllib.request.urlopen(f"{address}/health", timeout=_PROBE_SECONDS).close()  # noqa: S310 - http(s), see above
    except urllib.error.HTTPError:
        return
    except (OSError, http.client.HTTPException, ValueError) as error:
        if not isinstance(getattr(error, "reason", None), ssl.SSLError):  # MLflow may know the certificate
            raise ConnectionError(f"no answer from {address}: {error}") from error


def reachable(uri: str) -> str:
    """Returns why a tracking server cannot be reached, or an empty string."""
    try:
        probe(uri)
    except ConnectionError as error:
        return str(error)
    return ""


def connect(uri: str = "", advice: str = "Start the server and try again.") -> Any:
    """Returns an MLflow client whose requests end in bounded time.

    Args:
        uri: Tracking URI; empty takes ``MLFLOW_TRACKING_URI``.
        advice: What to do when the server does not answer, and what was kept.

    Raises:
        UserError: There is no URI, or MLflow cannot use it.
        RetryableError: The server does not answer, or the store is locked or its disk full.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        fix = "Set the variable to the address of an MLflow server, or to sqlite:////path/mlflow.db."
        raise expected("MLFLOW_TRACKING_URI", "set", uri, fix)
    problem = reachable(uri)
    if problem:
        raise RetryableError(
            f"Expected `MLFLOW_TRACKING_URI` to name a server that answers, but got {problem}. {advice}"
        )
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # where --json prints
    for name in ("mlflow", "alembic"):  # they would announce every table and every version that they make
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    with server_errors(advice), store_lock(uri), store_errors(uri, advice):
        look_at(uri)
        client = MlflowClient(uri)
        if database_of(uri) is not None:
            client.search_registered_models(max_results=1)  # opens the store, hence makes its tables, in the lock
    return client


@contextmanager
def server_errors(advice: str) -> Iterator[None]:
    """Turns MLflow's errors into Ferry's: whether a retry can help, what happened, and what to do.

    Args:
        advice: What to do when the server was away, and what was kept.

    Raises:
        RetryableError: The server went away, is busy or failed.
        UserError: The server refused the request.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except RequestException as error:
        raise RetryableError(f"Expected `MLflow` to answer, but got {first_line(error)}. {advice}") from error
    except MlflowException as error:
        if error.error_code in _PASSING:
            raise RetryableError(f"Expected `MLflow` to answer, but got {first_line(error)}. {advice}") from error
        if error.error_code in _REFUSED:
            fix = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
            raise expected("MLFLOW_TRACKING_URI", "a server that lets you in", first_line(error), fix) from error
        fix = "See the documentation of the MLflow server and its version."
        raise expected("MLflow request", "accepted", first_line(error), fix) from error


def experiment(client: Any, uri: str = "", artifacts: Path | None = None) -> str:
    """Returns the id of the experiment for new runs, and makes it where it is missing.

    It is ``MLFLOW_EXPERIMENT_ID``, else the one named ``MLFLOW_EXPERIMENT_NAME``, else the one named ``ferry``.

    Args:
        client: MLflow client.
        uri: Tracking URI of the client; empty takes ``MLFLOW_TRACKING_URI``.
        artifacts: Folder for artifacts of a new experiment in a local store; default ``mlartifacts`` beside it.

    Raises:
        UserError: The experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    if given := os.environ.get("MLFLOW_EXPERIMENT_ID", ""):
        return given
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
    database = database_of(uri)
    place = artifacts or (database.parent / STORE_FOLDER if database is not None else None)
    location = place.absolute().as_uri() if place is not None and database is not None else None
    with store_lock(uri):
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(name)  # somebody else was faster
    if found.lifecycle_stage != "active":
        fix = f"Restore it (mlflow experiments restore -x {found.experiment_id}) or set another name."
        raise expected("MLFLOW_EXPERIMENT_NAME", "an active experiment", f"{name}, which was deleted", fix)
    return str(found.experiment_id)


def open_run(
    uri: str, pipeline: str, run_key: str, parameters: Mapping[str, Any], artifacts: Path | None = None
) -> str:
    """Makes the MLflow run of a pipeline run, and the store where it is new; returns the run's id.

    Args:
        uri: Tracking URI.
        pipeline: Name of the pipeline.
        run_key: Ferry's id of the run.
        parameters: Parameters of the run; empty ones are left out.
        artifacts: Folder for artifacts of a new local store; default ``mlartifacts`` beside it.

    Raises:
        UserError: The store cannot be used.
        RetryableError: The server does not answer.
    """
    advice = "Start the server, or unset the variable to keep records in the home; nothing has been run yet."
    client = connect(uri, advice)
    from mlflow.entities import Param

    shown = [Param(key, str(value)[:6000]) for key, value in parameters.items() if str(value)]
    with server_errors(advice):
        tags = {"ferry.pipeline": pipeline, "ferry.run": run_key}
        run = client.create_run(experiment(client, uri, artifacts), tags=tags, run_name=run_key)
        for start in range(0, len(shown), 100):  # MLflow takes 100 at once
            client.log_batch(run.info.run_id, params=shown[start : start + 100])
    return str(run.info.run_id)


def close_run(uri: str, run_id: str, success: bool) -> None:
    """Ends a run; a server that has gone away is no reason to fail now."""
    try:
        client = connect(uri)
        with server_errors(""):
            client.set_terminated(run_id, "FINISHED" if success else "FAILED")
    except FerryError as error:
        logger.warning("Tracking: the run %s stays open. %s", run_id, error)


def is_registry_uri(text: str) -> bool:
    """Tells whether a text names a model of the MLflow registry, as in ``models:/NAME@champion``."""
    return text.startswith(_SCHEME)


def version_of(uri: str, tracking_uri: str = "") -> str:
    """Returns what a registered model's address means now: ``NAME/VERSION`` and the digest of its files.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        tracking_uri: Tracking URI; empty takes ``MLFLOW_TRACKING_URI``.

    Raises:
        UserError: There is no such model, version or alias.
        RetryableError: The server does not answer.
    """
    parts, advice = _parts(uri), "Try again, or pass the model as a folder."
    client = connect(tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", ""), advice)
    with server_errors(advice):
        found = _find_version(client, *parts)
    return f"{found.name}/{found.version} {dict(found.tags).get(MODEL_DIGEST, '')}"


def download_model(uri: str, tracking_uri: str = "") -> Path:
    """Returns the weights folder of a registered model, downloaded once per content into the cache.

    Args:
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        tracking_uri: Tracking URI; empty takes ``MLFLOW_TRACKING_URI``.

    Returns:
        The folder with ``model.safetensors`` and ``model.json``; shared, so not to be changed.

    Raises:
        UserError: There is no such model, version or alias, or it was not registered by Ferry.
        RetryableError: The server does not answer.
    """
    from ..faces import default_cache

    parts, advice = _parts(uri), "Try again, or pass the model as a folder."
    tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    client = connect(tracking_uri, advice)
    with server_errors(advice):
        found = _find_version(client, *parts)
        digest = dict(found.tags).get(MODEL_DIGEST, "")
        if not re.fullmatch("[0-9a-f]{64}", digest):
            fix = "Register it with Ferry, or pass its files as a folder."
            raise expected(uri, f"registered by Ferry, with the tag {MODEL_DIGEST}", digest or "no such tag", fix)
        folder: Path = default_cache() / "models" / digest
        if not _is_whole(folder):
            place = client.get_model_version_download_uri(found.name, str(found.version))
            _download(place, tracking_uri, folder, digest)
    return folder


def registered_model(client: Any, name: str) -> Any:
    """Returns a model of the registry.

    Raises:
        UserError: There is none of that name; the message has those that exist.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    names = sorted(model.name for model in pages(client.search_registered_models))
    if not names:
        fix = "Register one with: ferry run clup -p model_name=NAME ..."
        raise expected("model name", "the name of a registered model", name, f"The registry is empty. {fix}")
    raise unknown("model name", name, names)


def pages(search: Any, **filters: Any) -> Iterator[Any]:
    """Yields everything that one of MLflow's paged searches finds."""
    token = None
    while True:
        page = search(page_token=token, **filters)
        yield from page
        token = page.token
        if not token:
            return


def name_of(uri: str) -> str:
    """Returns the name in a registered model's address, such as ``models:/NAME@champion``.

    Args:
        uri: The address; one that is none gives what stands where the name would.
    """
    return uri.removeprefix(_SCHEME).partition("@")[0].partition("/")[0]


def _parts(uri: str) -> tuple[str, str, str]:
    """Returns name, alias and version of a registered model's address."""
    parts = _URI.fullmatch(uri)
    if parts is None:
        raise expected("model", "models:/NAME@ALIAS or models:/NAME/VERSION", uri, "See: ferry models")
    return parts["name"], parts["alias"] or "", parts["version"] or ""


def _find_version(client: Any, name: str, alias: str, version: str) -> Any:
    aliases = {key: str(value) for key, value in registered_model(client, name).aliases.items()}
    if alias and alias not in aliases:
        if not aliases:
            raise expected("alias", f"an alias of {name}", alias, "It has none: pass a version, or run: ferry promote")
        raise unknown("alias", alias, sorted(aliases))
    number = version or aliases[alias]
    found = {
        str(one.version): one for one in pages(client.search_model_versions, filter_string=f"name = '{_quoted(name)}'")
    }
    if number not in found:
        raise unknown("version", number, sorted(found, key=int) or ["none"])
    return found[number]


def _quoted(name: str) -> str:
    """Returns a name for a filter; MLflow's filters know no escape for a quote."""
    if "'" in name:
        raise expected("model name", "free of quotes", name, "Register the model under another name.")
    return name


def _download(place: str, tracking_uri: str, folder: Path, digest: str) -> None:
    from mlflow.artifacts import download_artifacts

    with disk_errors(str(folder)), tempfile.TemporaryDirectory(prefix="ferry-model-") as temporary:
        got = Path(download_artifacts(artifact_uri=place, dst_path=temporary, tracking_uri=tracking_uri))
        found = [path.parent for path in sorted(got.rglob(_INFO)) if _is_whole(path.parent)]
        if not found:
            raise UserError(
                f"Expected `{place}` to hold {_INFO} and {_WEIGHTS}, but got neither. "
                "Its files were removed or never whole; register the model again."
            )
        stored = read_json(found[0] / _INFO, "model").get("digest")
        if stored != digest:
            raise expected(place, f"the model {digest}", stored, "The files were changed; register the model again.")
        with atomic_folder(folder) as output:
            shutil.copytree(found[0], output, dirs_exist_ok=True)


def _is_whole(folder: Path) -> bool:
    return (folder / _INFO).is_file() and (folder / _WEIGHTS).is_file()
