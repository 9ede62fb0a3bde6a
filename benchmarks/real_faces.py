"""CluP on real faces: FER2013 to LFW, with a source trained by Ferry and with a third-party ONNX model.

    python benchmarks/real_faces.py --data FOLDER --output benchmarks/real_faces.md

FOLDER holds ``fer2013/{train,test}/<class>/``, ``lfw-expressions/{train,test}/<class>/`` and, for the second part,
``models/fer2013_minixception102.onnx``. Nothing is tuned on the test split: every row uses the same rules and the last
iterate. No picture enters the table. Each cell is kept in ``--home`` as it is done, so an interrupted call goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ferry.adaptation import FinetuningConfig, adabn, fine_tune, start_network
from ferry.common.files import digest_of, write_json, write_text
from ferry.evaluation import classification_metrics
from ferry.faces import drop_labels, import_faces, open_faces, open_unlabelled, write_faces
from ferry.faces.schema import FaceRecord
from ferry.labelling import LabellingConfig, pseudo_labels
from ferry.networks import Architecture, build_classifier, build_encoder, load_classifier, load_source, save_model
from ferry.pretraining import preset, pretrain
from ferry.source import SourceConfig, train_supervised

SCORED = ("anger", "happiness", "neutral", "sadness", "surprise")
CAP = 300


@dataclass(frozen=True)
class Setting:
    """One row of the table: where the encoder comes from and how labels are ranked."""

    backbone: str
    score: str
    teacher: str

    @property
    def name(self) -> str:
        return f"CluP {self.backbone} / {self.score}"


BACKBONES = ("SwAV", "DeepClusterV2", "source", "random")
SETTINGS = [Setting(backbone, score, "adabn") for backbone in BACKBONES for score in ("purity", "confidence")]


class Bench:
    """Cells that are computed once and kept."""

    def __init__(self, home: Path, epochs: int, pretraining_epochs: int, steps: int) -> None:
        self.home, self.epochs, self.pretraining_epochs, self.steps = home, epochs, pretraining_epochs, steps
        home.mkdir(parents=True, exist_ok=True)

    def cell(self, key: list, make) -> dict:
        """Returns the kept result of a cell, or makes it and keeps it with its seconds."""
        path = self.home / "cells" / f"{digest_of([*key, self.epochs, self.pretraining_epochs, self.steps])[:16]}.json"
        if not path.exists():
            began = time.time()
            result = make()
            write_json(path, {"key": key, "seconds": round(time.time() - began, 1), **result})
            print(*key, json.dumps(result), flush=True)
        return json.loads(path.read_text())

    def source(self, faces, seed: int):
        """Returns the source model of a seed, trained once."""
        folder = self.home / f"source-{seed}-{self.epochs}"
        if not folder.exists():
            model = build_classifier(Architecture(), faces.classes, seed=seed)
            checkpoint = self.home / f"source-{seed}-{self.epochs}.pt"
            config = SourceConfig(epochs=self.epochs, seed=seed)
            train_supervised(model, faces.pixels(48), faces.labels, config, checkpoint=checkpoint)
            save_model(model.cpu().eval(), folder, method="supervised", lineage={"faces": faces.digest})
        return load_classifier(folder)

    def encoder(self, pixels, name: str, tag: str, seed: int):
        """Returns a pretrained or random encoder."""
        encoder = build_encoder(Architecture(), seed)
        if name == "random":
            return encoder
        method = {"SwAV": "swav", "DeepClusterV2": "deepcluster"}[name]
        config = preset(method, "small", epochs=self.pretraining_epochs, seed=seed)
        checkpoint = self.home / f"{method}-{tag}-{seed}-{self.pretraining_epochs}.pt"
        return pretrain(encoder, pixels, config, classes=7, checkpoint=checkpoint).encoder


def scores(outputs, labels, classes) -> dict:
    found = classification_metrics(outputs.logits, labels, classes, from_logits=True, scored_classes=SCORED)
    values = found.to_json()
    return {name: values[name] for name in ("accuracy", "mean_class_accuracy", "min_class_accuracy")}


def capped(faces, output: Path):
    """Writes the target with at most CAP faces of each class; labels only build the set and are dropped."""
    if not (output / "faces.json").exists():
        rng = np.random.default_rng(0)
        chosen = [rng.permutation(np.flatnonzero(faces.labels == c))[:CAP] for c in range(len(faces.classes))]
        rows = np.sort(np.concatenate(chosen))
        records = [FaceRecord(faces.image(int(row)), faces.keys[int(row)], int(faces.labels[row])) for row in rows]
        write_faces(
            output.with_name(output.name + "-labelled"), {"train": records}, classes=faces.classes, overwrite=True
        )
        drop_labels(output.with_name(output.name + "-labelled"), output)
    return open_unlabelled(output)


def adapt(bench: Bench, source, target, tag: str, holdout, setting: Setting, seed: int) -> dict:
    pixels = target.pixels(48)
    classifier = source.classifier
    teacher = source
    if classifier is not None and setting.teacher == "adabn":
        teacher = type(source)(adabn(classifier, pixels))
    outputs = teacher.outputs(target.pixels(teacher.input_size))
    config = LabellingConfig(score=setting.score, seed=seed)
    labels = pseudo_labels(outputs.logits.numpy(), outputs.features.numpy(), target.keys, source.classes, config)
    start = "adabn" if setting.backbone == "source" else "pretrained"
    encoder = None if start == "adabn" else bench.encoder(pixels, setting.backbone, tag, seed)
    tuning = FinetuningConfig(start=start, steps=bench.steps, seed=seed)
    network = start_network(tuning, source=classifier, encoder=encoder, target=pixels, classes=source.classes)
    kept = labels.columns.kept
    fine_tune(network, np.ascontiguousarray(pixels[kept]), labels.columns.label[kept], tuning)
    from ferry.networks import inference

    return scores(inference(network, holdout.pixels(48)), holdout.labels, holdout.classes)


def import_all(data: Path, home: Path) -> tuple:
    faces = home / "faces"
    wanted = {"fer2013": {"overlap": "drop_from_train"}, "lfw-expressions": {}}
    for name, settings in wanted.items():
        if not (faces / name / "faces.json").exists():
            import_faces(data / name, faces / name, **settings)
    if not (faces / "natural" / "faces.json").exists():
        import_faces(data / "lfw-expressions", faces / "natural", take="train", labels="drop")
    target = open_faces(faces / "lfw-expressions", "train")
    targets = {"natural": open_unlabelled(faces / "natural"), "capped": capped(target, faces / "capped")}
    return open_faces(faces / "fer2013", "train"), targets, open_faces(faces / "lfw-expressions", "test")


def rows(bench: Bench, data: Path, seeds: list[int], onnx: Path | None) -> list[tuple]:
    training, targets, holdout = import_all(data, bench.home)
    table: list[tuple] = []
    for tag, target in targets.items():
        cells: dict[str, list[dict]] = {}

        def add(name: str, key: list, make, cells=cells) -> None:
            cells.setdefault(name, []).append(bench.cell(key, make))

        for seed in seeds:
            source = None

            def trained(seed=seed):
                nonlocal source
                if source is None:
                    bench.source(training, seed)
                    source = load_source(bench.home / f"source-{seed}-{bench.epochs}")
                return source

            def baseline(how: str, target=target, trained=trained) -> dict:
                model = trained()
                if how == "adabn":
                    model = type(model)(adabn(model.classifier, target.pixels(48)))
                return scores(model.outputs(holdout.pixels(48)), holdout.labels, holdout.classes)

            add("source-only", [tag, "source", seed], lambda: baseline("source"))
            add("AdaBN", [tag, "adabn", seed], lambda: baseline("adabn"))
            for setting in SETTINGS:
                key = [tag, setting.name, seed]
                add(setting.name, key, lambda s=setting: adapt(bench, trained(), target, tag, holdout, s, seed))
        table += [(tag, "Ferry", name, found) for name, found in cells.items()]
        if onnx is not None and onnx.exists():
            foreign = load_source(onnx)
            cells = {}
            for seed in seeds:
                add(
                    "source-only",
                    [tag, "onnx", seed],
                    lambda: scores(
                        foreign.outputs(holdout.pixels(foreign.input_size)), holdout.labels, holdout.classes
                    ),
                    cells,
                )
                for setting in SETTINGS:
                    if setting.backbone != "source":
                        key = [tag, "onnx " + setting.name, seed]
                        add(
                            setting.name,
                            key,
                            lambda s=setting: adapt(bench, foreign, target, tag, holdout, s, seed),
                            cells,
                        )
            table += [(tag, "ONNX", name, found) for name, found in cells.items()]
    return table


def markdown(table: list[tuple], arguments: argparse.Namespace) -> str:
    lines = [
        "# CluP on real faces: FER2013 to LFW",
        "",
        f"Command: `python benchmarks/real_faces.py --data FOLDER --epochs {arguments.epochs} --pretraining-epochs "
        f"{arguments.pretraining_epochs} --steps {arguments.steps} --seeds {' '.join(map(str, arguments.seeds))}`",
        "",
        f"torch {torch.__version__}, {torch.get_num_threads()} threads. Accuracy among seven classes, scored on the five "
        "that LFW has enough of; mean and standard deviation over seeds, in percent.",
        "",
        "| target | source | row | accuracy | mean-class | worst class | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for tag, source, name, found in table:
        cells = []
        for metric in ("accuracy", "mean_class_accuracy", "min_class_accuracy"):
            values = 100 * np.array([cell[metric] for cell in found])
            cells.append(f"{values.mean():.1f} ± {values.std():.1f}")
        minutes = np.mean([cell["seconds"] for cell in found]) / 60
        lines.append(f"| {tag} | {source} | {name} | {' | '.join(cells)} | {minutes:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--home", type=Path, default=Path(".ferry/real-faces"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/real_faces.md"))
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--pretraining-epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--onnx", type=Path, default=None)
    arguments = parser.parse_args()
    bench = Bench(arguments.home, arguments.epochs, arguments.pretraining_epochs, arguments.steps)
    table = rows(bench, arguments.data, arguments.seeds, arguments.onnx)
    text = markdown(table, arguments)
    write_text(arguments.output, text)
    print(text)


if __name__ == "__main__":
    main()
