"""The learning rate of each optimiser step, as a pure function of the step."""

from __future__ import annotations

import math

from .config import LoopConfig

_ONE_CYCLE_START = 25.0
_ONE_CYCLE_RISE = 0.3


def learning_rate_at(step: int, total: int, steps_per_epoch: int, config: LoopConfig) -> float:
    """Returns the learning rate of a step.

    During the W warm-up steps it rises in a straight line and reaches the full rate at step W - 1. After that, with
    t = step - W, T = total - W, base rate a and final rate b:

    - ``constant``: a
    - ``cosine``: b + (a - b) (1 + cos(pi t / T)) / 2
    - ``exponential``: a (b / a)^(t / T)
    - ``inverse``: a (1 + 10 t / T)^-0.75 (SHOT's schedule, Liang et al. 2020; b is not used)
    - ``one_cycle`` (Smith and Topin 2018, in the form of torch's OneCycleLR): a half cosine from a / 25, or from
      `warmup_learning_rate`, up to a at the end of the rise, and one down to b at the last step.

    Args:
        step: Number of the step, from 0.
        total: Steps of the whole training.
        steps_per_epoch: For the length of the warm-up.
        config: The settings.
    """
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    if config.schedule == "one_cycle":
        return _one_cycle(step, total, warmup, config)
    if step < warmup:
        start = config.warmup_learning_rate
        return start + (config.learning_rate - start) * (step + 1) / warmup
    return _after_warmup((step - warmup) / (total - warmup), config)


def _after_warmup(done: float, config: LoopConfig) -> float:
    base, final = config.learning_rate, config.final_learning_rate
    if config.schedule == "cosine":
        return _half_cosine(base, final, done)
    if config.schedule == "exponential":
        return float(base * (final / base) ** done)
    if config.schedule == "inverse":
        return float(base * (1 + 10 * done) ** -0.75)
    return base


def _one_cycle(step: int, total: int, rise: int, config: LoopConfig) -> float:
    base = config.learning_rate
    start = config.warmup_learning_rate or base / _ONE_CYCLE_START
    peak = (rise if rise > 0 else _ONE_CYCLE_RISE * total) - 1
    if step <= peak:
        return _half_cosine(start, base, step / peak) if peak > 0 else base
    return _half_cosine(base, config.final_learning_rate, (step - max(peak, 0)) / max(total - 1 - max(peak, 0), 1))


def _half_cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2
