"""Moves the aliases of the registry: ``champion`` is what production reads, ``previous`` is what it read before."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import RetryableError, UserError, expected
from ..training.runs import reachable
from .card import CARD_JSON, ModelCard, read_card
from .register import CHALLENGER

CHAMPION = "champion"
PREVIOUS = "previous"
_LOCK_TAG = "ferry.promotion"
_LOCK_SECONDS = 120.0


@dataclass(frozen=True)
class Version:
    """A version in the registry.

    Attributes:
        name: Name of the registered model.
        version: Its version.
        aliases: Its aliases.
        tags: Its tags.
        created: Milliseconds since the epoch.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    created: int


class Registry:
    """A registry of models.

    Args:
        tracking_uri: Tracking URI; empty takes ``MLFLOW_TRACKING_URI``.

    Raises:
        RetryableError: The server does not answer.
    """

    def __init__(self, tracking_uri: str = "") -> None:
        self.uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        problem = reachable(self.uri)
        if problem:
            raise RetryableError(f"Expected `MLFLOW_TRACKING_URI` to name a server that answers, but got {problem}. Try again.")
        from mlflow import MlflowClient

        self._client = MlflowClient(self.uri or None)

    def names(self) -> list[str]:
        """Returns the names of the models that Ferry registered."""
        models = self._client.search_registered_models()
        return sorted(model.name for model in models if self.versions(model.name))

    def versions(self, name: str) -> list[Version]:
        """Returns the versions of a model that Ferry registered, newest first; empty where there is none."""
        found = self._client.search_model_versions(f"name = '{name}'")
        aliases: dict[str, list[str]] = {}
        for alias, version in self._aliases(name).items():
            aliases.setdefault(str(version), []).append(alias)
        return sorted(
            (
                Version(name, str(one.version), tuple(sorted(aliases.get(str(one.version), []))), dict(one.tags), one.creation_timestamp)
                for one in found
                if "ferry.version" in one.tags
            ),
            key=lambda version: -int(version.version),
        )

    def card(self, name: str, version: str) -> ModelCard:
        """Returns the card of a version.

        Raises:
            UserError: There is no such version, or it has no card.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory(prefix="ferry-card-") as folder:
            try:
                uri = self._client.get_model_version_download_uri(name, version)
                path = download_artifacts(artifact_uri=f"{uri}/{CARD_JSON}", dst_path=folder, tracking_uri=self.uri or None)
            except (MlflowException, OSError) as error:
                first = (str(error).splitlines() or ["no card"])[0]
                raise expected("model card", f"in version {version} of {name}", first, "Register the model with Ferry.") from None
            return read_card(Path(path).parent)

    def promote(self, name: str, version: str) -> Version:
        """Makes a version the champion; the champion so far becomes ``previous``.

        Raises:
            UserError: There is no such version, or its card is not complete.
            RetryableError: Another promotion is under way.
        """
        self._known(name, version)
        missing = self.card(name, version).missing()
        if missing:
            raise expected("model card", "complete before a promotion", f"nothing under {', '.join(missing)}", "Fill it in and register again.")
        with self._alone(name):
            aliases = self._aliases(name)
            champion = aliases.get(CHAMPION)
            if champion is not None and str(champion) != str(version):
                self._client.set_registered_model_alias(name, PREVIOUS, str(champion))
            self._client.set_registered_model_alias(name, CHAMPION, str(version))
            if str(aliases.get(CHALLENGER)) == str(version):
                self._client.delete_registered_model_alias(name, CHALLENGER)
            self._client.set_model_version_tag(name, str(version), "ferry.promoted_at", _now())
        return self._known(name, version)

    def rollback(self, name: str) -> Version:
        """Makes the previous champion the champion again; a second rollback undoes the first.

        Raises:
            UserError: There is no previous champion.
            RetryableError: Another promotion is under way.
        """
        with self._alone(name):
            aliases = self._aliases(name)
            if PREVIOUS not in aliases:
                raise expected(PREVIOUS, f"an alias of {name}", "none", "There is nothing to go back to: promote a version instead.")
            before, now = str(aliases[PREVIOUS]), aliases.get(CHAMPION)
            self._client.set_registered_model_alias(name, CHAMPION, before)
            if now is not None:
                self._client.set_registered_model_alias(name, PREVIOUS, str(now))
            self._client.set_model_version_tag(name, before, "ferry.rolled_back_at", _now())
        return self._known(name, before)

    def _known(self, name: str, version: str) -> Version:
        versions = {one.version: one for one in self.versions(name)}
        if str(version) not in versions:
            shown = ", ".join(versions) or "none"
            raise expected("version", f"a version of {name} that Ferry registered ({shown})", version, "See: ferry models")
        return versions[str(version)]

    def _aliases(self, name: str) -> dict[str, Any]:
        from mlflow.exceptions import MlflowException

        try:
            return dict(self._client.get_registered_model(name).aliases)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Holds a model for one promotion; the lock is a tag on the model, since MLflow has no other."""
        if not self._aliases(name) and not self.versions(name):
            raise expected("name", "a registered model", name, "See: ferry models")
        token = f"{uuid.uuid4().hex} {time.time():.0f}"
        held = self._client.get_registered_model(name).tags.get(_LOCK_TAG, "")
        if held and time.time() - float(held.split()[-1]) < _LOCK_SECONDS:
            raise RetryableError(f"Expected `{name}` to be free, but got a promotion under way. Try again in two minutes.")
        self._client.set_registered_model_tag(name, _LOCK_TAG, token)
        if self._client.get_registered_model(name).tags.get(_LOCK_TAG) != token:
            raise RetryableError(f"Expected `{name}` to be free, but got a promotion under way. Try again.")
        try:
            yield
        finally:
            if self._client.get_registered_model(name).tags.get(_LOCK_TAG) == token:
                self._client.delete_registered_model_tag(name, _LOCK_TAG)


def only_model(registry: Registry, name: str) -> str:
    """Returns `name`, or the only model of the registry where it is empty.

    Raises:
        UserError: It is empty and there is not exactly one model.
    """
    if name:
        return name
    names = registry.names()
    if len(names) != 1:
        raise UserError(
            f"Expected `--name` to say which model, but got nothing and the registry has {', '.join(names) or 'none'}. "
            "Pass --name."
        )
    return names[0]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
