"""Holds the model that answers: loads it, follows its alias, and swaps it while requests go on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..common.errors import FerryError, RetryableError, of_the_system
from ..common.progress import duration
from .metrics import Metrics
from .origins import Origin, Revision, ServedModel
from .settings import ServeSettings

if TYPE_CHECKING:
    from ..networks import Classifier

logger = logging.getLogger("ferry")

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_FAREWELL_SECONDS = 10.0


class ModelHolder:
    """Loads a model in a thread of its own, and follows what its address means.

    At the start, whatever a retry can help is tried again, with growing pauses; everything else ends the thread. Later
    on nothing ends it: while a refresh fails, the model so far goes on answering. A new model is loaded and tried on a
    blank picture beside the old one, and then takes its place at once; requests at work keep the model they have.

    Args:
        origin: Where the model comes from.
        settings: Device and pause between two looks.
        metrics: Told about models and failures.

    Attributes:
        current: The model that answers, or None before there is one.
        reason: Why there is none.
        failure: What ended the thread.
        busy: Held by whoever computes: one inference at a time.
    """

    def __init__(self, origin: Origin, settings: ServeSettings, metrics: Metrics) -> None:
        self.name = origin.name
        self.current: ServedModel | None = None
        self.reason = "the model is being loaded"
        self.failure: Exception | None = None
        self.busy = threading.Lock()
        self._origin, self._settings, self._metrics = origin, settings, metrics
        self._revision: Revision | None = None
        self._problem = ""
        self._stop = threading.Event()
        # A daemon: a registry that does not answer must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="ferry-model", daemon=True)
        self._give_up: Callable[[], object] = lambda: None

    def start(self, give_up: Callable[[], object]) -> None:
        """Starts the thread.

        Args:
            give_up: Called once :attr:`failure` says why there will be no model.
        """
        self._give_up = give_up
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; one that waits for a registry is left behind."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_FAREWELL_SECONDS)

    def load_first(self) -> None:
        """Loads the model, as often as a retry can help.

        Raises:
            FerryError: There is no such model, or it is damaged.
        """
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            try:
                self._take(self._origin.look())
                return
            except (RetryableError, OSError) as error:
                problem = error if isinstance(error, FerryError) else of_the_system(error)
                if not isinstance(problem, RetryableError):
                    raise problem from error
                if str(problem) != self.reason:
                    logger.warning("%s: no model yet, trying again and again. %s", self.name, problem)
                self.reason = str(problem)
            self._stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def refresh(self) -> None:
        """Looks at the address once, and swaps the model where it has come to mean another one. Raises nothing."""
        try:
            revision = self._origin.look()
            if revision != self._revision:
                self._take(revision)
        except Exception as error:  # whatever it is, the model so far goes on answering
            self._metrics.refresh_failed(True)
            problem = str(error) or type(error).__name__
            if problem != self._problem:
                logger.error("%s: the refresh failed, the model stays as it is. %s", self.name, problem)
            self._problem = problem
            return
        self._metrics.refresh_failed(False)
        if self._problem:
            logger.info("%s: the refresh works again", self.name)
        self._problem = ""

    def _run(self) -> None:
        try:
            self.load_first()
        except Exception as error:  # whoever started the thread raises it
            self.failure = error
            self._give_up()
            return
        if self._origin.moves and self._settings.refresh:
            while not self._stop.wait(self._settings.refresh):
                self.refresh()

    def _take(self, revision: Revision) -> None:
        """Loads a revision, tries it, and lets it answer from now on."""
        began = time.monotonic()
        source = self._origin.load(revision)
        if source.classifier is not None:
            _place(source.classifier, self._settings.device)
        model = ServedModel(self.name, revision.version, source)
        blank = np.zeros((1, source.channels, source.input_size, source.input_size), np.uint8)
        with self.busy:
            model.probabilities(blank, self._settings.device)
        self.current, self._revision, self.reason = model, revision, ""
        self._metrics.model(model.name, model.version or "", source.digest)
        what = f"version {model.version}, digest" if model.version else "digest"
        seconds = duration(time.monotonic() - began)
        logger.info("%s: %s %s answers, loaded in %s", self.name, what, source.digest[:12], seconds)


def _place(classifier: Classifier, device: str) -> None:
    """Puts weights where they compute, once: inference would else move them there and back for every request."""
    import torch

    from ..training.devices import resolve_device

    classifier.to(device=resolve_device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
