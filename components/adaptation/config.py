"""Settings of CluP's third stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..common.errors import expected, unknown

Start = Literal["pretrained", "source", "adabn", "scratch"]


@dataclass(frozen=True)
class FinetuningConfig:
    """Settings of fine-tuning on pseudo-labels.

    Zero stands for "by the rule" where a field says so.

    Attributes:
        start: First weights: the ``pretrained`` encoder with a fresh head, the whole ``source`` model, the source
            model with the target's statistics (``adabn``), or fresh weights (``scratch``).
        epochs: Passes over the kept images; 0 gives :attr:`steps` optimiser steps.
        steps: Optimiser steps where `epochs` is 0.
        batch_size: Images per step over all processes.
        learning_rate: Peak learning rate; 0 takes 0.05 for a fresh head and 0.005 for the source model's weights.
            The published 0.1 partly erases source features.
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
        if self.epochs < 0 or self.steps < 1:
            raise expected("finetuning_epochs", "zero or more", self.epochs, "Pass 0 for the rule.")
        if self.batch_size < 2:
            raise expected("finetuning_batch_size", "at least 2", self.batch_size, "Statistics need two images.")
        if self.learning_rate < 0:
            raise expected("finetuning_learning_rate", "zero or positive", self.learning_rate, "Pass 0 for the rule.")

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate with the rule for zero applied."""
        return self.learning_rate or (0.05 if self.start in ("pretrained", "scratch") else 0.005)

    def epochs_for(self, images: int) -> int:
        """Returns the number of passes over `images` kept images."""
        return self.epochs or max(round(self.steps * self.batch_size / max(images, 1)), 1)
