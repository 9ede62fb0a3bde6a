"""The import of a source model on artifacts."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..common.files import atomic_folder
from ..common.stage import StageRecord
from ..faces import EXPRESSIONS
from ..faces.readers import is_s3
from ..training.runs import download_model, is_registry_uri
from .foreign import ForeignModel, pack_foreign
from .remote import fetch_model
from .sources import load_source


def import_model_stage(source: str, output: Path | str, record: StageRecord, trust: bool = False) -> dict[str, Any]:
    """Copies a source model into the run and opens it once, so that a wrong one is found before anything is trained.

    Args:
        source: Folder of a Ferry model, ONNX or TorchScript file with its sidecar, either of them in an object store
            (``s3://bucket/prefix``), or ``models:/NAME@ALIAS``.
        output: The folder to make.
        record: Receives warnings and facts.
        trust: Whether a TorchScript file may be opened; it runs code.

    Returns:
        Metadata of the artifact.

    Raises:
        UserError: There is no such model, or it is damaged or not described.
    """
    with tempfile.TemporaryDirectory(prefix="ferry-model-") as place:
        return _imported(_here(source, Path(place)), source, output, record, trust)


def _here(source: str, folder: Path) -> Path:
    """Returns the model's place on this machine; one in an object store is downloaded into `folder`."""
    if is_registry_uri(source):
        return download_model(source)
    return fetch_model(source, folder) if is_s3(source) else Path(source).expanduser()


def _imported(path: Path, source: str, output: Path | str, record: StageRecord, trust: bool) -> dict[str, Any]:
    model = load_source(path, trust)
    if isinstance(model, ForeignModel):
        pack_foreign(model, output)
        if model.feature_kind == "logits":
            record.warn("The source model exposes no features: its logits are clustered instead.")
    else:
        with atomic_folder(output) as folder:
            shutil.copytree(path, folder, dirs_exist_ok=True)
    load_source(output, trust)
    others = sorted(set(model.classes) - {*EXPRESSIONS, "contempt"})
    if others:
        record.warn(
            f"The source model's classes {', '.join(others)} are none of Ferry's expressions and are kept as they are: "
            "correct the model's description if they mean one, or write null to leave them out."
        )
    record.facts.update(classes=list(model.classes), input_size=model.input_size, digest=model.digest)
    return {"classes": ", ".join(model.classes), "digest": model.digest, "source": source}
