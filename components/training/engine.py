"""One optimiser step: parts of the batch, precision, gradients of all processes, the guard against NaN."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..common.errors import TrainingDiverged, expected
from . import distributed
from .batches import Pixels, Purpose, Sampler, generator_for, seed_for, seed_global, share
from .config import LoopConfig
from .devices import autocast_for, channels_last_rule
from .meters import Meter, Sums
from .method import Batch, Context, Method
from .optimisers import make_optimiser, set_learning_rate
from .schedules import learning_rate_at

_MOST_SKIPPED = 20
"""Steps in a row that fp16 may skip: more than the halvings that lead from the first loss scale, 2 ** 16, to 1."""


@dataclass(frozen=True)
class Outcome:
    """What a step tells the loop.

    Attributes:
        loss: Mean over the rows of the global batch.
        images: Rows of the global batch.
        learning_rate: That was used.
        stop: Whether any process was asked to stop.
    """

    loss: float
    images: int
    learning_rate: float
    stop: bool


class Engine:
    """A method on its device with its optimiser.

    Args:
        method: Moved to the device in place.
        pixels: The images.
        sampler: Their batches.
        config: The settings.
        device: Where to train.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        name: Of the training, for messages.
    """

    def __init__(
        self,
        method: Method,
        pixels: Pixels,
        sampler: Sampler,
        config: LoopConfig,
        device: torch.device,
        precision: str,
        name: str = "training",
    ) -> None:
        self.method, self.pixels, self.sampler, self.config = method, pixels, sampler, config
        self.device, self.precision, self.name = device, precision, name
        self.total_steps = sampler.steps_per_epoch * config.epochs
        wanted = channels_last_rule(device, precision) if config.channels_last is None else config.channels_last
        self.channels_last = wanted
        method.to(device).to(memory_format=torch.channels_last if wanted else torch.contiguous_format)
        groups = [{**group, "params": list(group["params"])} for group in method.parameter_groups(config)]
        if not any(group["params"] for group in groups):
            raise expected("method", "a module with trainable parameters", type(method).__name__, "Unfreeze some.")
        self.optimiser = make_optimiser(groups, config)
        self.parameters = distributed.trained_parameters(self.optimiser.param_groups)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.skipped = 0
        """Steps in a row, up to the last one, that were skipped because a gradient was not finite."""
        self.autocast: Callable[[], AbstractContextManager[Any]] = autocast_for(device, precision)

    def context(self, epoch: int, purpose: Purpose) -> Context:
        """Returns what the method sees between epochs, and seeds torch's global generator for it."""
        seed_global(seed_for(purpose, self.config.seed, epoch), self.device)
        return Context(
            config=self.config,
            device=self.device,
            precision=self.precision,
            size=len(self.pixels),
            epoch=epoch,
            steps_per_epoch=self.sampler.steps_per_epoch,
            total_steps=self.total_steps,
            fetch=self.pixels,
            generator=generator_for(purpose, self.config.seed, epoch),
            autocast=self.autocast,
        )

    def step(self, step: int, meters: Sequence[Meter] = (), stop: Callable[[], bool] = bool) -> Outcome:
        """Does one optimiser step.

        Args:
            step: Its number, from 0.
            meters: Get the scalars that the method returns, as means over the global batch.
            stop: Tells whether this process was asked to stop.

        Raises:
            TrainingDiverged: The loss is not finite, or in fp16 no gradient was for too many steps; weights and
                optimiser are as before the step.
        """
        epoch, index = divmod(step, self.sampler.steps_per_epoch)
        rows = self.sampler.batch(epoch, index).to(self.device)
        learning_rate = learning_rate_at(step, self.total_steps, self.sampler.steps_per_epoch, self.config)
        self.optimiser.zero_grad(set_to_none=True)
        own_loss, sums = self._gradients(rows, epoch, step)
        loss, means, stopping = self._agree(own_loss, sums, stop())
        if not math.isfinite(loss):
            raise self._diverged("loss", str(loss), means, epoch, step)
        skipped = self._apply(learning_rate)
        if self.precision == "fp16":
            self._check_skipped(skipped, means, epoch, step)
            means = {**means, "skipped": float(skipped)}
        for meter in meters:
            meter.add(means, len(rows))
        with torch.no_grad():
            everything = builtins.slice(0, len(rows))
            self.method.after_step(self._batch(rows, everything, everything, epoch, step))
        return Outcome(loss, len(rows), learning_rate, stopping)

    def _batch(self, rows: Tensor, own: builtins.slice, part: builtins.slice, epoch: int, step: int) -> Batch:
        return Batch(rows, self.pixels, rows=own, part=part, epoch=epoch, step=step, seed=self.config.seed)

    def _gradients(self, rows: Tensor, epoch: int, step: int) -> tuple[float, Sums]:
        """Runs the parts of a batch forward and backward; returns the loss and all scalars of this process."""
        processes, rank = distributed.world_size(), distributed.rank()
        parts = min(self.config.accumulate, max(1, len(rows) // max(2, processes)))
        scout, sums = _Scout(self.device), Sums(self.device)
        for place in range(parts):
            part = share(builtins.slice(0, len(rows)), parts, place)
            batch = self._batch(rows, share(part, processes, rank), part, epoch, step)
            seed_global(seed_for("noise", self.config.seed, epoch, step, rank, place), self.device)
            with self.autocast():
                scalars = self.method(batch)
            loss = _checked_loss(scalars, self.method)
            scout.see(loss, batch.weight, last=place == parts - 1)
            sums.add(scalars, batch.weight)
            self.scaler.scale(loss * batch.weight).backward()
        return scout.mean(), sums

    def _agree(self, loss: float, sums: Sums, stop: bool) -> tuple[float, Mapping[str, Tensor | float], bool]:
        """Brings all processes together: gradients are summed, unless the loss of one is not finite.

        Returns:
            Loss and scalars of the global batch, and whether any process was asked to stop.
        """
        if distributed.world_size() == 1:
            return loss, sums.means(), stop
        present = [float(parameter.grad is not None) for parameter in self.parameters]
        names, numbers = sums.numbers()
        bad = float(not math.isfinite(loss))
        total = distributed.sum_over_processes([bad, float(stop), *present, *numbers], self.device)
        if total[0] == 0:
            distributed.sum_gradients(self.parameters, [count > 0 for count in total[2 : 2 + len(present)]])
        values, weights = total[2 + len(present) :][: len(names)], total[2 + len(present) + len(names) :]
        means = {name: value / weight for name, value, weight in zip(names, values, weights, strict=True) if weight > 0}
        return (means["loss"] if total[0] == 0 else math.nan), means, total[1] > 0

    def _diverged(
        self, what: str, got: str, means: Mapping[str, Tensor | float], epoch: int, step: int
    ) -> TrainingDiverged:
        values = ", ".join(f"{name} {float(value):.4g}" for name, value in sorted(means.items()))
        return TrainingDiverged(
            f"Expected `{what}` to be finite, but got {got} in step {step + 1} of {self.total_steps} of {self.name} "
            f"(epoch {epoch + 1}; {values}). {self.advice()}"
        )

    def advice(self) -> str:
        """Returns what to do about values that are not finite."""
        fp32 = "" if self.precision == "fp32" else f", or train with precision=fp32 (now {self.precision})"
        return f"Lower learning_rate (now {self.config.learning_rate:g}){fp32}."

    def _apply(self, learning_rate: float) -> bool:
        """Does the optimiser's step; tells whether it was skipped, as fp16 does where a gradient is not finite."""
        set_learning_rate(self.optimiser, learning_rate)
        if self.config.clip_gradient_norm > 0:
            self.scaler.unscale_(self.optimiser)
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_gradient_norm)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return self.scaler.get_scale() < scale

    def _check_skipped(self, skipped: bool, means: Mapping[str, Tensor | float], epoch: int, step: int) -> None:
        """Ends a training that would skip its steps for ever: finite losses do not show a NaN in the gradient."""
        self.skipped = self.skipped + 1 if skipped else 0
        scale = self.scaler.get_scale()
        if skipped and (scale < 1 or self.skipped >= min(_MOST_SKIPPED, self.total_steps)):
            got = f"NaN or infinity for {self.skipped} steps that were skipped, down to loss scale {scale:g}, the last"
            raise self._diverged("gradient", got, means, epoch, step)

    def state(self) -> dict[str, Any]:
        """Returns method, optimiser and scaler, for a checkpoint."""
        return {
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
        }

    def load(self, state: Mapping[str, Any], where: str) -> None:
        """Takes over what :meth:`state` returned.

        Args:
            state: From a checkpoint.
            where: The checkpoint's file, for messages.

        Raises:
            UserError: The method has other tensors now.
        """
        try:
            self.method.load_state_dict(state["method"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError) as error:
            difference = " ".join(str(error).split())
            fix = "Delete the file to start again, or run with the method's earlier settings."
            raise expected("checkpoint", "of this method", f"{where}: {difference}", fix) from error
        if state["scaler"]:  # empty unless the training was in fp16
            self.scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped"]

    def weights_are_finite(self) -> bool:
        """Tells whether all parameters are finite."""
        with torch.no_grad():
            norms = [parameter.abs().amax() for parameter in self.parameters if parameter.numel()]
            return bool(torch.stack([norm.float() for norm in norms]).isfinite().all())


class _Scout:
    """Brings the loss to the CPU; on a GPU while the backward pass still runs."""

    def __init__(self, device: torch.device) -> None:
        self._sum: Tensor | None = None
        self._weight = 0.0
        self._event = torch.cuda.Event() if device.type == "cuda" else None
        self._landed: Tensor | None = None

    def see(self, loss: Tensor, weight: float, *, last: bool) -> None:
        if weight > 0:  # the mean over no rows is NaN and does not count
            self._sum = loss.detach() * weight + (0.0 if self._sum is None else self._sum)
            self._weight += weight
        if last and self._event is not None and self._sum is not None:
            self._landed = torch.empty((), pin_memory=True)
            self._landed.copy_(self._sum, non_blocking=True)
            self._event.record()

    def mean(self) -> float:
        if self._sum is None:
            return 0.0
        if self._event is None or self._landed is None:
            return float(self._sum) / self._weight
        self._event.synchronize()
        return float(self._landed) / self._weight


def _checked_loss(scalars: Mapping[str, Tensor], method: Method) -> Tensor:
    """Returns the loss in fp32 or better."""
    kind = type(method).__name__
    if "loss" not in scalars:
        raise expected(f"{kind}.step", "a method that returns 'loss'", sorted(scalars), "Add it to the returned dict.")
    loss = scalars["loss"]
    if loss.ndim or not loss.requires_grad:
        got = f"shape {list(loss.shape)}, requires_grad {loss.requires_grad}"
        raise expected(f"{kind} loss", "a scalar with a gradient", got, "Reduce it over rows and do not detach it.")
    return loss if loss.dtype == torch.float64 else loss.float()
