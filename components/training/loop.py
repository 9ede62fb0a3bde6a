"""The one training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..common.errors import Interrupted, TrainingDiverged, expected
from ..common.progress import Progress, progress
from . import distributed
from .batches import Pixels, Sampler
from .checkpoint import Checkpoint
from .config import LoopConfig
from .devices import check_precision, precision_rule, resolve_device
from .engine import Engine, Outcome
from .estimate import WORTH_SAYING_SECONDS, Estimate, Stopwatch
from .history import History
from .interruption import Interruption
from .measuring import fastest_precision
from .method import Method
from .resume import fingerprint_of, identity_of, remember, resumed

if TYPE_CHECKING:
    from .tracking import Tracker

logger = logging.getLogger("ferry")


@dataclass(frozen=True)
class TrainResult:
    """What a training did.

    Attributes:
        history: JSON-able records in order. ``kind`` is ``step`` (means since the last such record, with ``step`` =
            steps done, ``epoch``, ``learning_rate``, ``images_per_second``) or ``epoch`` (means over the epoch, what
            the method's ``end_epoch`` returned, ``seconds``). In fp16 both have ``skipped``: the share of the steps
            that were skipped because a gradient was not finite.
        steps: Optimiser steps of the whole training.
        images: Images of the whole training, with repetition.
        seconds: Time, with that of interrupted calls.
        device: Where it ran, e.g. ``cpu``.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        resumed_from: The step at which this call went on, None if it began at the start.
        estimate: What was expected after the first steps, None for trainings of a few steps.
    """

    history: list[dict[str, Any]]
    steps: int
    images: int
    seconds: float
    device: str
    precision: str
    resumed_from: int | None = None
    estimate: Estimate | None = None


def train(
    method: Method,
    pixels: np.ndarray,
    config: LoopConfig,
    *,
    checkpoint: Path | str | None = None,
    tracker: Tracker | None = None,
    name: str = "training",
) -> TrainResult:
    """Trains a method.

    The method is trained in place and ends on the training device. With a checkpoint the same call goes on where an
    earlier one was stopped, and the end is that of a training without interruption, bit for bit on a CPU with the same
    number of threads; when the training was already finished, its end state is loaded and the call returns at once.
    Torch's global random state is as before when the call ends.

    Under torchrun every process makes the same call; together they train on each global batch. Only process 0 writes
    and shows anything.

    Args:
        method: What to train; its weights are the start, and a checkpoint belongs to them, too. One that an earlier
            call of the same training has left half trained, even by an error, goes on from the checkpoint.
        pixels: uint8 [N, C, H, W], usually a memory map.
        config: The settings.
        checkpoint: The file of the checkpoint; None for a training that cannot be resumed.
        tracker: Gets the history's numbers as they come.
        name: What is trained, as a noun phrase.

    Raises:
        UserError: Wrong input, or a checkpoint that is damaged or of another training.
        TrainingDiverged: The loss is not finite, in fp16 the gradient of many steps in a row is not, or the method saw
            a collapse. The last good checkpoint stays.
        Interrupted: By SIGTERM or Ctrl-C; the same call can go on.
        RetryableError: The disk is full; the same call can go on.
    """
    device = resolve_device(config.device)
    distributed.start(device)
    images = Pixels(pixels, device)
    sampler = Sampler(len(images), config.batch_size, config.seed, config.drop_last)
    _check_shares(config)
    file = None if checkpoint is None else Checkpoint(checkpoint)
    identity = {} if file is None else identity_of(method, pixels, config, name)
    first, kept = resumed(method, identity, file, device, name)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            precision = _precision(method, images, sampler, config, device, kept)
            engine = Engine(method, images, sampler, config, device, precision, name)
            try:
                if distributed.world_size() > 1:
                    distributed.convert_sync_batchnorm(method, device)
                    distributed.broadcast_module(method)
                return _Training(engine, file, identity, tracker, kept).run()
            finally:
                distributed.revert_sync_batchnorm(method)
    finally:
        remember(method, identity, file, first)
        if file is not None:
            file.settle()


def _check_shares(config: LoopConfig) -> None:
    parts = distributed.world_size() * config.accumulate
    if config.batch_size < parts:
        rule = f"at least {parts}: {distributed.world_size()} process(es) times accumulate={config.accumulate}"
        raise expected("batch_size", rule, config.batch_size, "Pass a larger batch_size or a smaller accumulate.")


def _precision(
    method: Method,
    images: Pixels,
    sampler: Sampler,
    config: LoopConfig,
    device: torch.device,
    kept: dict[str, Any] | None,
) -> str:
    """Returns the precision to train in; a training that goes on keeps the one that was chosen for it."""
    before = str(kept["precision"]) if kept is not None and kept["device"] == device.type else ""
    if config.precision == "measure" and not before:
        return fastest_precision(method, images, sampler, config, device)
    if config.precision in ("auto", "measure"):
        return before or precision_rule(device)
    if before and before != config.precision:
        logger.warning("precision: going on in %s, begun in %s", config.precision, before)
    return check_precision(config.precision, device)


class _Training:
    """The state of one call of :func:`train`."""

    def __init__(
        self,
        engine: Engine,
        file: Checkpoint | None,
        identity: dict[str, Any],
        tracker: Tracker | None,
        kept: dict[str, Any] | None,
    ) -> None:
        self.engine, self.config, self.sampler, self.name = engine, engine.config, engine.sampler, engine.name
        self.main = distributed.rank() == 0
        self.file, self.identity = file, identity
        self.tracker = tracker if self.main else None
        self.history = History(engine.method, engine.device, self.tracker)
        self.step, self.started, self.finished = 0, False, False
        self.began = self.saved = time.monotonic()
        self.seconds_before = 0.0
        self.resumed_from: int | None = None
        self.stopwatch = Stopwatch(engine.method.flops_per_image)
        if kept is not None:
            self._restore(kept)

    def run(self) -> TrainResult:
        """Trains to the end."""
        if self.finished:
            self._say("finished before, nothing to do")
            return self._result(self.seconds_before)
        self._open_tracker()
        try:
            with Interruption() as interruption, self._progress() as bar:
                if bar is not None and self.resumed_from is not None:
                    bar.say(f"continuing at step {self.step:,} of {self.engine.total_steps:,}")
                for epoch in range(self.step // self.sampler.steps_per_epoch, self.config.epochs):
                    self._epoch(epoch, interruption, bar)
                self.finished = True
                self._save()
        except TrainingDiverged as error:
            if self.file is None or not self.file.path.exists():
                raise
            kept = f"The last good checkpoint is kept in {self.file.path}."
            raise TrainingDiverged(f"{error} {kept}") from error
        return self._result(self._seconds())

    def _open_tracker(self) -> None:
        if self.tracker is not None:
            if self.file is not None:
                self.tracker.spool_to(self.file.path.parent)
            settings = {**asdict(self.config), "device": self.engine.device, "precision": self.engine.precision}
            self.tracker.parameters({**settings, "images": self.sampler.size})

    def _progress(self) -> AbstractContextManager[Progress | None]:
        if not self.main:
            return nullcontext()
        total = self.sampler.images_before(self.engine.total_steps)
        return progress(self.name, total, start=self.sampler.images_before(self.step))

    def _epoch(self, epoch: int, interruption: Interruption, bar: Progress | None) -> None:
        method, end = self.engine.method, (epoch + 1) * self.sampler.steps_per_epoch
        if not self.started:
            method.train()
            with torch.no_grad():
                method.start_epoch(epoch, self.engine.context(epoch, "start"))
            self.started = True
            self._save_if_due()
        method.train()
        self.history.start()
        while self.step < end:
            outcome = self.engine.step(self.step, self.history.meters, lambda: interruption.requested)
            self.step += 1
            self.history.count(outcome.images)
            if self.step % self.config.log_every_steps == 0 or self.step == self.engine.total_steps:
                self.history.add_steps(self.step, epoch, outcome.learning_rate)
            if self.step == end:
                self._end_epoch(epoch)
            self._show(bar, outcome)
            if outcome.stop and self.step < self.engine.total_steps:
                self._stop()
            self._save_if_due()

    def _end_epoch(self, epoch: int) -> None:
        with torch.no_grad():
            numbers = self.engine.method.end_epoch(epoch, self.engine.context(epoch, "end"))
        self.started = False
        record = self.history.add_epoch(self.step, epoch, numbers)
        values = {name: value for name, value in record.items() if isinstance(value, float) and name != "seconds"}
        self._say("epoch %d of %d, %s", epoch + 1, self.config.epochs, _listed(values))

    def _show(self, bar: Progress | None, outcome: Outcome) -> None:
        if bar is None:
            return
        bar.advance(outcome.images, f"loss {outcome.loss:.3f}")
        left = self.sampler.images_before(self.engine.total_steps) - self.sampler.images_before(self.step)
        estimate = self.stopwatch.step(outcome.images, left)
        if estimate is not None and estimate.seconds + time.monotonic() - self.began > WORTH_SAYING_SECONDS:
            bar.say(str(estimate))

    def _stop(self) -> None:
        """Ends an interrupted training.

        Raises:
            Interrupted: Always.
        """
        self._save()
        if self.file is None:
            raise Interrupted(f"{self.name} was interrupted; it has no checkpoint and starts again the next time.")
        raise Interrupted(f"{self.name} was interrupted; run the same command again to continue.")

    def _save_if_due(self) -> None:
        if self.step < self.engine.total_steps and time.monotonic() - self.saved >= self.config.checkpoint_seconds:
            self._save()

    def _save(self) -> None:
        """Writes the checkpoint, unless the weights are broken: then the last good one stays."""
        if not self.engine.weights_are_finite():
            where = f"after step {self.step} of {self.engine.total_steps} of {self.name}"
            raise TrainingDiverged(f"Expected `weights` to be finite {where}, but got NaN. {self.engine.advice()}")
        if self.file is not None and self.main:
            self.file.save(self._content())
            if self.tracker is not None:
                self.tracker.flush()
        self.saved = time.monotonic()

    def _content(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "current_weights": fingerprint_of(self.engine.method),
            "device": self.engine.device.type,
            "precision": self.engine.precision,
            "step": self.step,
            "started": self.started,
            "finished": self.finished,
            "seconds": self._seconds(),
            "history": self.history.state(),
            **self.engine.state(),
        }

    def _restore(self, kept: dict[str, Any]) -> None:
        self.engine.load(kept, "" if self.file is None else str(self.file.path))
        self.identity = kept["identity"]
        self.step, self.started, self.finished = kept["step"], kept["started"], kept["finished"]
        self.seconds_before = kept["seconds"]
        self.resumed_from = self.step
        self.history.load(kept["history"])

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began

    def _result(self, seconds: float) -> TrainResult:
        return TrainResult(
            history=self.history.records,
            steps=self.step,
            images=self.sampler.images_before(self.step),
            seconds=seconds,
            device=str(self.engine.device),
            precision=self.engine.precision,
            resumed_from=self.resumed_from,
            estimate=self.stopwatch.estimate,
        )

    def _say(self, message: str, *values: Any) -> None:
        if self.main:
            logger.info("%s: " + message, self.name, *values)


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
