"""What a training will cost, said before it is paid."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..common.progress import duration

_WARM_UP_STEPS = 2
_MEASURED_STEPS = 10
_LONG_STEPS_SECONDS = 20.0
WORTH_SAYING_SECONDS = 60.0
"""Trainings that take longer than this get a written estimate."""


@dataclass(frozen=True)
class Estimate:
    """What is left to do when the speed is first known.

    Attributes:
        images: Images (with repetition) that are left.
        images_per_second: Measured rate.
        seconds: Time for them.
        tflop: Work for them in 10^12 floating-point operations, None where the method does not say.
    """

    images: int
    images_per_second: float
    seconds: float
    tflop: float | None

    def __str__(self) -> str:
        work = "" if self.tflop is None else f" ({self.tflop:,.1f} TFLOP)"
        rate = f"{self.images_per_second:,.0f}" if self.images_per_second >= 10 else f"{self.images_per_second:.2g}"
        return f"about {duration(self.seconds)} for {self.images:,} images at {rate} images/s{work}"


class Stopwatch:
    """Measures the first steps of a training and makes the estimate once.

    The first two steps (memory, kernels) are not counted; ten steps are, or as many as fit into 20 seconds.

    Args:
        flops_per_image: Of the method, 0 where unknown.
    """

    def __init__(self, flops_per_image: float) -> None:
        self._flops = flops_per_image
        self._steps = self._images = 0
        self._began = 0.0
        self.estimate: Estimate | None = None

    def step(self, images: int, left: int) -> Estimate | None:
        """Counts one step; returns the estimate when it is first made.

        Args:
            images: Images of the step.
            left: Images that are left after it.
        """
        if self.estimate is not None:
            return None
        self._steps += 1
        now = time.monotonic()
        if self._steps <= _WARM_UP_STEPS:
            self._began = now
            return None
        self._images += images
        seconds = now - self._began
        if self._steps < _WARM_UP_STEPS + _MEASURED_STEPS and seconds < _LONG_STEPS_SECONDS:
            return None
        rate = self._images / max(seconds, 1e-9)
        tflop = self._flops * left / 1e12 if self._flops > 0 else None
        self.estimate = Estimate(left, rate, left / rate, tflop)
        return self.estimate


def flops_of(work: Callable[[], Any]) -> float:
    """Counts the floating-point operations of matrix products and convolutions in a call (2 per multiply-add).

    Args:
        work: Does the work; with a backward pass inside, that counts too.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())
