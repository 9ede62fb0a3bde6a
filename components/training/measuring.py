"""Which precision is fastest here: a few steps with each, on copies."""

from __future__ import annotations

import copy
import logging
import time

import torch

from ..common.errors import TrainingDiverged
from . import distributed
from .batches import Pixels, Sampler
from .config import LoopConfig
from .devices import possible_precisions
from .engine import Engine
from .method import Method

logger = logging.getLogger("ferry")

_WARM_UP = 2
_TIMED = 5


def fastest_precision(
    method: Method, pixels: Pixels, sampler: Sampler, config: LoopConfig, device: torch.device
) -> str:
    """Times a few training steps in each precision of the device and returns the fastest; says the figures.

    Args:
        method: Copied, not changed.
        pixels: The images.
        sampler: Their batches.
        config: The settings.
        device: Where to train.
    """
    rates = {word: _rate(method, pixels, sampler, config, device, word) for word in possible_precisions(device)}
    names = sorted(rates)
    summed = distributed.sum_over_processes([rates[name] for name in names], device)
    best = names[max(range(len(names)), key=summed.__getitem__)]
    if distributed.rank() == 0:
        figures = ", ".join(f"{name} {rates[name]:,.0f}" for name in rates)
        logger.info("precision: %s (images/s: %s)", best, figures)
    return best


def _rate(
    method: Method, pixels: Pixels, sampler: Sampler, config: LoopConfig, device: torch.device, precision: str
) -> float:
    engine = Engine(copy.deepcopy(method), pixels, sampler, config, device, precision, "measuring")
    engine.method.train()
    with torch.no_grad():
        engine.method.start_epoch(0, engine.context(0, "start"))
    engine.method.train()
    steps = min(_WARM_UP + _TIMED, engine.total_steps)
    warm_up = min(_WARM_UP, steps - 1)
    images, began = 0, time.perf_counter()
    for step in range(steps):
        if step == warm_up:
            _wait(device)
            images, began = 0, time.perf_counter()
        try:
            images += engine.step(step).images
        except TrainingDiverged:  # this precision is of no use here
            return 0.0
    _wait(device)
    return images / max(time.perf_counter() - began, 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
