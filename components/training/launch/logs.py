"""The log of a TrainJob's first machine, line by line among the stage's own."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any

from ...common.errors import FerryError
from .kubernetes import Cluster

_LOOK_EVERY = 2.0
_LAST_SECONDS = 10.0

logger = logging.getLogger("ferry")


class JobLogs:
    """Follows a job's log in a thread while it is open; says why its first pod does not start.

    Args:
        cluster: The cluster.
        name: The job.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._closed = threading.Event()
        self._said = ""
        self._read: float | None = None
        self._thread = threading.Thread(target=self._work, name="trainjob-log", daemon=True)

    def __enter__(self) -> JobLogs:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._closed.set()
        if kind is None:
            self._thread.join(_LAST_SECONDS)

    def _work(self) -> None:
        while True:
            closed = self._closed.is_set()
            try:
                pod = self._cluster.first_pod(self._name)
                if pod is None or pod.status.phase == "Pending":
                    self._say(_waiting(pod))
                elif self._follow(pod):
                    return
            except FerryError as error:  # the job goes on without its log
                self._say(str(error))
            if closed:
                return
            self._closed.wait(_LOOK_EVERY)

    def _follow(self, pod: Any) -> bool:
        """Copies the log; returns whether it has come to its end."""
        since = None if self._read is None else int(time.monotonic() - self._read) + 1
        for part in self._cluster.follow_log(pod.metadata.name, since):
            self._read = time.monotonic()
            sys.stderr.write(part.decode("utf-8", errors="replace"))
            sys.stderr.flush()
        again = self._cluster.first_pod(self._name)
        return again is None or again.status.phase in ("Succeeded", "Failed")

    def _say(self, reason: str) -> None:
        if reason and reason != self._said:
            self._said = reason
            logger.info("TrainJob %s: %s", self._name, reason)


def _waiting(pod: Any) -> str:
    """Returns why a pod has not started, as the cluster says it."""
    if pod is None:
        return "waiting for its pods"
    for status in pod.status.container_statuses or []:
        waiting = status.state.waiting if status.state else None
        if waiting and waiting.reason not in ("ContainerCreating", "PodInitializing"):
            return f"{waiting.reason}: {waiting.message or ''}".rstrip(": ")
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message}"
    return "its first pod starts"
