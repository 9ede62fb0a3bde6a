"""What a network costs: parameters and floating-point operations, counted without computing anything."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from .architecture import Architecture, Normalisation, check_whole
from .backbone import Encoder
from .classifier import Classifier
from .info import ModelInfo


@lru_cache(maxsize=256)
def flops(architecture: Architecture, batch: int = 1, training: bool = False) -> int:
    """Counts floating-point operations of encoder, bottleneck and a head of seven classes.

    Convolutions and matrix products are counted, two operations per multiply-accumulate; GMAC figures of papers are
    half of it. For crops of another size pass ``dataclasses.replace(architecture, input_size=...)``.

    Args:
        architecture: The network.
        batch: Images per pass.
        training: Whether to count the backward pass as well.

    Returns:
        FLOP of one pass over the batch.
    """
    check_whole("batch", batch, 1, 2**31, "Use a number of images such as 128.")
    names = tuple("1234567")
    size = architecture.input_size
    with torch.device("meta"):  # shapes only: nothing is allocated or computed
        info = ModelInfo("classifier", architecture, names, Normalisation.usual(architecture.channels))
        model = Classifier(Encoder(architecture), info).train(training)
        # BatchNorm1d wants two rows in training mode, so the count is made for two and scaled.
        images = torch.empty(2, architecture.channels, size, size)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
        logits = model(images)
        if training:
            logits.sum().backward()
    return int(counter.get_total_flops()) * batch // 2


@dataclass(frozen=True)
class Description:
    """A model in numbers.

    Attributes:
        title: Backbone, width and stem in words.
        parameters: Number of weights.
        trainable: Number of weights that require gradients.
        flop_per_image: FLOP of a forward pass of one image.
        flop_per_training_image: FLOP of a forward and backward pass of one image.
        input: Channels, height and width.
        classes: Class names; None for an encoder.
    """

    title: str
    parameters: int
    trainable: int
    flop_per_image: int
    flop_per_training_image: int
    input: tuple[int, int, int]
    classes: tuple[str, ...] | None

    def __str__(self) -> str:
        channels, height, width = self.input
        text = (
            f"{self.title}: {self.parameters:,} parameters, input {height}x{width}x{channels}, "
            f"{_giga(self.flop_per_image)} per image ({_giga(self.flop_per_training_image)} in training)"
        )
        return text if self.classes is None else f"{text}, classes {', '.join(self.classes)}"


def describe(model: Classifier | Encoder) -> Description:
    """Returns parameters and FLOP of a model; ``str()`` of it is one line for people."""
    architecture = model.architecture
    title = f"{architecture.name} width {architecture.width}, stem {architecture.stem}"
    if architecture.bottleneck:
        title += f", bottleneck {architecture.bottleneck}"
    counts = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return Description(
        title=title,
        parameters=sum(count for count, _ in counts),
        trainable=sum(count for count, learns in counts if learns),
        flop_per_image=flops(architecture),
        flop_per_training_image=flops(architecture, training=True),
        input=(architecture.channels, architecture.input_size, architecture.input_size),
        classes=model.info.classes,
    )


def _giga(count: int) -> str:
    return f"{count / 1e9:.3g} GFLOP"
