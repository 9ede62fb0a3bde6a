"""Settings of supervised training of a source model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..common.errors import expected, unknown
from ..training.config import PRECISIONS


@dataclass(frozen=True)
class SourceConfig:
    """Settings of a source model.

    Attributes:
        epochs: Passes over the labelled faces.
        batch_size: Images per step over all processes.
        learning_rate: Peak learning rate.
        momentum: Nesterov momentum.
        weight_decay: Weight decay; 1-D parameters are left out.
        label_smoothing: Label smoothing (SHOT's source models: 0.1).
        mixup: Parameter alpha of mixup; 0 for none.
        warmup: Fraction of the training in which the learning rate rises; 0 starts at the peak.
        precision: Precision of the loop.
        seed: Seed.
    """

    epochs: int = 14
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    mixup: float = 0.0
    warmup: float = 0.2
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown("precision", str(self.precision), PRECISIONS)
        if self.epochs < 1:
            raise expected("training_epochs", "at least 1", self.epochs, "Pass a positive number.")
        if self.batch_size < 2:
            raise expected("training_batch_size", "at least 2", self.batch_size, "Statistics need two images.")
        if not 0 < self.learning_rate < math.inf:
            raise expected("training_learning_rate", "positive", self.learning_rate, "Pass a number such as 0.1.")
        for name in ("mixup", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise expected(f"training_{name}", "zero or positive", getattr(self, name), "Pass 0 for none.")
        for name in ("momentum", "label_smoothing", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise expected(f"training_{name}", "at least 0 and below 1", getattr(self, name), "Pass 0 for none.")
