"""Saves a trained model together with how it was trained: ``history.json`` and ``training.json`` beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..common.files import atomic_folder, read_json, write_json
from ..training import TrainResult
from .backbone import Encoder
from .classifier import Classifier
from .info import ModelInfo
from .saved import save_model

SKIPPED_FILE = "skipped.json"


def save_trained(
    model: Classifier | Encoder,
    folder: Path | str,
    result: TrainResult,
    *,
    method: str,
    lineage: Mapping[str, str],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
) -> ModelInfo:
    """Saves a trained model with its history.

    Args:
        model: The model.
        folder: The folder to make.
        result: What the loop reported.
        method: How the weights were made.
        lineage: What they were made from.
        settings: The complete settings of the method.
        facts: What else a report should know.

    Returns:
        What is known about the model.
    """
    training = {
        "method": method,
        "settings": dict(settings),
        "steps": result.steps,
        "images": result.images,
        "seconds": round(result.seconds, 2),
        "device": result.device,
        "precision": result.precision,
        "resumed_from": result.resumed_from,
        "estimate": None if result.estimate is None else asdict(result.estimate),
        **(facts or {}),
    }
    return save_model(
        model, folder, method=method, lineage=lineage, extra={"history.json": result.history, "training.json": training}
    )


def load_training(folder: Path | str) -> dict[str, Any]:
    """Returns ``training.json`` with the history under ``history``; empty where the model has none."""
    folder = Path(folder)
    if not (folder / "training.json").is_file():
        return {}
    training: dict[str, Any] = read_json(folder / "training.json", "training")
    history = folder / "history.json"
    return {**training, "history": read_json(history, "history") if history.is_file() else []}


def skip_model(output: Path | str, reason: str) -> None:
    """Writes the artifact of a model that is not made, with the reason."""
    with atomic_folder(output) as folder:
        write_json(folder / SKIPPED_FILE, {"reason": reason})


def skipped_reason(path: Path | str) -> str:
    """Returns why a model artifact holds no model, or an empty string where it holds one."""
    file = Path(path) / SKIPPED_FILE
    return str(read_json(file, "model")["reason"]) if file.is_file() else ""
