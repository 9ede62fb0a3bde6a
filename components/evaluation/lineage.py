"""What an evaluated model was made of: parameters as they were used, and where data and models come from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..faces import UnlabelledFaces
from ..faces.pseudo_labels import PseudoLabels
from ..faces.store import read_info
from ..networks import load_imported
from ..networks.saved import is_saved_model, load_info
from ..networks.trained import load_training, skipped_reason

_USED = ("precision", "steps", "device")


def used_parameters(models: Mapping[str, Path | str], labels: PseudoLabels | None) -> dict[str, Any]:
    """Returns the parameters of every stage by name, with what rules and ``auto`` came to.

    Args:
        models: Paths of ``adapted`` and, where there is one, ``pretrained``, which may be skipped.
        labels: The pseudo-labels of a method that has them.
    """
    parameters: dict[str, Any] = {}
    for key, prefix in (("pretrained", "pretraining"), ("adapted", "fine-tuning")):
        training = load_training(models[key]) if key in models else {}
        used = {name: training[name] for name in _USED if name in training}
        settings = {**training.get("settings", {}), **used}
        parameters.update({f"{prefix}.{name}": value for name, value in settings.items()})
    if labels is None:
        return parameters
    summary = labels.summary
    used = {"clusters": summary["clusters"]["k"], "keep": summary["keep"]["r"]}
    used |= {name: summary[name] for name in ("teacher",) if name in summary}
    parameters.update({f"labelling.{name}": value for name, value in {**labels.config, **used}.items()})
    return parameters


def lineage(
    models: Mapping[str, Path | str],
    faces: Mapping[str, UnlabelledFaces],
    labels: PseudoLabels | None,
    source: str = "",
) -> dict[str, Any]:
    """Returns digests and origins of all that went into a run; what is empty or was skipped is left out.

    Args:
        models: Paths by name, of which some may be skipped.
        faces: Sets of faces by name.
        labels: The pseudo-labels of a method that has them.
        source: Where the source model was taken from; empty where that is not known.
    """
    found: dict[str, Any] = {"model source, taken from": source} if source else {}
    for key, path in models.items():
        if is_saved_model(path):
            found[f"model {key}"] = load_info(path).digest
        elif not skipped_reason(path):
            found[f"model {key}"] = load_imported(path).digest
    if labels is not None:
        found["pseudo-labels"] = labels.digest
    found |= {f"{name} faces": _origin(item) for name, item in faces.items() if len(item)}
    return {**found, "ferry": __version__, "run": os.environ.get("FERRY_RUN_ID", "")}


def _origin(faces: UnlabelledFaces) -> dict[str, str]:
    info = read_info(faces.root)
    provenance = info.provenance.get(f"{faces.split}_labels") or info.provenance
    settings = provenance.get("settings", {})
    known = {name: str(provenance[name]) for name in ("source", "layout") if name in provenance}
    return {**known, "split": settings.get("take") or "all", "digest": faces.digest}
