"""CluP on real faces: FER2013 to LFW, with a source trained by Ferry and with a third-party ONNX model as the source.

    python benchmarks/real_faces.py --data FOLDER --onnx FOLDER/models/fer2013_minixception102.onnx

FOLDER holds ``fer2013/{train,test}/<class>/`` and ``lfw-expressions/{train,test}/<class>/``. Nothing is tuned on the test
split: every row uses the same rules and the last iterate. No picture enters the table. Each result is kept in ``--home``
as it is done, so an interrupted call goes on; ``--seeds 1`` in a second process computes another seed beside it.
"""

from __future__ import annotations

import argparse
import copy
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from cells import HEAD, Cells, adapt, row, scores, teacher_of
from ferry.adaptation import FinetuningConfig
from ferry.common.files import write_json, write_text
from ferry.faces import drop_labels, import_faces, open_faces, open_unlabelled, write_faces
from ferry.faces.schema import FaceRecord
from ferry.labelling import LabellingConfig
from ferry.networks import Architecture, build_classifier, build_encoder, load_encoder, load_source, save_model
from ferry.pretraining import preset, pretrain
from ferry.source import SourceConfig, train_supervised

SCORED = ("anger", "happiness", "neutral", "sadness", "surprise")
CAP = 300
SIDECAR = {  # of fer2013_minixception102.onnx, which ends before its softmax
    "format": 1,
    "classes": ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"],
    "input": {"size": 64, "channels": 1, "layout": "NCHW", "scale": {"multiply": [2 / 255], "add": [-1.0]}},
    "output": "logits",
}
METHODS = {"SwAV": "swav", "DeepClusterV2": "deepcluster"}


@dataclass(frozen=True)
class Setting:
    """A row of the table: the first weights of the adapted network and how labels are ranked."""

    backbone: str
    score: str
    init: str = "random"

    @property
    def name(self) -> str:
        how = f" (from {self.init})" if self.backbone in METHODS else ""
        return f"CluP, {self.backbone}{how}, {self.score}"


SCORES = ("purity", "confidence")
FERRY = [
    *(Setting(backbone, score, init) for init in ("source", "random") for backbone in METHODS for score in SCORES),
    *(Setting(backbone, score) for backbone in ("source", "random") for score in SCORES),
]
FOREIGN = [Setting(backbone, score) for backbone in (*METHODS, "random") for score in SCORES]


class Bench:
    """Data, models and settings.

    Args:
        arguments: Of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.home, self.data, self.given = arguments.home, arguments.data, arguments
        budget = [arguments.epochs, arguments.passes, arguments.steps]
        self.cells = Cells(self.home / "cells", budget)
        self.results: dict[tuple[str, str, str], list[dict]] = {}

    @cached_property
    def training(self):
        return open_faces(self._imported("fer2013", "fer2013", overlap="drop_from_train"), "train")

    @cached_property
    def labelled(self) -> Path:
        return self._imported("lfw-expressions", "lfw-expressions")

    @cached_property
    def holdout(self):
        return open_faces(self.labelled, "test")

    @cached_property
    def targets(self) -> dict:
        """Name to unlabelled faces; labels only build the capped set, and are dropped then."""
        natural, capped = self.home / "faces" / "natural", self.home / "faces" / "capped"
        if not (natural / "faces.json").exists():
            drop_labels(self.labelled, natural)
        if not (capped / "faces.json").exists():
            faces, rng = open_faces(self.labelled, "train"), np.random.default_rng(0)
            chosen = [rng.permutation(np.flatnonzero(faces.labels == c))[:CAP] for c in range(len(faces.classes))]
            rows = np.sort(np.concatenate(chosen))
            records = [FaceRecord(faces.image(int(at)), faces.keys[int(at)], int(faces.labels[at])) for at in rows]
            write_faces(capped.with_name("capped-labelled"), {"train": records}, classes=faces.classes, overwrite=True)
            drop_labels(capped.with_name("capped-labelled"), capped)
        return {"capped": open_unlabelled(capped, "train"), "natural": open_unlabelled(natural, "train")}

    def _imported(self, folder: str, name: str, **settings: str) -> Path:
        path = self.home / "faces" / name
        if not (path / "faces.json").exists():
            import_faces(self.data / folder, path, **settings)
        return path

    @cached_property
    def foreign(self):
        """The ONNX source: the file, copied beside a sidecar unless it has one."""
        given = self.given.onnx
        if not given.with_name(given.name + ".json").exists():
            given = self.home / "onnx" / given.name
            given.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.given.onnx, given)
            write_json(given.with_name(given.name + ".json"), {**SIDECAR, "file": given.name})
        return load_source(given)

    def source(self, seed: int):
        """Returns Ferry's source model of a seed, trained once."""
        folder = self.home / f"source-{seed}-{self.given.epochs}"
        if not (folder / "model.json").exists():
            model = build_classifier(Architecture(), self.training.classes, seed=seed)
            config = SourceConfig(epochs=self.given.epochs, seed=seed)
            checkpoint = folder.with_suffix(".pt")
            train_supervised(model, self.training.pixels(48), self.training.labels, config, checkpoint=checkpoint)
            save_model(model.cpu().eval(), folder, method="supervised", lineage={"faces": self.training.digest})
        return load_source(folder)

    def encoder(self, setting: Setting, tag: str, seed: int):
        """Returns the first encoder of a setting: pretrained once, or random; None for the source's own."""
        if setting.backbone == "source":
            return None
        fresh = build_encoder(Architecture(), seed)
        if setting.backbone == "random":
            return fresh
        folder = self.home / f"{setting.backbone}-{setting.init}-{tag}-{seed}-{self.given.passes}"
        if not (folder / "model.json").exists():
            start = fresh if setting.init == "random" else copy.deepcopy(self.source(seed).classifier.encoder)
            pixels = self.targets[tag].pixels(48)
            epochs = max(round(self.given.passes / len(pixels)), 1)
            config = preset(METHODS[setting.backbone], "small", epochs=epochs, seed=seed)
            done = pretrain(start, pixels, config, classes=7, checkpoint=folder.with_suffix(".pt"))
            save_model(done.encoder, folder, method=config.method, lineage={})
        return load_encoder(folder)

    def scores(self, logits) -> dict:
        """Returns the metrics, and how far the predicted class shares are from the true ones."""
        labels, classes = self.holdout.labels, len(self.holdout.classes)
        counted = np.isin(labels, [self.holdout.classes.index(name) for name in SCORED])
        predicted = np.bincount(np.asarray(logits).argmax(1)[counted], minlength=classes) / counted.sum()
        true = np.bincount(labels[counted], minlength=classes) / counted.sum()
        return {**scores(logits, self.holdout, SCORED), "shift": float(np.abs(predicted - true).sum() / 2)}

    def run(self, seed: int) -> None:
        """Computes all rows of a seed."""
        for tag in self.targets:
            self._rows(tag, "Ferry", lambda: self.source(seed), seed, FERRY)
            if self.given.onnx:
                self._rows(tag, "ONNX", lambda: self.foreign, seed, FOREIGN)

    def _rows(self, tag: str, kind: str, source, seed: int, settings: list[Setting]) -> None:
        def add(name: str, make) -> None:
            key = [tag, kind, name, seed]
            if self.given.kept and not self.cells.has(key):
                return
            found = self.cells.get(key, make)
            self.results.setdefault((tag, kind, name), []).append(found)

        for name in ("source-only", "AdaBN") if kind == "Ferry" else ("source-only",):
            add(name, lambda name=name: self._baseline(source(), tag, name))
        for setting in settings:
            add(setting.name, lambda setting=setting: self._clup(source(), tag, setting, seed))

    def _baseline(self, source, tag: str, name: str) -> dict:
        model = teacher_of(source, self.targets[tag], "adabn" if name == "AdaBN" else "source")
        return self.scores(model.outputs(self.holdout.pixels(model.input_size, model.channels)).logits)

    def _clup(self, source, tag: str, setting: Setting, seed: int) -> dict:
        start = "adabn" if setting.backbone == "source" else "pretrained"
        return self.scores(
            adapt(
                source,
                self.targets[tag],
                self.holdout,
                teacher="adabn",
                labelling=LabellingConfig(score=setting.score, seed=seed),
                tuning=FinetuningConfig(start=start, steps=self.given.steps, seed=seed),
                encoder=self.encoder(setting, tag, seed),
            )
        )


def markdown(bench: Bench) -> str:
    given = bench.given
    options = f"--epochs {given.epochs} --passes {given.passes} --steps {given.steps}"
    lines = [
        "# CluP on real faces: FER2013 to LFW",
        "",
        f"Command: `python benchmarks/real_faces.py --data FOLDER --onnx FILE {options} "
        f"--seeds {' '.join(map(str, given.seeds))}`",
        "",
        f"Source: `resnet10` at 48 px, {given.epochs} epochs of FER2013, or the ONNX file. Pretraining: preset `small`, "
        f"{given.passes:,} images seen; fine-tuning: {given.steps} steps of 64 images. torch {torch.__version__}. "
        f"Seven classes are predicted; scored are the five that LFW has enough of, {len(bench.holdout):,} faces in all. "
        "Percent, mean and standard deviation over seeds. *Shift* is the distance between predicted and true class "
        "shares (half the sum of differences): what label shift does. Minutes are those of the row alone on one core; a "
        "pretraining is counted in the first row that uses it.",
    ]
    for tag, faces in bench.targets.items():
        what = f"at most {CAP} faces of each class" if tag == "capped" else "the natural class mix"
        lines += ["", f"## Target: {what} ({len(faces):,} faces)", "", "| source | row " + HEAD + " shift |"]
        lines.append("|---" * 8 + "|")
        for (of, kind, name), found in bench.results.items():
            if of == tag:
                shift = 100 * np.mean([cell["shift"] for cell in found])
                lines.append(f"| {kind} {row(name, found)} {shift:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--onnx", type=Path, default=None)
    parser.add_argument("--home", type=Path, default=Path(".ferry/real-faces"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/real_faces.md"))
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--passes", type=int, default=45_000)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kept", action="store_true", help="compute nothing: the table of what is kept so far")
    bench = Bench(parser.parse_args())
    for seed in bench.given.seeds:
        bench.run(seed)
    text = markdown(bench)
    write_text(bench.given.output, text)
    print(text)


if __name__ == "__main__":
    main()
