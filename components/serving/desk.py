"""Takes requests for predictions: a bounded number of them, one at work at a time, in a thread beside the server's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from starlette.requests import Request

from ..common.errors import UserError
from ..faces.requests import requested_pixels
from .bodies import Cells, Refusal, gone, read_body
from .holder import ModelHolder
from .metrics import Metrics
from .origins import ServedModel
from .settings import ServeSettings

logger = logging.getLogger("ferry")

_RETRY_SECONDS = 2


class Desk:
    """Answers requests for predictions, in the order in which their bodies are there.

    Args:
        holder: Has the model.
        settings: Limits.
        metrics: Told about predictions.
    """

    def __init__(self, holder: ModelHolder, settings: ServeSettings, metrics: Metrics) -> None:
        self._holder, self._settings, self._metrics = holder, settings, metrics
        self._turn = asyncio.Lock()
        # One thread, always the same: each one that calls torch would get a pool of threads of its own.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="ferry-inference")
        self._inside = 0

    async def answer(self, request: Request, reader: Callable[[bytes, int], Cells]) -> dict[str, Any]:
        """Answers one request.

        Args:
            request: The request; its body is not read where it is refused at once.
            reader: Finds the pictures in the body.

        Returns:
            The answer: ``predictions`` and ``model``.

        Raises:
            Refusal: There is no model, or too many requests wait, or the request is wrong.
        """
        if self._holder.current is None:
            raise no_model(self._holder)
        # Counted before the body is read, so that bodies cannot fill the memory.
        if self._inside > self._settings.max_waiting:
            got = f"Expected `requests waiting` to be at most {self._settings.max_waiting}, but got one more."
            raise Refusal(503, f"{got} Try again later, or start more servers.", _RETRY_SECONDS)
        self._enter(1)
        try:
            body = await read_body(request, self._settings.max_bytes)
            async with self._turn:
                if await request.is_disconnected():  # nobody waits for it any more
                    raise gone()
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._worker, self._work, body, reader)
        except asyncio.CancelledError:  # the time for requests at work is over: an answer is better than none
            raise Refusal(
                503, "Expected `server` to run, but got told to end. Ask another one.", _RETRY_SECONDS
            ) from None
        finally:
            self._enter(-1)

    def _enter(self, number: int) -> None:
        self._inside += number
        self._metrics.in_flight(self._inside)

    def _work(self, body: bytes, reader: Callable[[bytes, int], Cells]) -> dict[str, Any]:
        cells = reader(body, self._settings.max_instances)
        model = self._holder.current  # the same for the whole request, also where it is swapped meanwhile
        if model is None:
            raise no_model(self._holder)
        size, channels = model.source.input_size, model.source.channels
        try:
            pixels = [requested_pixels(cell, where, size, channels) for where, cell in cells]
        except UserError as error:
            raise Refusal(400, str(error)) from None
        return {"predictions": self._predictions(model, pixels), "model": model.to_json()}

    def _predictions(self, model: ServedModel, pixels: list[np.ndarray]) -> list[dict[str, Any]]:
        if not pixels:
            return []
        try:
            with self._holder.busy:
                chances = model.probabilities(np.stack(pixels), self._settings.device)
        except UserError as error:  # of the model, not of the request
            logger.error("%s: no prediction. %s", model.name, error)
            fix = "See the server's log."
            raise Refusal(500, f"Expected `model` to give predictions, but got an error. {fix}") from None
        classes, best = model.source.classes, chances.argmax(axis=1)
        labels = [classes[index] for index in best]
        self._metrics.predicted(labels, chances.max(axis=1).tolist())
        named = [dict(zip(classes, row, strict=True)) for row in chances.tolist()]
        return [{"label": label, "probabilities": one} for label, one in zip(labels, named, strict=True)]


def no_model(holder: ModelHolder) -> Refusal:
    """Returns the refusal while there is no model yet, with the reason."""
    return Refusal(503, f"Expected `model` to be loaded, but got: {holder.reason}", _RETRY_SECONDS)
