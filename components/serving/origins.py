"""Where the served model comes from: files, or a version or an alias of the MLflow registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..training.runs import download_model, is_registry_uri, name_of, version_of
from .settings import ServeSettings, check_name

if TYPE_CHECKING:
    from ..networks import SourceModel


@dataclass(frozen=True)
class Revision:
    """What an address means at one moment.

    Attributes:
        version: Version in the registry; None for files.
        digest: What the registry says about the content; empty for files.
    """

    version: str | None = None
    digest: str = ""


class Origin(Protocol):
    """Where a model comes from."""

    @property
    def name(self) -> str:
        """Name of the model."""
        ...

    @property
    def moves(self) -> bool:
        """Whether the address can come to mean another model, as an alias can."""
        ...

    def look(self) -> Revision:
        """Returns what the address means now."""
        ...

    def load(self, revision: Revision) -> SourceModel:
        """Loads that."""
        ...


@dataclass(frozen=True)
class FileOrigin:
    """A model's folder or file.

    Attributes:
        path: The folder or file.
        name: Name of the model.
        trust: Whether a TorchScript file may be opened.
    """

    path: str
    name: str
    trust: bool = False
    moves: bool = False

    def look(self) -> Revision:
        """Returns the one revision that there is."""
        return Revision()

    def load(self, revision: Revision) -> SourceModel:
        """Loads the model.

        Raises:
            UserError: There is no such model, or it is damaged or not described.
        """
        from ..networks import load_source

        return load_source(self.path, self.trust)


@dataclass(frozen=True)
class RegistryOrigin:
    """A model of the MLflow registry.

    Attributes:
        uri: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        name: Name of the model in answers.
        tracking_uri: Where the registry is; empty takes ``MLFLOW_TRACKING_URI``.
    """

    uri: str
    name: str
    tracking_uri: str = ""

    @property
    def moves(self) -> bool:
        """Whether the address is an alias."""
        return "@" in self.uri

    def look(self) -> Revision:
        """Asks the registry.

        Raises:
            UserError: There is no such model, version or alias.
            RetryableError: The registry does not answer.
        """
        place, _, digest = version_of(self.uri, self.tracking_uri).rpartition(" ")
        return Revision(place.rpartition("/")[2], digest)

    def load(self, revision: Revision) -> SourceModel:
        """Downloads the version, once per content, and loads it.

        Raises:
            UserError: It was not registered by Ferry, or its files are damaged.
            RetryableError: The registry does not answer.
        """
        from ..networks import load_source

        name = name_of(self.uri)  # by its version: the alias may have moved on since the look
        return load_source(download_model(f"models:/{name}/{revision.version}", self.tracking_uri))


@dataclass(frozen=True)
class ServedModel:
    """A loaded model with its names.

    Attributes:
        name: Name in answers and addresses.
        version: Version in the registry; None for files.
        source: The model itself.
    """

    name: str
    version: str | None
    source: SourceModel

    def probabilities(self, pixels: np.ndarray, device: str) -> np.ndarray:
        """Returns the probability of every class, float32 [N, classes], for uint8 pixels [N, C, H, W]."""
        chances: np.ndarray = self.source.outputs(pixels, device=device).probabilities().numpy()
        return chances

    def to_json(self) -> dict[str, str | None]:
        """Returns name, version and digest, as every answer has them."""
        return {"name": self.name, "version": self.version, "digest": self.source.digest}


def origin_of(model: str, settings: ServeSettings, tracking_uri: str = "") -> Origin:
    """Returns where a model comes from; nothing is asked or read yet.

    Args:
        model: Folder of a Ferry model, ONNX or TorchScript file with its sidecar, or an address in the registry.
        settings: Name and trust.
        tracking_uri: Where the registry is; empty takes ``MLFLOW_TRACKING_URI``.

    Raises:
        UserError: The name that follows from the address is none that an address can hold.
    """
    if is_registry_uri(model):
        return RegistryOrigin(model, settings.name or name_of(model), tracking_uri)
    path = Path(model).absolute()
    name = settings.name or (path.name if path.is_dir() else path.stem)
    check_name(name, model)
    return FileOrigin(model, name, settings.trust)
