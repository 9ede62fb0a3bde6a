"""Grace for SIGTERM and Ctrl-C: finish the step, write the checkpoint, then stop."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any

logger = logging.getLogger("ferry")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """While it is open, the first SIGTERM or SIGINT is only remembered; a second SIGINT interrupts at once.

    The handlers from before are put back at the end. Outside of the main thread signals cannot be caught, so there it
    does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        logger.warning("%s: finishing this step, then stopping.", signal.Signals(number).name)
