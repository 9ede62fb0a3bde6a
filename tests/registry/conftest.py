"""A tiny classifier, a real evaluation of it, and a local MLflow store that every test finds empty."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ferry.evaluation.evaluate import evaluate
from ferry.faces import EXPRESSIONS
from ferry.networks import Architecture, build_classifier, save_model
from ferry.registry import register as module

TARGET, SOURCE, LABELS = "7a" * 32, "50" * 32, "1a" * 32


def logits(seed: int, labels: np.ndarray, skill: float) -> SimpleNamespace:
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(len(labels), len(EXPRESSIONS))).astype(np.float32)
    scores[np.arange(len(labels)), labels] += skill
    return SimpleNamespace(logits=scores, features=scores)


def make_evaluation(folder: Path, *, labelled: bool = True, groups: bool = False, seed: int = 0) -> Path:
    labels = np.random.default_rng(seed).integers(0, len(EXPRESSIONS), 140)
    rows = {
        "source-only": logits(1 + seed, labels, 0.5),
        "AdaBN": logits(2 + seed, labels, 1.0),
        "CluP": logits(3 + seed, labels, 2.5),
    }
    values = ["older" if index % 3 else "younger" for index in range(len(labels))] if groups else None
    evaluate(rows, labels if labelled else None, EXPRESSIONS, groups=values).write(folder / "metrics.json")
    return folder


def make_model(folder: Path, seed: int = 0, **lineage: str) -> Path:
    model = build_classifier(Architecture("resnet10", width=8, input_size=16), EXPRESSIONS, seed=seed)
    given = lineage or {"source": SOURCE, "target": TARGET, "labels": LABELS, "pretrained": "none"}
    save_model(model, folder, method="clup", lineage=given)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "adapted")


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    return make_evaluation(tmp_path / "evaluation")


@pytest.fixture
def quick(monkeypatch):
    """Skips MLflow's own packing, which takes seconds; the files of the model and the card are still there."""

    def pack(model, output, card):
        shutil.copytree(model, output / "artifacts" / "classifier")
        card.write(output)

    monkeypatch.setattr(module, "pack", pack)


@pytest.fixture(scope="session")
def store(empty_store: Path, tmp_path_factory) -> Path:
    """A local store for all tests: for MLflow to open another file takes tenths of a second."""
    return Path(shutil.copy(empty_store, tmp_path_factory.mktemp("home") / "mlflow.db"))


def copy_store(source: Path, target: Path) -> None:
    """Replaces what is in a store, which MLflow may have open."""
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


@pytest.fixture
def uri(empty_store: Path, store: Path, tmp_path: Path, monkeypatch) -> str:
    """The store, empty; no variable points anywhere else."""
    for name in ("TRACKING_URI", "RUN_ID", "EXPERIMENT_ID", "EXPERIMENT_NAME"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)
    monkeypatch.delenv("FERRY_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("FERRY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    shutil.rmtree(store.parent / "mlartifacts", ignore_errors=True)
    copy_store(empty_store, store)
    return f"sqlite:///{store}"


def add_version(client, name: str, folder: Path, card: dict | None, **tags: str) -> str:
    """Adds a version by MLflow's own means: files that hold only a card, tags as Ferry sets them."""
    import json

    from mlflow.exceptions import MlflowException

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "note.txt").write_text("no model")
    if card is not None:
        (folder / "card.json").write_text(json.dumps(card))
    try:
        client.create_registered_model(name)
    except MlflowException:
        pass
    made = client.create_model_version(name, source=folder.as_uri(), tags={"ferry.version": "0", **tags})
    return str(made.version)
