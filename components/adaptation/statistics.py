"""AdaBN: re-estimate the statistics of batch normalisation on the target, and change nothing else.

Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", ICLR workshop 2017. It takes seconds and
is the baseline that every adaptation must beat.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ..common.errors import expected
from ..common.progress import progress
from ..networks import Classifier, normalise
from ..training.devices import resolve_device

_BatchNorm = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def adabn(classifier: Classifier, pixels: np.ndarray, batch_size: int = 256, device: str = "auto") -> Classifier:
    """Returns a copy whose batch-normalisation statistics are those of the target.

    One pass in stored order. The mean and variance of a layer's input are pooled over all images, whatever the size
    of the batch they came in, and include how batches differ; so in the first layer they are exactly those of the
    whole target. Deeper layers see inputs that were normalised with the statistics of their batch.

    Args:
        classifier: The source model; it stays as it is.
        pixels: Target faces, uint8 [N, C, H, W], at the model's input size.
        batch_size: Images per batch; a rest smaller than half a batch joins the last one.
        device: Where to compute.

    Returns:
        The copy, in evaluation mode, on the CPU.

    Raises:
        UserError: There are fewer than two images, or the model has no batch normalisation.
    """
    if len(pixels) < 2:
        raise expected("target", "at least 2 images", f"{len(pixels)}", "Statistics need more than one image.")
    if batch_size < 2:
        raise expected("batch_size", "at least 2", batch_size, "Statistics need two images.")
    place = resolve_device(device)
    adapted = as_new_model(copy.deepcopy(classifier)).to(place).eval()
    layers = [module for module in adapted.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not layers:
        raise expected("source", "a model with batch normalisation", "none", "AdaBN has nothing to adapt here.")
    pools = [_Pool(layer) for layer in layers]
    with _batch_statistics(layers), progress("Re-estimating statistics", len(pixels)) as bar:
        for start, end in _batches(len(pixels), batch_size):
            batch = torch.from_numpy(np.array(pixels[start:end])).to(place)
            adapted(normalise(batch, classifier.normalisation))
            for pool in pools:
                pool.add()
            bar.advance(end - start)
    for pool in pools:
        pool.write()
    return adapted.cpu().eval()


def as_new_model(classifier: Classifier) -> Classifier:
    """Returns the classifier itself without its digest: its weights are about to change."""
    classifier.info = dataclasses.replace(classifier.info, digest="")
    classifier.encoder.info = dataclasses.replace(classifier.encoder.info, digest="")
    return classifier


@contextmanager
def _batch_statistics(layers: list[_BatchNorm]) -> Iterator[None]:
    """Makes each layer's running statistics those of its last batch; all else is as before afterwards."""
    before = [(layer, layer.momentum, layer.training, _count(layer).clone()) for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
        layer.train()
    try:
        yield
    finally:
        for layer, momentum, mode, count in before:
            layer.momentum = momentum
            layer.train(mode)
            _count(layer).copy_(count)


def _count(layer: _BatchNorm) -> Tensor:
    """How many batches the layer has seen."""
    return torch.zeros(()) if layer.num_batches_tracked is None else layer.num_batches_tracked


class _Pool:
    """Mean and variance of a layer's input over batches of any size (Chan et al. 1979).

    Args:
        layer: The layer; its running statistics are those of its last batch.
    """

    def __init__(self, layer: _BatchNorm) -> None:
        self._layer, self._last = layer, 0
        self._count, self._mean, self._squares = 0, torch.zeros(0), torch.zeros(0)
        self._hook = layer.register_forward_pre_hook(self._see)

    def _see(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._last = inputs[0].numel() // inputs[0].shape[1]

    def add(self) -> None:
        """Takes in the last batch."""
        mean, squares = (value.cpu().double() for value in self._statistics())
        squares = squares * (self._last - 1)  # running variances are unbiased
        if self._count == 0:
            self._count, self._mean, self._squares = self._last, mean, squares
            return
        total, gap = self._count + self._last, mean - self._mean
        self._mean = self._mean + gap * (self._last / total)
        self._squares = self._squares + squares + gap.square() * (self._count * self._last / total)
        self._count = total

    def write(self) -> None:
        """Gives the layer the pooled statistics."""
        self._hook.remove()
        mean, variance = self._statistics()
        mean.copy_(self._mean)
        variance.copy_(self._squares / max(self._count - 1, 1))

    def _statistics(self) -> tuple[Tensor, Tensor]:
        mean, variance = self._layer.running_mean, self._layer.running_var
        if mean is None or variance is None:
            raise RuntimeError("a batch norm that tracks statistics has none")
        return mean, variance


def _batches(count: int, size: int) -> list[tuple[int, int]]:
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] < size / 2:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))
