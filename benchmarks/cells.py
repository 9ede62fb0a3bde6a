"""What the accuracy benchmarks share: results that are computed once and kept, one adaptation, one table."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ferry.adaptation import FinetuningConfig, adabn, fine_tune, start_network
from ferry.common.files import digest_of, write_json
from ferry.evaluation import classification_metrics
from ferry.labelling import LabellingConfig, pseudo_labels
from ferry.networks import inference
from ferry.networks.sources import FerrySource

METRICS = ("accuracy", "mean_class_accuracy", "min_class_accuracy")


class Cells:
    """Results that are kept in a folder, so that an interrupted benchmark goes on where it stopped.

    Args:
        folder: One JSON file per result.
        setting: What all results of this folder depend on besides their own key.
    """

    def __init__(self, folder: Path, setting: Sequence[object]) -> None:
        self.folder, self.setting = folder, list(setting)

    def _path(self, key: Sequence[object]) -> Path:
        return self.folder / f"{digest_of([*key, *self.setting])[:16]}.json"

    def has(self, key: Sequence[object]) -> bool:
        """Tells whether there is a kept result."""
        return self._path(key).exists()

    def get(self, key: Sequence[object], make: Callable[[], dict]) -> dict:
        """Returns the kept result of a key, or makes it and keeps it with its CPU seconds."""
        path = self._path(key)
        if not path.exists():
            began = time.process_time()
            result = make()
            write_json(path, {"key": list(key), "seconds": round(time.process_time() - began, 1), **result})
            print(*key, json.dumps(result), flush=True)
        return json.loads(path.read_text())


def scores(logits, holdout, scored: Sequence[str] | None = None) -> dict:
    """Returns the metrics of the table for the logits of a holdout."""
    found = classification_metrics(logits, holdout.labels, holdout.classes, from_logits=True, scored_classes=scored)
    return {name: found.to_json()[name] for name in METRICS}


def teacher_of(source, target, name: str):
    """Returns the source model, or its copy with the target's statistics (``adabn``) where it has weights."""
    if name == "source" or source.classifier is None:
        return source
    size, channels = source.input_size, source.channels
    return FerrySource(adabn(source.classifier, target.pixels(size, channels)))


def adapt(
    source, target, holdout, *, teacher: str, labelling: LabellingConfig, tuning: FinetuningConfig, encoder=None
) -> np.ndarray:
    """Runs CluP's first and third stage; returns the adapted model's logits on the holdout.

    Args:
        source: The source model.
        target: Unlabelled faces.
        holdout: Labelled faces; only their pixels are looked at here.
        teacher: ``source`` or ``adabn``.
        labelling: Settings of the first stage.
        tuning: Settings of the third stage.
        encoder: What the second stage made, where the third one starts from it.
    """
    knows = teacher_of(source, target, teacher)
    outputs = knows.outputs(target.pixels(knows.input_size, knows.channels))
    labels = pseudo_labels(outputs.logits.numpy(), outputs.features.numpy(), target.keys, knows.classes, labelling)
    pixels = target.pixels(48)
    network = start_network(
        tuning, source=source.classifier, encoder=copy.deepcopy(encoder), target=pixels, classes=knows.classes
    )
    kept = labels.columns.kept
    fine_tune(network, np.ascontiguousarray(pixels[kept]), labels.columns.label[kept], tuning)
    return inference(network, holdout.pixels(48)).logits


def row(name: str, found: Sequence[dict]) -> str:
    """Returns a Markdown row: mean and standard deviation over seeds in percent, and CPU minutes."""
    cells = []
    for metric in METRICS:
        values = 100 * np.array([cell[metric] for cell in found])
        spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
        cells.append(f"{values.mean():.1f}{spread}")
    minutes = np.mean([cell["seconds"] for cell in found]) / 60
    return f"| {name} | {' | '.join(cells)} | {len(found)} | {minutes:.1f} |"


HEAD = "| accuracy | mean-class | worst class | seeds | CPU minutes |"
