"""One promotion or registration at a time, across processes and machines, with nothing but tags of a registered model.

MLflow offers no compare-and-set, so a lock in one shared tag cannot work: between reading "free" and writing "mine"
another process may do the same. Here every process raises a flag of its own, a tag that nobody else writes, and then
looks at all flags. Whoever sees only its own may go on. Of two processes at least one sees the other's flag, since
each raises its own before it looks; so never two go on. Those that see another's lower their own, wait a random
while, and try again.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..common.errors import RetryableError

PREFIX = "ferry.promotion."
"""Prefix of the tags on the registered model; the rest is random, the value is seconds since the epoch."""
STALE_SECONDS = 120.0
"""A flag older than this belongs to a process that was killed; clocks of machines may differ by a good part of it."""
PATIENCE_SECONDS = 30.0
"""How long to wait for others."""


class Held:
    """The lock while it is held.

    Args:
        deadline: When others will take it for abandoned (monotonic clock).
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def check(self) -> None:
        """Raises RetryableError when others may soon take the lock over: call it before every change."""
        if time.monotonic() > self._deadline:
            raise RetryableError(
                "Expected `MLflow` to answer within a minute, but got a change of aliases that took longer. "
                "Look at the aliases with: ferry models, then try again."
            )


@contextmanager
def alone(client: Any, name: str, patience: float = PATIENCE_SECONDS) -> Iterator[Held]:
    """Holds a registered model for one change of its aliases.

    Args:
        client: MLflow client.
        name: A model that exists.
        patience: Seconds to wait for others.

    Raises:
        RetryableError: Others hold it for longer than that.
    """
    key, end = PREFIX + uuid.uuid4().hex, time.monotonic() + patience
    pause = 0.1
    while True:
        raised = time.monotonic()
        client.set_registered_model_tag(name, key, f"{time.time():.3f}")
        try:
            if not _others(client, name, key):
                yield Held(raised + STALE_SECONDS / 2)
                return
        finally:
            client.delete_registered_model_tag(name, key)
        if time.monotonic() > end:
            raise RetryableError(
                f"Expected `{name}` to be free, but got a promotion or registration under way. Try again in a minute."
            )
        time.sleep(random.uniform(0, pause))  # noqa: S311 - any spread will do
        pause = min(2 * pause, 2.0)


def _others(client: Any, name: str, key: str) -> list[str]:
    """Returns the flags of others, without those that were abandoned, which it lowers."""
    tags = dict(client.get_registered_model(name).tags)
    flags = {other: value for other, value in tags.items() if other.startswith(PREFIX) and other != key}
    alive = [other for other, value in flags.items() if _age(value) < STALE_SECONDS]
    for other in flags.keys() - set(alive):
        client.delete_registered_model_tag(name, other)
    return alive


def _age(value: str) -> float:
    try:
        return abs(time.time() - float(value))  # a time far in the future is a wrong clock, not a long lock
    except ValueError:
        return STALE_SECONDS
