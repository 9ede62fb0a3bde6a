"""Settings of CluP's third stage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..common.errors import expected, unknown
from ..training.config import PRECISIONS

Start = Literal["pretrained", "source", "adabn", "scratch"]


@dataclass(frozen=True)
class FinetuningConfig:
    """Settings of fine-tuning on pseudo-labels.

    Zero stands for "by the rule" where a field says so. CluP's published setting is ``epochs=50, batch_size=32,
    learning_rate=0.1``; the other values are the published ones already.

    Attributes:
        start: First weights: the ``pretrained`` encoder with a fresh head, the whole ``source`` model, the source
            model with the target's statistics (``adabn``), or fresh weights (``scratch``).
        epochs: Passes over the kept images; 0 gives :attr:`steps` optimiser steps.
        steps: Optimiser steps where `epochs` is 0.
        batch_size: Images per step over all processes.
        learning_rate: Peak learning rate; 0 takes 0.02 for a pretrained encoder, 0.05 for fresh weights and 0.005 for
            the source model's weights. The published 0.1 partly erases what was learnt before.
        momentum: Nesterov momentum.
        weight_decay: Weight decay.
        mixup: Parameter alpha of mixup; 0 for none.
        label_smoothing: Label smoothing.
        precision: Precision of the loop.
        seed: Seed.
    """

    start: Start = "pretrained"
    epochs: int = 0
    steps: int = 800
    batch_size: int = 64
    learning_rate: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    mixup: float = 0.2
    label_smoothing: float = 0.0
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.start not in get_args(Start):
            raise unknown("finetuning_start", str(self.start), get_args(Start))
        if self.precision not in PRECISIONS:
            raise unknown("finetuning_precision", str(self.precision), PRECISIONS)
        if self.epochs < 0:
            raise expected("finetuning_epochs", "zero or more", self.epochs, "Pass 0 for the rule.")
        if self.steps < 1:
            raise expected("finetuning_steps", "at least 1", self.steps, "Pass a number such as 800.")
        if self.batch_size < 2:
            raise expected("finetuning_batch_size", "at least 2", self.batch_size, "Statistics need two images.")
        for name in ("learning_rate", "mixup", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                fix = "Pass 0 for the rule." if name == "learning_rate" else "Pass 0 for none."
                raise expected(f"finetuning_{name}", "zero or positive", getattr(self, name), fix)
        for name in ("momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise expected(f"finetuning_{name}", "at least 0 and below 1", getattr(self, name), "Pass 0 for none.")

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate with the rule for zero applied."""
        return self.learning_rate or {"pretrained": 0.02, "scratch": 0.05}.get(self.start, 0.005)

    def batch_for(self, images: int) -> int:
        """Returns the batch size for `images` kept images: all of them where they are fewer than a batch."""
        return min(self.batch_size, images)

    def epochs_for(self, images: int) -> int:
        """Returns the number of passes over `images` kept images."""
        return self.epochs or max(round(self.steps * self.batch_for(images) / max(images, 1)), 1)
