"""Maps a function over a stream in threads, in order and in bounded memory."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    """Returns how many threads decode images: the processors that this process may use, at most 8."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, usable))


def begin(function: Callable[[], R]) -> Future[R]:
    """Starts a call in a thread of its own, which does not keep the process alive: for waits that may have no end.

    Args:
        function: What to call.

    Returns:
        Its result or error, once there is one; ``result(seconds)`` raises TimeoutError until then.
    """
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="ferry-waits", daemon=True).start()
    return future


def ordered_map(
    function: Callable[[T], R],
    items: Iterable[T],
    workers: int = 0,
    chunk: int = 8,
    weight: Callable[[T], int] | None = None,
    budget: int = 0,
) -> Iterator[tuple[T, R]]:
    """Yields ``(item, function(item))`` in the order of `items`.

    At most ``3 * workers * chunk`` items are in flight, so the memory does not grow with the stream. Pillow and the
    hash functions release the interpreter lock, which is why threads are enough.

    Args:
        function: What to do with one item, in a thread. Its error is raised here, in order.
        items: The stream; it is consumed in the calling thread only.
        workers: Number of threads; 0 takes :func:`default_workers`, 1 works without threads.
        chunk: Items that one thread takes at a time.
        weight: What an item adds to the load while it is in flight, such as its size in bytes.
        budget: No item is begun while the load is this or more.
    """
    workers = workers or default_workers()
    if workers == 1:
        for item in items:
            yield item, function(item)
        return
    stream = iter(items)
    pending: deque[tuple[list[T], Future[list[R]], int]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ferry-faces")
    load = 0
    try:
        while True:
            while (
                len(pending) < 3 * workers
                and (weight is None or load < budget)
                and (batch := list(islice(stream, chunk)))
            ):
                heavy = sum(map(weight, batch)) if weight else 0
                load += heavy
                pending.append((batch, pool.submit(_each, function, batch), heavy))
            if not pending:
                return
            batch, future, heavy = pending.popleft()
            yield from zip(batch, future.result(), strict=True)
            load -= heavy
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _each(function: Callable[[T], R], batch: list[T]) -> list[R]:
    return [function(item) for item in batch]
