"""What each stage of CluP adds in the demo: the demo's data, budgets and defaults, with one stage changed at a time.

    python benchmarks/ablation.py --seeds 0 1 2 --output benchmarks/ablation.md

Each result is kept in ``--home`` as soon as it is there, so an interrupted call goes on.
"""

from __future__ import annotations

import argparse
import copy
from functools import cached_property
from pathlib import Path

import torch
from cells import HEAD, Cells, adapt, row, scores, teacher_of
from ferry.adaptation import FinetuningConfig
from ferry.common.files import write_text
from ferry.faces import drop_labels, open_faces, open_unlabelled
from ferry.labelling import LabellingConfig
from ferry.networks import Architecture, build_classifier, build_encoder, load_source, save_model
from ferry.pipelines.demo import (
    HOLDOUT_SHARE,
    SIZE,
    SOURCE_FACES,
    SOURCE_PARAMETERS,
    SOURCE_STYLE,
    TARGET_FACES,
    TARGET_STYLE,
    rendered,
)
from ferry.pretraining import preset, pretrain
from ferry.source import SourceConfig, train_supervised

EPOCHS, WIDTH = SOURCE_PARAMETERS["training_epochs"], SOURCE_PARAMETERS["network_width"]

OWN_STYLE = "own style"
ROWS = {
    "source-only": ("source", 1),
    "source-only, twice the training": ("source", 2),
    "AdaBN": ("adabn", 1),
    "AdaBN, twice the training": ("adabn", 2),
    "**CluP**": {},
    "without stage 1: fine-tuned on all of the teacher's labels": {"score": "confidence", "keep": 1.0},
    "stage 1 by the teacher's confidence in place of clusters": {"score": "confidence"},
    "stage 1 labelled by the plain source model, as published": {"teacher": "source"},
    "without stage 2: fine-tuned from the AdaBN model": {"start": "adabn"},
    "stage 2 from random weights": {"init": "random"},
    "for comparison: source-only on unseen faces of its own style": OWN_STYLE,
}
"""Row to what is shown: a model and the factor on the source's epochs, or the changes to CluP's defaults."""


class Seed:
    """Data and models of one seed, made when they are asked for."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.seed = home, seed

    def _rendered(self, count, style, seed, splits) -> Path:
        return rendered(self.home, count, style, seed, splits, print)

    @cached_property
    def holdout(self):
        return open_faces(self._target, "test")

    @cached_property
    def target(self):
        folder = self._target.with_name(self._target.name + "-unlabelled")
        if not (folder / "faces.json").exists():
            drop_labels(self._target, folder)
        return open_unlabelled(folder, "train")

    @cached_property
    def _target(self) -> Path:
        splits = {"train": 1 - HOLDOUT_SHARE, "test": HOLDOUT_SHARE}
        return self._rendered(TARGET_FACES, TARGET_STYLE, 2 * self.seed + 2, splits)

    def source(self, factor: int = 1):
        folder = self.home / f"source-{self.seed}-{factor}"
        if not (folder / "model.json").exists():
            faces = open_faces(self._rendered(SOURCE_FACES, SOURCE_STYLE, 2 * self.seed + 1, {"train": 1.0}), "train")
            model = build_classifier(Architecture(width=WIDTH), faces.classes, seed=self.seed)
            config = SourceConfig(epochs=factor * EPOCHS, seed=self.seed)
            train_supervised(model, faces.pixels(SIZE), faces.labels, config)
            save_model(model.cpu().eval(), folder, method="supervised", lineage={"faces": faces.digest})
        return load_source(folder)

    def encoder(self, method: str, init: str):
        """Returns the encoder of stage 2, pretrained once per choice."""
        folder = self.home / f"{method}-{init}-{self.seed}"
        if not (folder / "model.json").exists():
            classifier = self.source().classifier
            encoder = copy.deepcopy(classifier.encoder)
            if init == "random":
                encoder = build_encoder(classifier.architecture.backbone, self.seed, classifier.normalisation)
            done = pretrain(encoder, self.target.pixels(SIZE), preset(method, "small", seed=self.seed), classes=7)
            save_model(done.encoder, folder, method=method, lineage={})
        from ferry.networks import load_encoder

        return load_encoder(folder)

    def result(self, shown) -> dict:
        if shown == OWN_STYLE:
            count = round(TARGET_FACES * HOLDOUT_SHARE)
            faces = open_faces(self._rendered(count, SOURCE_STYLE, 1000 + self.seed, {"test": 1.0}), "test")
            return scores(self.source().outputs(faces.pixels(SIZE)).logits, faces)
        if isinstance(shown, tuple):
            model = teacher_of(self.source(shown[1]), self.target, shown[0])
            return scores(model.outputs(self.holdout.pixels(SIZE)).logits, self.holdout)
        given = {"teacher": "adabn", "start": "pretrained", "method": "swav", "init": "source", **shown}
        labelling = {name: given[name] for name in ("score", "keep") if name in given}
        logits = adapt(
            self.source(),
            self.target,
            self.holdout,
            teacher=given["teacher"],
            labelling=LabellingConfig(seed=self.seed, **labelling),
            tuning=FinetuningConfig(start=given["start"], seed=self.seed),
            encoder=self.encoder(given["method"], given["init"]) if given["start"] == "pretrained" else None,
        )
        return scores(logits, self.holdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(".ferry/ablation"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/ablation.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    cells = Cells(arguments.home / "cells", [SOURCE_STYLE, TARGET_STYLE, SOURCE_FACES, TARGET_FACES, EPOCHS, WIDTH])
    found: dict[str, list[dict]] = {name: [] for name in ROWS}
    for number in arguments.seeds:
        seed = Seed(arguments.home, number)
        for name, shown in ROWS.items():
            found[name].append(cells.get([name, number], lambda seed=seed, shown=shown: seed.result(shown)))
    lines = [
        "# What each stage of CluP adds in the demo",
        "",
        f"Command: `python benchmarks/ablation.py --seeds {' '.join(map(str, arguments.seeds))}`",
        "",
        f"The demo's data and budgets: {SOURCE_FACES:,} {SOURCE_STYLE} faces with labels, {TARGET_FACES:,} {TARGET_STYLE} "
        f"faces of which {HOLDOUT_SHARE:.0%} are the labelled holdout. One stage is changed at a time; all else is the "
        "default. Seven equally frequent classes, in percent, mean and standard deviation over seeds; the minutes are "
        f"those of the row alone with {torch.get_num_threads()} thread(s). torch {torch.__version__}.",
        "",
        "| " + HEAD,
        "|---" * 6 + "|",
        *(row(name, results) for name, results in found.items()),
    ]
    write_text(arguments.output, "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
