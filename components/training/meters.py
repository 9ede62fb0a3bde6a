"""Means of the scalars that steps return, kept on the device so that no step waits for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Sums:
    """Weighted sum of each scalar.

    Args:
        device: Where the scalars come from.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._values: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}

    @torch.no_grad()
    def add(self, scalars: Mapping[str, Tensor | float], weight: float) -> None:
        """Adds scalars.

        Args:
            scalars: Name and value.
            weight: Their weight; with 0 a value (which may be NaN then) does not count.
        """
        for name, value in scalars.items():
            if name not in self._values:
                self._values[name] = torch.zeros((), dtype=self._dtype, device=self._device)
                self._weights[name] = 0.0
            if weight > 0:
                if isinstance(value, Tensor):
                    value = value.detach().to(self._device, self._dtype)
                self._values[name] += value * weight
                self._weights[name] += weight

    def means(self) -> dict[str, Tensor | float]:
        """Returns the means, on the device."""
        return {name: value / self._weights[name] for name, value in self._values.items() if self._weights[name] > 0}

    def numbers(self) -> tuple[list[str], list[float]]:
        """Returns the names in order, and sums followed by weights, on the CPU."""
        names = sorted(self._values)
        sums = torch.stack([self._values[name] for name in names]).tolist()
        return names, [*sums, *(self._weights[name] for name in names)]


class Meter(Sums):
    """Mean of each scalar since the last reading."""

    def read(self) -> dict[str, float]:
        """Returns the means and forgets everything."""
        if not self._values:
            return {}
        names, numbers = self.numbers()
        self._values, self._weights = {}, {}
        pairs = zip(numbers[: len(names)], numbers[len(names) :], strict=True)
        return {name: total / weight for name, (total, weight) in zip(names, pairs, strict=True) if weight > 0}

    def state(self) -> dict[str, Any]:
        """Returns everything, for a checkpoint."""
        return {"values": dict(self._values), "weights": dict(self._weights)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state` returned."""
        self._values = {name: value.to(self._device) for name, value in state["values"].items()}
        self._weights = dict(state["weights"])
