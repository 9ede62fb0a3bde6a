"""The history of a training: one record per log interval, one per epoch; to the method's watch and to the tracker."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..common.files import finite
from .meters import Meter
from .method import Method

if TYPE_CHECKING:
    from .tracking import Tracker

TIMES = ("images_per_second", "seconds")
"""Fields of records that are measured times: they differ between two runs of the same training."""

_NOT_TRACKED = ("step", "epoch", "seconds")


class History:
    """Collects the scalars of steps into records.

    Args:
        method: Its ``watch`` sees every record.
        device: Where the scalars come from.
        tracker: Gets the numbers, None for none.
    """

    def __init__(self, method: Method, device: torch.device, tracker: Tracker | None) -> None:
        self.records: list[dict[str, Any]] = []
        self._method, self._tracker = method, tracker
        self._interval, self._epoch = Meter(device), Meter(device)
        self._images = self._images_of_epoch = 0
        self._began = self._epoch_began = time.monotonic()

    @property
    def meters(self) -> tuple[Meter, Meter]:
        """Where a step puts its scalars."""
        return self._interval, self._epoch

    def start(self) -> None:
        """Starts the clocks of an epoch: work between epochs does not count into images per second."""
        self._began = self._epoch_began = time.monotonic()
        self._images = self._images_of_epoch = 0

    def count(self, images: int) -> None:
        """Counts the images of a step."""
        self._images += images
        self._images_of_epoch += images

    def add_steps(self, step: int, epoch: int, learning_rate: float) -> None:
        """Makes the record of a log interval.

        Args:
            step: Steps done.
            epoch: Number of the epoch, from 0.
            learning_rate: Of the last step.
        """
        now = time.monotonic()
        rate = round(self._images / max(now - self._began, 1e-9), 2)
        self._began, self._images = now, 0
        record = {"step": step, "epoch": epoch, "learning_rate": learning_rate, "images_per_second": rate}
        self._add("step", {**self._interval.read(), **record})

    def add_epoch(self, step: int, epoch: int, numbers: Mapping[str, float]) -> dict[str, Any]:
        """Makes and returns the record of an epoch.

        Args:
            step: Steps done.
            epoch: Number of the epoch, from 0.
            numbers: What the method's ``end_epoch`` returned.
        """
        seconds = time.monotonic() - self._epoch_began
        rate = round(self._images_of_epoch / max(seconds, 1e-9), 2)
        record = {"step": step, "epoch": epoch, "images_per_second": rate, "seconds": round(seconds, 3)}
        return self._add("epoch", {**self._epoch.read(), **numbers, **record})

    def state(self) -> dict[str, Any]:
        """Returns everything but the clocks, for a checkpoint."""
        return {
            "records": json.dumps(self.records, allow_nan=False),
            "interval": self._interval.state(),
            "epoch": self._epoch.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state` returned and shows the records to the method's watch again."""
        self.records = json.loads(state["records"])
        self._interval.load(state["interval"])
        self._epoch.load(state["epoch"])
        for record in self.records:
            self._method.watch({name: value for name, value in record.items() if name != "kind" and value is not None})

    def _add(self, kind: str, record: dict[str, Any]) -> dict[str, Any]:
        self._method.watch(record)
        kept = {"kind": kind, **finite(record)}
        self.records.append(kept)
        if self._tracker is not None:
            prefix = "epoch/" if kind == "epoch" else ""
            numbers = {prefix + name: value for name, value in record.items() if name not in _NOT_TRACKED}
            self._tracker.metrics(numbers, int(record["step"]))
        return kept
