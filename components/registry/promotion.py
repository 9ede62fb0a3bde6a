"""Moves the aliases of the registry: ``champion`` is what production reads, ``previous`` is what it read before."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import UserError, expected, unknown
from ..training.runs import connect, pages, registered_model, server_errors
from .card import CARD_JSON, ModelCard, read_card
from .lock import PATIENCE_SECONDS, Held, alone
from .register import CHALLENGER, VERSION_TAG

CHAMPION = "champion"
PREVIOUS = "previous"
_ADVICE = "Try again; see the aliases with: ferry models"


@dataclass(frozen=True)
class Version:
    """A version in the registry.

    Attributes:
        name: Name of the registered model.
        version: Its version.
        aliases: Its aliases, sorted.
        tags: Its tags.
        created: Milliseconds since the epoch.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    created: int

    @property
    def uri(self) -> str:
        """``models:/NAME/VERSION``."""
        return f"models:/{self.name}/{self.version}"


class Registry:
    """A registry of models; it shows and moves what Ferry registered and leaves everything else alone.

    Args:
        tracking_uri: Tracking URI; empty takes ``MLFLOW_TRACKING_URI``.
        patience: Seconds to wait for another promotion of the same model.

    Raises:
        UserError: There is no URI, or it is not one that MLflow can use.
        RetryableError: The server does not answer.
    """

    def __init__(self, tracking_uri: str = "", patience: float = PATIENCE_SECONDS) -> None:
        self.uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        self._patience = patience
        self._client = connect(self.uri, _ADVICE)

    def names(self) -> list[str]:
        """Returns the names of the models of which Ferry registered a version."""
        with server_errors(_ADVICE):
            ours = pages(self._client.search_model_versions, filter_string=f"tags.`{VERSION_TAG}` LIKE '%'")
            return sorted({str(version.name) for version in ours})

    def versions(self, name: str) -> list[Version]:
        """Returns the versions of a model that Ferry registered, newest first.

        Raises:
            UserError: There is no model of that name.
        """
        with server_errors(_ADVICE):
            aliases: dict[str, list[str]] = {}
            for alias, number in registered_model(self._client, name).aliases.items():
                aliases.setdefault(str(number), []).append(alias)
            found = pages(self._client.search_model_versions, filter_string=f"name = '{name}'")
            versions = [
                Version(
                    name,
                    str(one.version),
                    tuple(sorted(aliases.get(str(one.version), []))),
                    dict(one.tags),
                    int(one.creation_timestamp),
                )
                for one in found
                if VERSION_TAG in one.tags
            ]
        return sorted(versions, key=lambda version: -int(version.version))

    def card(self, name: str, version: str) -> ModelCard:
        """Returns the card of a version.

        Raises:
            UserError: There is no such version, or it has no card.
        """
        return self._card(self._find(name, version))

    def promote(self, name: str, version: str) -> Version:
        """Makes a version the champion; the champion so far becomes ``previous``.

        Args:
            name: Name of the model.
            version: Number of the version, or one of its aliases, such as ``challenger``.

        Returns:
            The version as it is now. Promoting the champion changes nothing.

        Raises:
            UserError: There is no such version, or its card is not complete.
            RetryableError: Another promotion is under way, or the server does not answer.
        """
        wanted = self._find(name, version)
        missing = self._card(wanted).missing()
        if missing:
            fix = "Fill it in and register the model again."
            raise expected("model card", "complete before a promotion", f"nothing under {', '.join(missing)}", fix)
        with self._alone(name) as lock:
            aliases = self._aliases(name)
            champion = aliases.get(CHAMPION)
            if champion not in (None, wanted.version):
                lock.check()  # first `previous`: a promotion that was cut off between the two can simply be repeated
                self._client.set_registered_model_alias(name, PREVIOUS, champion)
            if champion != wanted.version:
                lock.check()
                self._client.set_registered_model_alias(name, CHAMPION, wanted.version)
                self._client.set_model_version_tag(name, wanted.version, "ferry.promoted_at", _now())
            if self._aliases(name).get(CHALLENGER) == wanted.version:  # as it is now: another may be the challenger
                lock.check()
                self._client.delete_registered_model_alias(name, CHALLENGER)
        return self._find(name, wanted.version)

    def rollback(self, name: str) -> Version:
        """Makes the previous champion the champion again; a second rollback undoes the first.

        Raises:
            UserError: There is no such model or no previous champion.
            RetryableError: Another promotion is under way, or the server does not answer.
        """
        self.versions(name)
        with self._alone(name) as lock:
            aliases = self._aliases(name)
            before, now = aliases.get(PREVIOUS), aliases.get(CHAMPION)
            if before is None or before == now:
                got = ", ".join(f"{alias} = {number}" for alias, number in sorted(aliases.items())) or "no aliases"
                fix = "There is nothing to go back to: promote a version instead."
                raise expected(PREVIOUS, f"an alias of another version of {name} than the champion", got, fix)
            lock.check()  # first `champion`: it is what matters if this is cut off between the two
            self._client.set_registered_model_alias(name, CHAMPION, before)
            if now is not None:
                self._client.set_registered_model_alias(name, PREVIOUS, now)
            self._client.set_model_version_tag(name, before, "ferry.rolled_back_at", _now())
        return self._find(name, before)

    def _card(self, found: Version) -> ModelCard:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        with server_errors(_ADVICE), tempfile.TemporaryDirectory(prefix="ferry-card-") as folder:
            place = f"{self._client.get_model_version_download_uri(found.name, found.version)}/{CARD_JSON}"
            try:
                path = Path(download_artifacts(artifact_uri=place, dst_path=folder, tracking_uri=self.uri))
            except (MlflowException, OSError) as error:
                if not _is_absent(error):
                    raise
                fix = "Register the model with Ferry."
                raise expected("model card", f"among the files of {found.uri}", "none", fix) from None
            return read_card(path.parent)

    def _find(self, name: str, version: str) -> Version:
        versions = self.versions(name)
        numbers = {one.version: one for one in versions}
        aliases = {alias: one for one in versions for alias in one.aliases}
        found = numbers.get(version) or aliases.get(version)
        if found is None and not versions:
            fix = "Register one with: ferry run clup -p model_name=NAME ..."
            raise expected("version", f"a version of {name} that Ferry registered", version, f"It has none. {fix}")
        if found is None:
            raise unknown("version", version, [*numbers, *sorted(aliases)])
        return found

    def _aliases(self, name: str) -> dict[str, str]:
        return {alias: str(number) for alias, number in self._client.get_registered_model(name).aliases.items()}

    @contextmanager
    def _alone(self, name: str) -> Iterator[Held]:
        with server_errors(_ADVICE), alone(self._client, name, self._patience) as lock:
            yield lock


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
            f"{'Pass --name.' if names else 'Register one with: ferry run clup -p model_name=NAME ...'}"
        )
    return names[0]


def _is_absent(error: Exception) -> bool:
    """Tells a missing file from a server that is away; MLflow says the former in several ways."""
    if isinstance(error, FileNotFoundError) or getattr(getattr(error, "response", None), "status_code", 0) == 404:
        return True
    code = getattr(error, "error_code", "")
    words = ("No such", "error code 404")
    return code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE") or any(word in str(error) for word in words)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
