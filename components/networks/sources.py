"""Source models: what adaptation starts from, whether Ferry's own or somebody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch

from ..common.errors import UserError, expected
from .classifier import Classifier
from .foreign import open_foreign
from .kinds import is_torchscript, looks_like_pickle, refuse_pickle
from .outputs import Outputs, Pixels, inference
from .saved import content_digest, is_saved_model, load_classifier
from .sidecar import FOLDER_FILE


@runtime_checkable
class SourceModel(Protocol):
    """What every source model offers.

    Attributes:
        classes: Names in the order of the columns of the logits.
        channels: Channels that the model takes.
        input_size: Edge length that the model takes, in pixels.
        digest: SHA-256 of the model's content.
        feature_kind: ``logits`` where the model exposes no features.
        classifier: The model with its weights, for methods that adapt them; None where only outputs are known.
    """

    classes: tuple[str, ...]
    channels: int
    input_size: int
    digest: str
    feature_kind: Literal["features", "logits"]

    @property
    def classifier(self) -> Classifier | None:
        """The model with its weights, or None."""
        ...

    def outputs(self, pixels: Pixels, batch_size: int = 256, device: str | torch.device = "auto") -> Outputs:
        """Returns logits and features for uint8 images [N, C, H, W]."""
        ...


class FerrySource:
    """A classifier of Ferry as a source model.

    Args:
        classifier: The model; not changed.
    """

    feature_kind: Literal["features", "logits"] = "features"

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self.classes = classifier.classes
        self.channels = classifier.architecture.channels
        self.input_size = classifier.architecture.input_size
        self.digest = classifier.info.digest or content_digest(classifier)

    @property
    def classifier(self) -> Classifier:
        """The model with its weights."""
        return self._classifier

    def outputs(self, pixels: Pixels, batch_size: int = 256, device: str | torch.device = "auto") -> Outputs:
        """Runs the model over images, resized and converted to what it takes; see :func:`inference`."""
        return inference(self._classifier, pixels, batch_size, device, fit=True)


def load_source(path: Path | str, trust: bool = False) -> SourceModel:
    """Loads a source model.

    Args:
        path: A folder of :func:`save_model`; a folder with ``foreign.json``; or an ONNX or TorchScript file with its
            sidecar beside it (``<file>.json``).
        trust: Whether a TorchScript file may be opened: it runs code from the file. ONNX needs no trust.

    Raises:
        UserError: There is no such model, or it is damaged or not described.
    """
    path = Path(path)
    if not path.exists():
        raise expected("source", "an existing file or folder", str(path), "Check the path.")
    if path.is_dir():
        return _from_folder(path, trust)
    if path.suffix.lower() in (".onnx", ".json") or is_torchscript(path):
        return open_foreign(path, trust)
    if looks_like_pickle(path) or path.suffix == ".safetensors":
        raise _bare_weights(path)
    fix = "Export the model to ONNX (tf2onnx for Keras and TensorFlow) and write a sidecar for it."
    raise expected(str(path), "a saved model, an ONNX or a TorchScript file", path.suffix or "a file", fix)


def load_imported(path: Path | str) -> SourceModel:
    """Loads a source model for a stage after the import of the run, which asked whether it is trusted.

    Args:
        path: What :func:`ferry.networks.stage.import_model_stage` or a stage after it has written.

    Raises:
        UserError: It is damaged.
    """
    return load_source(path, trust=True)


def _from_folder(folder: Path, trust: bool) -> SourceModel:
    if is_saved_model(folder):
        return FerrySource(load_classifier(folder))
    if (folder / FOLDER_FILE).is_file():
        return open_foreign(folder, trust)
    models = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".onnx" or is_torchscript(path))
    if len(models) == 1:
        return open_foreign(models[0], trust)
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder"
    fix = f"Pass a folder with model.json or {FOLDER_FILE}, or one model file."
    raise expected(str(folder), "a source model", found, fix)


def _bare_weights(path: Path) -> UserError:
    if path.suffix == ".safetensors":
        call = f"ferry.networks.convert_state_dict({str(path)!r}, architecture, classes=names).save(folder)"
        fix = f"Convert it once: {call}."
        return expected(str(path), "a whole model", "weights without their description", fix)
    return refuse_pickle(path)
