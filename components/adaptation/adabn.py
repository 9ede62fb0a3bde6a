"""AdaBN: re-estimate the statistics of batch normalisation on the target, and change nothing else.

Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", ICLR workshop 2017. It takes seconds and
is the baseline that every adaptation must beat.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from ..common.errors import expected
from ..common.progress import progress
from ..networks import Classifier, normalise
from ..training.devices import resolve_device

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@torch.no_grad()
def adabn(classifier: Classifier, pixels: np.ndarray, batch_size: int = 256, device: str = "auto") -> Classifier:
    """Returns a copy whose batch-normalisation statistics are those of the target.

    One pass in stored order, every image weighing the same: means and variances are cumulative averages over batches
    of equal size (a rest smaller than half a batch joins the last one).

    Args:
        classifier: The source model; it stays as it is.
        pixels: Target faces, uint8 [N, C, H, W], at the model's input size.
        batch_size: Images per batch.
        device: Where to compute.

    Raises:
        UserError: There are fewer than two images, or the model has no batch normalisation.
    """
    if len(pixels) < 2:
        raise expected("target", "at least 2 images", len(pixels), "Statistics need more than one image.")
    place = resolve_device(device)
    adapted = copy.deepcopy(classifier).to(place).eval()
    layers = [module for module in adapted.modules() if isinstance(module, _BATCH_NORMS)]
    if not layers:
        raise expected("source", "a model with batch normalisation", "none", "AdaBN has nothing to adapt here.")
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
        layer.train()
    with progress("Re-estimating statistics", len(pixels)) as bar:
        for start, end in _batches(len(pixels), batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(pixels[start:end])).to(place)
            adapted(normalise(batch, classifier.normalisation))
            bar.advance(end - start)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return adapted.cpu().eval()


def _batches(count: int, size: int) -> list[tuple[int, int]]:
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] < size / 2:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))
