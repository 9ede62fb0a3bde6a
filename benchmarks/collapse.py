"""Which of the small preset's settings keep SwAV from collapsing: the four that differ from the published ones by kind.

Run: python benchmarks/collapse.py [--faces FOLDER --split train] [--steps 300] [--seeds 0] [--output benchmarks/collapse.md]

Each of the four alone goes back to its published value, and all four but one. Without ``--faces`` it renders line
drawings. A run that the watch stops is a collapsed one.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ferry.common.errors import TrainingDiverged
from ferry.faces import open_unlabelled, render_faces
from ferry.networks import Architecture, build_encoder
from ferry.pretraining import make_method, preset, resolve
from ferry.training import train
from machine import cpu_name

SIZE, CLASSES = 24, 7
PUBLISHED: dict[str, object] = {
    "freeze_prototypes_steps": 0,
    "epsilon": 0.05,
    "normalise_output": False,
    "views": "published",
}
WORDS = {
    "freeze_prototypes_steps": ("prototypes that learn", "frozen prototypes"),
    "epsilon": ("epsilon 0.05", "epsilon 0.03"),
    "normalise_output": ("a plain projector output", "a normalised projector output"),
    "views": ("published crops", "soft crops"),
}
ROWS: dict[str, dict[str, object]] = {
    "small": {},
    **{f"small, but {WORDS[name][0]}": {name: value} for name, value in PUBLISHED.items()},
    "the four as published": PUBLISHED,
    **{
        f"the four as published, but {WORDS[name][1]}": {key: value for key, value in PUBLISHED.items() if key != name}
        for name in PUBLISHED
    },
}


class Last:
    """Keeps the last numbers of a training, also of one that is stopped."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def metrics(self, values: dict[str, float], step: int) -> None:
        if "loss" in values and "max_code" in values:
            self.values = {**values, "step": step}

    def parameters(self, values: object) -> None:
        pass

    def flush(self) -> None:
        pass


def run(pixels: np.ndarray, seed: int, steps: int, changes: dict[str, object]) -> str:
    """Pretrains from random weights and returns the row of the table."""
    config = preset("swav", "small", batch_size=128, seed=seed, precision="fp32", **changes)
    epochs = math.ceil(steps / (len(pixels) // config.batch_size))
    config, _ = resolve(replace(config, epochs=epochs), len(pixels), CLASSES)
    encoder = build_encoder(Architecture(name="resnet10", width=16, channels=1, input_size=SIZE), seed)
    method, last, began = make_method(encoder, config, len(pixels), SIZE), Last(), time.process_time()
    try:
        train(method, pixels, config.loop(), tracker=last, name="pretraining")  # type: ignore[arg-type]
        end = f"{steps} steps"
    except TrainingDiverged as error:
        cause = "embeddings" if "almost the same" in str(error) else "prototypes" if "merged" in str(error) else "codes"
        end = f"**stopped** after {last.values['step']:.0f}: {cause}"
    k, seen = config.prototypes, last.values
    print(f"{changes}: {end}, {time.process_time() - began:.0f} CPU s, {seen}", flush=True)
    return (
        f"{end} | {seen['loss'] - math.log(k):+.2f} | {seen['max_code'] * k:.1f} | {seen['perplexity'] / k:.2f} | "
        f"{seen['rank']:.0f} | {seen['spread']:.2f} | {seen['prototype_spread']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, help="an unlabelled Faces folder; without it line drawings are rendered")
    parser.add_argument("--split", default="train")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, help="also write the Markdown to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        faces = arguments.faces
        if faces is None:
            faces = Path(folder) / "faces"
            render_faces(faces, 6000, "line", 1, size=SIZE, splits={"train": 1.0}, labels=False)
        opened = open_unlabelled(faces, arguments.split)
        pixels = np.array(opened.pixels(SIZE, 1, cache=Path(folder)))
    name = "rendered line drawings" if arguments.faces is None else f"faces of {arguments.faces.name}"
    k = resolve(preset("swav", "small"), len(pixels), CLASSES)[0].prototypes
    lines = [
        "# What keeps SwAV from collapsing on small sets",
        "",
        f"{cpu_name()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}. {len(pixels):,} {name}, {SIZE} px, "
        f"batch 128, K = {k}, ResNet-10 of width 16 from random weights, at least {arguments.steps} steps.",
        "A healthy run leaves ln K and has a largest code far above 1/K; 1 is the best value of the last three columns.",
        "",
        "| settings | seed | end | loss - ln K | largest code x K | perplexity / K | rank | spread | prototype spread |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row, changes in ROWS.items():
        for seed in arguments.seeds:
            lines.append(f"| {row} | {seed} | {run(pixels, seed, arguments.steps, changes)} |")
            if arguments.output:  # after every run, for one that is interrupted
                arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
