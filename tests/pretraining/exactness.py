"""Kills, resumes and distributes trainings of Ferry's methods. Run as a script it prints one JSON object.

``exactness.py drill NAME=STEP...`` kills the named trainings in a step and lets them go on;
``exactness.py team NAME...`` trains them in one process and in two;
``exactness.py codes FILE`` computes Sinkhorn codes in two;
``exactness.py clusters`` starts epochs of DeepClusterV2 in two whose own clusters would differ.
"""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from ferry.adaptation.config import FinetuningConfig
from ferry.common.errors import FerryError, UserError
from ferry.networks import Architecture, build_classifier, build_encoder
from ferry.pretraining import PretrainingConfig, deepcluster, make_method
from ferry.pretraining.sinkhorn import _log_sum_exp, sinkhorn
from ferry.training import LoopConfig, distributed, make_context, train
from ferry.training.supervised import Supervised
from ferry.training.views import finetune

toy = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "training" / "toy.py")))

ARCHITECTURE = Architecture(name="resnet10", width=4, input_size=16)
COMMON = {"epochs": 2, "batch_size": 16, "prototypes": 8, "projector_hidden": 16, "projector_output": 16}
PRETRAINING = {
    "swav": {"queue": 32, "queue_start_steps": 1, "freeze_prototypes_steps": 3, "crops": (2, 1)},
    "deepcluster": {"method": "deepcluster", "crops": (2, 1), "heads": 2},
}


def faces(count):
    """Smooth pictures of four kinds, so that clusters are no matter of rounding."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:16, 0:16] / 15.0
    kinds = np.stack([x, y, np.abs(2 * x - 1), 1 - np.abs(2 * y - 1)])
    pictures = 30 + 190 * kinds[np.arange(count) % 4] * generator.uniform(0.7, 1.0, (count, 1, 1))
    return (pictures + generator.normal(0, 4, pictures.shape)).clip(0, 255).astype(np.uint8)[:, None]


def made(name, learning_rate):
    """Returns method, images and loop of one of the trainings."""
    if name == "finetuning":
        pixels = faces(50)  # the last batch has two images
        network = build_classifier(ARCHITECTURE, ("a", "b", "c", "d"), seed=1)
        labels = torch.arange(50) % 4
        norm = network.normalisation
        method = Supervised(network, labels, norm.mean, norm.std, finetune(16), mixup=0.4, label_smoothing=0.1)
        config = FinetuningConfig(epochs=2, batch_size=16, learning_rate=learning_rate)
        loop = LoopConfig(epochs=2, batch_size=16, learning_rate=learning_rate, nesterov=True, seed=config.seed)
        return method, pixels, loop
    config = PretrainingConfig(**COMMON, **PRETRAINING[name], learning_rate=learning_rate)
    pixels = faces(72)
    return make_method(build_encoder(ARCHITECTURE, 1), config, 72, 16), pixels, config.loop()


def once(name, checkpoint=None, crash=None, learning_rate=0.05, tensors=False):
    method, pixels, loop = made(name, learning_rate)
    loop = dataclasses.replace(loop, precision="fp32", checkpoint_seconds=0.0, log_every_steps=1, final_learning_rate=0)
    inner = method.step

    def step(batch):
        scalars = inner(batch)
        if batch.step == crash:
            os.kill(os.getpid(), signal.SIGKILL)
        return scalars

    method.step = step
    result = train(method, pixels, loop, checkpoint=checkpoint)
    answer = toy.outcome(method, result)
    return {**answer, "tensors": toy.tensors(method)} if tensors else answer


def drill(cases, folder):
    answers = {name: toy.fork(lambda n=name: once(n)) for name in sorted({case.split("=")[0] for case in cases})}
    for case in cases:
        name, step = case.split("=")
        path = folder / f"{case}.pt"
        killed = toy.fork(lambda n=name, p=path, s=int(step): once(n, p, crash=s))
        answers[case] = {"killed": killed, "resumed": toy.fork(lambda n=name, p=path: once(n, p))}
    return answers


def team(names):
    answers = {}
    for name in names:
        # Steps make rounding grow; DeepClusterV2's have to be small, or an image between two clusters changes sides.
        rate = 0.001 if name == "deepcluster" else 0.01
        work = lambda rank=0, n=name, r=rate: once(n, learning_rate=r, tensors=True)  # noqa: E731
        answers[name] = {"one": toy.fork(work), "many": toy.team(2, work)}
    return answers


def codes(given, rank):
    """Codes of problems of which this process has some rows, and the logarithm of a sum over both processes."""
    distributed.start(torch.device("cpu"))

    def total(tensor):
        torch.distributed.all_reduce(tensor)
        return tensor

    found = {"sums": _log_sum_exp(torch.tensor(given["sums"][rank], dtype=torch.float64), total).tolist()}
    for name, parts in given["scores"].items():
        try:
            found[name] = sinkhorn(torch.tensor(parts[rank]), 0.05, 3, total).tolist()
        except UserError:
            found[name] = "refused"
    return found


def clusters(rank):
    """State after the start of an epoch, and how one ends in which process 0 cannot cluster."""
    distributed.start(torch.device("cpu"))
    method, pixels, loop = made("deepcluster", 0.05)
    kmeans = deepcluster.kmeans
    deepcluster.kmeans = lambda rows, count, seed, **named: kmeans(rows, count, seed=seed + rank, **named)
    context = make_context(pixels, loop)
    method.start_epoch(0, context)
    state = toy.tensors(method)
    if rank == 0:
        method.bank.fill_(torch.nan)
    try:
        method.start_epoch(1, context)
    except FerryError as error:
        return {"state": state, "error": [type(error).__name__, str(error)]}
    return {"state": state, "error": None}


def main():
    command, names = sys.argv[1], sys.argv[2:]
    torch.set_num_threads(1)
    if command == "codes":
        given = json.loads(Path(names[0]).read_text())
        return toy.team(2, lambda rank: codes(given, rank))
    if command == "clusters":
        return toy.team(2, clusters)
    with tempfile.TemporaryDirectory() as place:
        return drill(names, Path(place)) if command == "drill" else team(names)


if __name__ == "__main__":
    print(json.dumps(main()))
