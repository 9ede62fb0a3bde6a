"""A small method with every kind of state, and a driver that kills, resumes and distributes its training.

Run as a script it prints one JSON object. Children are forked, so that torch is imported once; each is a process of
its own and can be killed for good.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from ferry.training import LoopConfig, Method, all_gather_rows, all_reduce_sum, train
from ferry.training.history import TIMES
from torch import nn
from torch.nn import functional

IMAGES, CLASSES = 50, 3


def toy_pixels(images=IMAGES, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (images, 1, 8, 8), dtype=np.uint8)


class Toy(Method):
    """Convolution, batch norm, dropout, a queue, a memory bank, a moving-average teacher, labels that change."""

    def __init__(self, images=IMAGES, dropout=0.2, batch_norm=True, global_term=False, crash=None):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.net = nn.Sequential(
                nn.Conv2d(1, 6, 3, padding=1),
                nn.BatchNorm2d(6) if batch_norm else nn.Identity(),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Dropout(dropout),
                nn.Linear(24, 8),
                nn.BatchNorm1d(8) if batch_norm else nn.Identity(),
            )
            self.head = nn.Linear(8, CLASSES, bias=False)
            self.never_used = nn.Linear(2, 2)
            self.register_buffer("teacher", self.head.weight.detach().clone())
        self.register_buffer("queue", torch.zeros(20, 8))
        self.register_buffer("bank", torch.zeros(images, 8))
        self.register_buffer("labels", torch.zeros(images, dtype=torch.long))
        self.global_term, self.crash = global_term, crash

    def describe(self):
        return {"global_term": self.global_term}

    def start_epoch(self, epoch, context):
        self._maybe_crash("start", epoch)
        self.eval()
        scores = torch.cat([self._scores(pixels) for _, pixels in context.batches(16)])
        noise = torch.rand(scores.shape, generator=context.generator)
        self.labels.copy_((scores + noise).argmax(1))
        self.train()

    def _features(self, pixels):
        return self.net(pixels.to(self.head.weight.dtype) / 255 - 0.5)

    def _scores(self, pixels):
        return self.head(self._features(pixels))

    def step(self, batch):
        self._maybe_crash("step", batch.step)
        images = batch.pixels.to(self.head.weight.dtype) / 255 - 0.5
        noise = torch.randn(len(batch.global_indices), 1, 8, 8, generator=batch.generator)
        features = self.net(images + 0.1 * noise[batch.slice])
        with torch.autocast("cpu", enabled=False):
            features = features.to(self.head.weight.dtype)
            logits = self.head(features)
            loss = functional.cross_entropy(logits, self.labels[batch.indices])
            loss = loss + 0.1 * (logits - features @ self.teacher.T).square().mean()
            if self.global_term:  # uses the mean over the rows of all processes, as information maximisation does
                probabilities = all_reduce_sum(logits.softmax(1).sum(0)) / len(batch.part_indices)
                loss = loss + (probabilities * (probabilities + 1e-5).log()).sum()
        rows = all_gather_rows(features.detach())
        self.bank[batch.part_indices] = rows
        self.queue.copy_(torch.cat([rows, self.queue])[: len(self.queue)])
        return {"loss": loss, "norm": features.detach().norm(dim=1).mean()}

    def after_step(self, batch):
        self._maybe_crash("after", batch.step)
        self.teacher.lerp_(self.head.weight, 0.1)

    def end_epoch(self, epoch, context):
        return {"spread": float(self.bank.std()) + float(torch.rand((), generator=context.generator))}

    def _maybe_crash(self, place, number):
        if self.crash == (place, number):
            os.kill(os.getpid(), signal.SIGKILL)


def settings(**changes):
    values = {
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "precision": "fp32",
        "checkpoint_seconds": 0.0,
        "log_every_steps": 3,
        "seed": 7,
    }
    return LoopConfig(**{**values, **changes})


def bytes_of(module):
    """SHA-256 over names, types, shapes and bytes of a state_dict."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def timeless(history):
    return [{name: value for name, value in record.items() if name not in TIMES} for record in history]


def outcome(method, result):
    return {
        "state": bytes_of(method),
        "history": timeless(result.history),
        "resumed_from": result.resumed_from,
        "steps": result.steps,
    }


def once(checkpoint, crash=None, **changes):
    method = Toy(crash=crash)
    return outcome(method, train(method, toy_pixels(), settings(**changes), checkpoint=checkpoint))


def _spawn(work, environment=None):
    """Starts `work` in a process of its own; returns the pipe that it answers on and its number."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.environ.update({name: str(value) for name, value in (environment or {}).items()})
        try:
            answer = {"value": work()}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        with os.fdopen(write, "w") as pipe:
            pipe.write(json.dumps(answer))
        os._exit(0)
    os.close(write)
    return read, child


def _answer(read, child):
    """Waits for a process; returns what `work` returned or raised, and the signal that killed it."""
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return {**(json.loads(text) if text else {}), "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0}


def fork(work):
    return _answer(*_spawn(work))


def crash_while_writing(moment, number):
    """Makes this process kill itself at a moment of its checkpoint number `number` (from 1)."""
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    counts = {"link": 0, "replace": 0, "write": 0}
    real_link, real_replace, real_fsync = os.link, os.replace, os.fsync

    def link(*names):
        counts["link"] += 1
        real_link(*names)
        if moment == "linked" and counts["link"] == number - 1:  # the first checkpoint has none before it
            die()

    def replace(source, target):
        final = str(target).endswith(".pt")
        counts["replace"] += final
        if moment == "before_rename" and final and counts["replace"] == number:
            die()
        real_replace(source, target)
        if moment == "after_rename" and final and counts["replace"] == number:
            die()

    def fsync(handle):
        counts["write"] += 1
        if moment == "half_written" and counts["replace"] == number - 1:
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            die()
        real_fsync(handle)

    os.link, os.replace, os.fsync = link, replace, fsync


def drill(folder, names):
    """Kills trainings in the places that `names` has and lets them go on."""
    results = {"uninterrupted": fork(lambda: once(None))}
    total = results["uninterrupted"]["value"]["steps"]
    for name in names:
        path = folder / f"{name}.pt"
        place, _, number = name.partition(" ")
        if name == "every step":
            killed = [fork(lambda p=path, n=step: once(p, ("step", n)))["signal"] for step in range(total)]
            results[name] = {"killed": killed, **fork(lambda p=path: once(p))}
        elif number:
            crash = (place, int(number))
            results[name] = _kill_and_resume(path, lambda p=path, c=crash: once(p, c))
        elif name in ("adamw", "lars"):
            results[f"{name} whole"] = fork(lambda o=name: once(None, optimiser=o))
            work = lambda p=path, o=name: once(p, ("step", 6), optimiser=o)  # noqa: E731
            results[f"{name} killed"] = _kill_and_resume(path, work, optimiser=name)
        elif name == "outside":
            results["outside whole"] = fork(lambda: once(None, epochs=60))
            results[name] = _killed_from_outside(path, lambda p=path: once(p, epochs=60))
        else:
            results[name] = _kill_and_resume(path, lambda p=path, m=name: _once_with_crash(p, m))
    return results


def _once_with_crash(path, moment):
    crash_while_writing(moment, 6)
    return once(path)


def _killed_from_outside(path, work):
    """Kills a long training at random moments until it has been killed four times or ends."""
    changed = lambda: path.stat().st_mtime_ns if path.exists() else 0  # noqa: E731
    dice, killed = random.Random(0), []
    while len(killed) < 4:
        before = changed()
        read, child = _spawn(work)
        while changed() == before and not select.select([read], [], [], 0.002)[0]:
            pass
        time.sleep(dice.uniform(0.0, 0.3))
        os.kill(child, signal.SIGKILL)
        answer = _answer(read, child)
        if not answer["signal"]:
            return {"killed": killed, **answer}
        killed.append(answer["signal"])
    return {"killed": killed, **fork(work)}


def _kill_and_resume(path, work, **changes):
    first = fork(work)
    return {"killed": [first["signal"]], "first": first.get("error"), **fork(lambda: once(path, **changes))}


def team(processes, work):
    """Runs `work(rank)` in a process group of forked processes; returns their answers in order of rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [_spawn(lambda r=rank: work(r), {**group, "RANK": rank, "LOCAL_RANK": rank}) for rank in range(processes)]
    return [_answer(*one) for one in started]


def tensors(module):
    return {name: tensor.double().flatten().tolist() for name, tensor in module.state_dict().items()}


def trained(images=IMAGES, checkpoint=None, method=None, double=True, **changes):
    method = Toy(images, dropout=0.0, global_term=True) if method is None else method
    method = method.double() if double else method  # so that what is left is not rounding
    config = settings(**{"checkpoint_seconds": 60.0, **changes})
    result = train(method, toy_pixels(images), config, checkpoint=checkpoint)
    kinds = sorted({type(part).__name__ for part in method.modules() if "Norm" in type(part).__name__})
    return {"state": tensors(method), "history": timeless(result.history), "kinds": kinds, "from": result.resumed_from}


TEAMS = {
    "two": (2, {}),
    "two, single precision": (2, {"double": False}),
    "three, uneven": (3, {"images": 33, "epochs": 2}),  # the last batch has one image and joins the one before
    "three, one without rows": (3, {"images": 34, "epochs": 2}),  # the last batch has two images
    "two, in parts": (2, {"accumulate": 2}),
    "two, lars": (2, {"optimiser": "lars"}),
}


def at_once(folder, names):
    """The distributed comparisons that `names` has."""
    results = {}
    for name in names:
        if name in TEAMS:
            processes, changes = TEAMS[name]
            one = fork(lambda c=changes: trained(**c))
            results[name] = {"one": one, "many": team(processes, lambda rank, c=changes: trained(**c))}
        elif name in ("helpers", "diverged"):
            results[name] = team(3, helpers) if name == "helpers" else team(2, diverging)
        else:
            work = {"stopped": _stopped, "spread": _spread, "broken": _broken, "apart": _apart, "seldom": _seldom}
            work["hashed"] = _hashed
            results[name] = work[name](folder)
    return results


def _stopped(folder):
    """Two processes are stopped, one goes on."""
    path = folder / "shared.pt"
    stopped = team(2, lambda rank: stopping(path, rank))
    return {"first": stopped, "then": fork(lambda: trained(checkpoint=path))}


def _spread(folder):
    """One process is stopped, two go on, of which the second does not see the file."""
    path = folder / "again.pt"
    stopped = fork(lambda: stopping(path, 1))
    hidden = folder / "elsewhere" / "again.pt"
    return {"first": stopped, "then": team(2, lambda rank: trained(checkpoint=hidden if rank else path))}


def _apart(folder):
    """Two processes start with different weights and buffers; both once more when the training is finished."""
    path = folder / "apart.pt"
    many = team(2, lambda rank: trained(checkpoint=path, method=apart(rank)))
    return {
        "one": fork(trained),
        "many": many,
        "then": team(2, lambda rank: trained(checkpoint=path, method=apart(rank))),
    }


def _hashed(folder):
    """Two processes train with a checkpoint and count how often they read all pixels for its identity."""
    return team(2, lambda rank: _hashes(folder / "hashed.pt"))


def _hashes(path):
    from ferry.training import resume

    digest, calls = resume.digest_of_pixels, []
    resume.digest_of_pixels = lambda pixels: calls.append(pixels.shape) or digest(pixels)
    first, again = (trained(checkpoint=path, epochs=1) for _ in range(2))
    return {"calls": len(calls), "from": [first["from"], again["from"]], "same": first["state"] == again["state"]}


def apart(rank):
    method = Toy(dropout=0.0, global_term=True)
    with torch.no_grad():
        for tensor in [*method.parameters(), *method.buffers()]:
            tensor += rank
    return method


def _seldom(folder):
    return {"one": fork(lambda: trained(method=Seldom())), "many": team(2, lambda rank: trained(method=Seldom()))}


class Seldom(Toy):
    """Uses a layer for the first five images only: often one process has a gradient for it and the other has none."""

    def __init__(self):
        super().__init__(dropout=0.0, global_term=True)

    def step(self, batch):
        scalars = super().step(batch)
        chosen = batch.indices < 5
        if chosen.any():
            pixels = batch.pixels[chosen].flatten(1)[:, :2].to(self.head.weight.dtype) / 255
            scalars["loss"] = scalars["loss"] + self.never_used(pixels).square().sum() / len(batch)
        return scalars


def _broken(folder):
    path = folder / "broken.pt"
    path.write_bytes(b"not a checkpoint")
    return team(2, lambda rank: trained(checkpoint=path))


class Stopping(Toy):
    """Gets SIGTERM in its fifth step, in one process only."""

    def __init__(self, receives):
        super().__init__(dropout=0.0, global_term=True)
        self.receives = receives

    def step(self, batch):
        if self.receives and batch.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(batch)


def stopping(path, rank):
    """Trains until process 1 is asked to stop; returns the error's name, text and exit code."""
    method = Stopping(receives=rank == 1)
    method.__class__.__name__ = "Toy"  # the checkpoint belongs to a method of that name
    try:
        trained(checkpoint=path, method=method)
    except Exception as error:
        return {"kind": type(error).__name__, "text": str(error), "code": getattr(error, "exit_code", None)}
    return {"kind": "none"}


class Diverging(Toy):
    """Its loss becomes NaN in step 3 in process 1."""

    def step(self, batch):
        scalars = super().step(batch)
        if batch.step == 3 and os.environ["RANK"] == "1":
            scalars["loss"] = scalars["loss"] * float("nan")
        return scalars


def diverging(rank):
    from ferry.common.errors import TrainingDiverged

    method = Diverging()
    try:
        trained(method=method)
    except TrainingDiverged as error:
        return {"text": str(error), "finite": all(bool(one.isfinite().all()) for one in method.parameters())}
    return {"text": ""}


def helpers(rank):
    """Values and gradients of the collectives; process 1 has no rows."""
    from ferry.training import distributed

    distributed.start(torch.device("cpu"))
    rows = torch.arange(6.0).view(3, 2)[: [2, 0, 1][rank]] + 10 * rank
    rows.requires_grad_()
    gathered = all_gather_rows(rows)
    weight = torch.arange(1.0, 1 + gathered.numel()).view_as(gathered) * (rank + 1)
    (gathered * weight).sum().backward()
    number = torch.tensor(float(rank + 1), requires_grad=True)
    total = all_reduce_sum(number)
    (total * 10.0**rank).backward()
    integers = all_gather_rows(torch.full((rank,), rank))
    return {
        "gathered": gathered.tolist(),
        "gradient": rows.grad.tolist(),
        "sum": total.item(),
        "sum_gradient": float(number.grad),
        "integers": integers.tolist(),
        "truth": all_gather_rows(torch.tensor([rank == 1])).tolist(),
        "bytes": distributed.broadcast_bytes(b"abc" if rank == 0 else b"", torch.device("cpu")).decode(),
    }


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        if sys.argv[1] == "drill":
            answer = drill(Path(name), sys.argv[2:])
        elif sys.argv[1] == "distributed":
            answer = at_once(Path(name), sys.argv[2:])
        elif sys.argv[1] == "killed":  # leaves the checkpoint of a training killed after a step
            answer = fork(lambda: once(Path(sys.argv[2]), ("step", int(sys.argv[3]))))
        else:  # under torchrun; processes share standard output
            answer = trained()
            if os.environ.get("RANK", "0") != "0":
                return
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
