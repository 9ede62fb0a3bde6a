"""Settings of the training loop, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..common.errors import expected, unknown

OPTIMISERS = ("sgd", "lars", "adamw")
SCHEDULES = ("constant", "cosine", "exponential", "inverse", "one_cycle")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "measure")
DECAYS = ("weights", "all")

_NOT_IN_IDENTITY = ("device", "precision", "channels_last", "checkpoint_seconds", "log_every_steps")


@dataclass(frozen=True)
class LoopConfig:
    """How a method is trained.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images per optimiser step, over all processes and accumulation steps together.
        optimiser: ``sgd``, ``lars`` or ``adamw``.
        learning_rate: Highest learning rate. It is used as given, not scaled by the batch size.
        momentum: Of SGD and LARS; AdamW has its usual 0.9 and 0.999.
        nesterov: Nesterov's momentum (SGD only).
        weight_decay: L2 penalty (SGD, LARS) or decoupled decay (AdamW).
        decay: ``weights``: parameters with one dimension (biases, batch norm) are not decayed. ``all``: all are.
        lars_coefficient: Trust coefficient of LARS.
        lars_clip: Whether LARS only ever lowers the learning rate (LARC's "clip").
        schedule: Course of the learning rate, see :mod:`ferry.training.schedules`.
        warmup_epochs: Epochs of linear rise at the start (may be a fraction). For ``one_cycle`` the length of the
            rise, 0 for 30 % of the training.
        warmup_learning_rate: Learning rate from which the rise starts.
        final_learning_rate: Where ``cosine``, ``exponential`` and ``one_cycle`` end.
        clip_gradient_norm: Largest norm of the whole gradient, 0 for no limit.
        accumulate: Number of parts in which each batch goes through the network, to save memory. The gradient is that
            of the whole batch; only batch norm sees the parts.
        precision: ``fp32``, ``bf16``, ``fp16`` (CUDA only), ``auto`` (a fixed rule for the device) or ``measure``
            (times a few steps with each and takes the fastest).
        channels_last: Memory format of images and filters; None lets the loop choose.
        seed: Fixes order, augmentation and dropout.
        drop_last: Whether the last, smaller batch of an epoch is left out.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        checkpoint_seconds: Time between two checkpoints; 0 writes one after each step.
        log_every_steps: Steps per record of the history.

    Raises:
        UserError: A value is out of its range; the message names field, rule and value.
    """

    epochs: int = 10
    batch_size: int = 128
    optimiser: Literal["sgd", "lars", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    decay: Literal["weights", "all"] = "weights"
    lars_coefficient: float = 0.001
    lars_clip: bool = False
    schedule: Literal["constant", "cosine", "exponential", "inverse", "one_cycle"] = "cosine"
    warmup_epochs: float = 0.0
    warmup_learning_rate: float = 0.0
    final_learning_rate: float = 0.0
    clip_gradient_norm: float = 0.0
    accumulate: int = 1
    precision: Literal["auto", "fp32", "bf16", "fp16", "measure"] = "auto"
    channels_last: bool | None = None
    seed: int = 0
    drop_last: bool = False
    device: str = "auto"
    checkpoint_seconds: float = 60.0
    log_every_steps: int = 20

    def __post_init__(self) -> None:
        self._check_words()
        self._check_ranges()
        self._check_combinations()

    def identity(self) -> dict[str, Any]:
        """Returns the fields that change the result of a training; a checkpoint belongs to one set of them."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_IN_IDENTITY}

    def _check_words(self) -> None:
        words = {"optimiser": OPTIMISERS, "schedule": SCHEDULES, "precision": PRECISIONS, "decay": DECAYS}
        for field, known in words.items():
            if getattr(self, field) not in known:
                raise unknown(field, getattr(self, field), known)

    def _check_ranges(self) -> None:
        for field in ("epochs", "batch_size", "accumulate", "log_every_steps"):
            if getattr(self, field) < 1:
                raise expected(field, "at least 1", getattr(self, field), "Pass a whole number such as 10.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise expected("learning_rate", "positive", self.learning_rate, "Pass a number such as 0.1.")
        if not 0 <= self.momentum < 1:
            raise expected("momentum", "at least 0 and below 1", self.momentum, "Pass a number such as 0.9.")
        for field in (
            "weight_decay",
            "warmup_epochs",
            "warmup_learning_rate",
            "final_learning_rate",
            "clip_gradient_norm",
            "checkpoint_seconds",
        ):
            value = getattr(self, field)
            if not (math.isfinite(value) and value >= 0):
                raise expected(field, "0 or more", value, "Pass 0 to switch it off.")
        if not (math.isfinite(self.lars_coefficient) and self.lars_coefficient > 0):
            raise expected("lars_coefficient", "positive", self.lars_coefficient, "Pass a number such as 0.001.")

    def _check_combinations(self) -> None:
        if self.nesterov and (self.optimiser != "sgd" or self.momentum == 0):
            rule = "false unless `optimiser` is sgd and `momentum` is above 0"
            raise expected("nesterov", rule, self.nesterov, "Pass nesterov=false.")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            fix = "Warm up for a tenth of the training or less."
            raise expected("warmup_epochs", f"below `epochs` ({self.epochs})", self.warmup_epochs, fix)
        if self.schedule == "exponential" and self.final_learning_rate <= 0:
            fix = "Pass for example a hundredth of `learning_rate`."
            raise expected("final_learning_rate", "positive for schedule=exponential", self.final_learning_rate, fix)
