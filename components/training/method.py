"""What a method is to the loop: modules and a step. What a step receives: a batch."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import distributed
from .batches import Pixels, generator_for, share
from .config import LoopConfig


class Batch:
    """One process's rows of one global batch.

    Attributes:
        indices: int64 [b] on the training device, the images of this part.
        global_indices: int64 [B] on the training device, the images of the whole batch; equal in every process.
        slice: The rows of the whole batch that this process has now: ``indices == global_indices[slice]``.
        part: The rows of the whole batch that all processes together have now (all of them unless ``accumulate`` is
            above 1). :func:`ferry.training.all_gather_rows` of this process's rows gives these rows, in order.
        epoch: Number of the epoch, from 0.
        step: Number of the optimiser step since the start of the training, from 0.
        generator: CPU generator seeded from (seed, epoch, step), the same in every process and every part: draw for
            the whole batch (B rows), then take ``[batch.slice]``. So a result does not depend on how many processes
            or accumulation parts there are.
        fetch: ``fetch(indices) -> uint8 [n, C, H, W]`` on the training device, for images outside of this batch.

    With more processes than images in the last batch of an epoch a process has no rows (b = 0).
    """

    def __init__(
        self,
        global_indices: Tensor,
        fetch: Callable[[Tensor], Tensor],
        *,
        rows: builtins.slice | None = None,
        part: builtins.slice | None = None,
        epoch: int = 0,
        step: int = 0,
        seed: int = 0,
    ) -> None:
        self.global_indices = global_indices
        self.slice = builtins.slice(0, len(global_indices)) if rows is None else rows
        self.indices = global_indices[self.slice]
        self.fetch = fetch
        self.part = self.slice if part is None else part
        self.epoch, self.step, self._seed = epoch, step, seed

    @cached_property
    def generator(self) -> torch.Generator:
        """CPU generator seeded from (seed, epoch, step)."""
        return generator_for("draws", self._seed, self.epoch, self.step)

    @cached_property
    def pixels(self) -> Tensor:
        """uint8 [b, C, H, W] on the training device; read when first asked for."""
        return self.fetch(self.indices)

    @property
    def part_indices(self) -> Tensor:
        """int64 on the training device, the images that all processes together have now."""
        return self.global_indices[self.part]

    @property
    def weight(self) -> float:
        """This process's share of the rows of the whole batch."""
        return len(self.indices) / len(self.global_indices)

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Context:
    """What a method may ask for between epochs.

    Attributes:
        config: The loop's settings.
        device: Where the method lives.
        precision: The precision in use: fp32, bf16 or fp16.
        size: Number of images N.
        epoch: Number of the epoch, from 0.
        steps_per_epoch: Optimiser steps per epoch.
        total_steps: Optimiser steps of the whole training.
        fetch: ``fetch(indices) -> uint8 [n, C, H, W]`` on the device.
        generator: CPU generator seeded from (seed, epoch, place), the same in every process.
        autocast: Makes the context in which the loop runs a step.
    """

    config: LoopConfig
    device: torch.device
    precision: str
    size: int
    epoch: int
    steps_per_epoch: int
    total_steps: int
    fetch: Callable[[Tensor], Tensor]
    generator: torch.Generator
    autocast: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)

    def batches(self, batch_size: int = 256, *, split: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Walks over the images in their stored order.

        Args:
            batch_size: Images at a time.
            split: Whether each process walks over its own contiguous share only;
                :func:`ferry.training.all_gather_rows` on the collected results then restores the order of all.

        Yields:
            ``(indices int64 [b], pixels uint8 [b, C, H, W])`` on the device.
        """
        rows = builtins.slice(0, self.size)
        if split:
            rows = share(rows, distributed.world_size(), distributed.rank())
        for start in range(rows.start, rows.stop, batch_size):
            indices = torch.arange(start, min(start + batch_size, rows.stop), device=self.device)
            yield indices, self.fetch(indices)


@dataclass(frozen=True)
class Begun:
    """What a method remembers of the training that the loop last began or continued with it.

    Attributes:
        training: The training without its first weights, and the file of its checkpoint.
        first: Fingerprint of its first weights.
        left: Fingerprint of the weights that the loop left in the method, whatever ended it.
    """

    training: dict[str, Any]
    first: float | None
    left: float


class Method(nn.Module):
    """Base of everything that the loop can train.

    A method brings its networks and :meth:`step`; the loop brings epochs, devices, precision, optimiser, schedule,
    distribution, checkpoints, logging. **All state lives in the module's state_dict**: weights, queues, memory banks,
    teachers, assignments as buffers of fixed shape (or via ``get_extra_state``). A Python attribute that changes
    while training is lost on resume. What depends on time (frozen layers, ramps) is computed in :meth:`step` from
    ``batch.epoch`` and ``batch.step``.
    """

    flops_per_image: float = 0.0
    """Floating-point operations per image and training step (forward and backward), 0 where unknown."""
    begun: Begun | None = None
    """Set by the loop, where there is a checkpoint."""

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Computes the loss of this process's rows.

        Runs under the loop's autocast; do the loss's arithmetic in fp32 (``torch.autocast(..., enabled=False)``).

        Args:
            batch: The images. Randomness comes from ``batch.generator`` or torch's global generator, which the loop
                seeds from (seed, epoch, step, process, part).

        Returns:
            ``"loss"``, a scalar, the mean over the rows (the loop weighs it by their number), and any other
            scalars to be logged, the same names in every process. With no rows the loss may be NaN; it counts zero.
        """
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The same as :meth:`step`, so that hooks and wrappers of torch see a module call."""
        return self.step(batch)

    def describe(self) -> dict[str, Any]:
        """Returns the method's own settings (JSON-like): a checkpoint belongs to them as to the loop's settings."""
        return {}

    def parameter_groups(self, config: LoopConfig) -> list[dict[str, Any]]:
        """Returns the groups of parameters for the optimiser.

        Each is a dict with ``params`` and, as wanted, ``weight_decay`` and ``lr_scale`` (factor on the learning rate).
        The default: all trainable parameters, those with one dimension without decay unless ``config.decay`` is
        ``all``.
        """
        return split_by_dimension(self.parameters(), config)

    def start_epoch(self, epoch: int, context: Context) -> None:
        """Runs before an epoch's first step (clustering, new pseudo-labels).

        Its products must be buffers: a training that resumes inside an epoch does not call it again. Runs in every
        process, so results must be equal in all, and with the modules in training mode: switch to
        ``eval`` for inference and back. Runs under ``torch.no_grad``.
        """

    def after_step(self, batch: Batch) -> None:
        """Runs after each optimiser step, without gradients (moving averages); `batch` is the whole one."""

    def end_epoch(self, epoch: int, context: Context) -> dict[str, float]:
        """Runs after an epoch's last step; returns numbers for the epoch's record."""
        return {}

    def watch(self, record: dict[str, float]) -> None:
        """Sees each new record of the history (steps and epochs) before it is stored.

        On resume it sees all earlier records again, so what it remembers need not be in the checkpoint.

        Raises:
            TrainingDiverged: The training has collapsed; the message names the cause and what to do.
        """


def split_by_dimension(
    parameters: Iterator[nn.Parameter], config: LoopConfig, lr_scale: float = 1.0
) -> list[dict[str, Any]]:
    """Groups trainable parameters into those with weight decay and those of one dimension without.

    Args:
        parameters: Parameters; frozen ones are left out.
        config: Its ``weight_decay`` and ``decay`` decide.
        lr_scale: Factor on the learning rate of all of them.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if config.decay == "all":
        groups = [{"params": trainable, "weight_decay": config.weight_decay}]
    else:
        groups = [
            {"params": [one for one in trainable if one.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [one for one in trainable if one.ndim <= 1], "weight_decay": 0.0},
        ]
    return [{**group, "lr_scale": lr_scale} for group in groups if group["params"]]


def make_batch(
    pixels: np.ndarray,
    indices: Tensor | None = None,
    *,
    epoch: int = 0,
    step: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Batch:
    """Makes a batch outside of the loop, for notebooks and tests.

    Args:
        pixels: uint8 [N, C, H, W].
        indices: int64 [B], None for all images in order.
        epoch: As in :class:`Batch`.
        step: As in :class:`Batch`.
        seed: Of the generator.
        device: Where the batch is wanted.
    """
    device = torch.device(device)
    chosen = torch.arange(len(pixels)) if indices is None else indices
    return Batch(chosen.to(device), Pixels(pixels, device), epoch=epoch, step=step, seed=seed)


def make_context(
    pixels: np.ndarray, config: LoopConfig, *, epoch: int = 0, device: torch.device | str = "cpu"
) -> Context:
    """Makes a context outside of the loop (fp32), for notebooks and tests.

    Args:
        pixels: uint8 [N, C, H, W].
        config: The loop's settings.
        epoch: Number of the epoch.
        device: Where the method lives.
    """
    device = torch.device(device)
    steps = max(1, len(pixels) // config.batch_size)
    generator = generator_for("start", config.seed, epoch)
    total = steps * config.epochs
    return Context(config, device, "fp32", len(pixels), epoch, steps, total, Pixels(pixels, device), generator)
