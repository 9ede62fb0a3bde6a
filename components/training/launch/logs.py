"""The log of a TrainJob's first machine, line by line among the stage's own."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from typing import Any

from ...common.errors import FerryError
from .kubernetes import Cluster, machine_of

_LOOK_EVERY = 2.0
_LAST_SECONDS = 10.0
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z ?(.*)", re.DOTALL)

logger = logging.getLogger("ferry")


class JobLogs:
    """Follows a job's log in a thread while it is open; says why machines do not start.

    Args:
        cluster: The cluster.
        name: The job.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._closed = threading.Event()
        self._said = ""
        self._seen, self._rest, self._read = ("", ""), b"", 0.0
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
                pods = self._cluster.pods(self._name)
                waiting = [pod for pod in pods if pod.status.phase == "Pending"]
                if waiting or not pods:
                    self._say(_reason(waiting[0]) if waiting else "waiting for its pods")
                if pods and machine_of(pods[0]) == 0 and pods[0].status.phase != "Pending":
                    if not waiting:  # else this would hide why another machine does not start
                        self._follow(pods[0].metadata.name)
                    if pods[0].status.phase in ("Succeeded", "Failed"):
                        self._follow(pods[0].metadata.name)
                        if self._rest:  # a last line without an end
                            self._copy(self._rest.decode("utf-8", errors="replace") + "\n", self._seen)
                        return
            except FerryError as error:  # the job goes on without its log
                self._say(str(error))
            if closed:
                return
            self._closed.wait(_LOOK_EVERY)

    def _follow(self, pod: str) -> None:
        """Copies what the log has that was not copied yet, until it ends or pauses for long."""
        since = int(time.monotonic() - self._read) + 2 if self._read else None
        known, self._rest = self._seen, b""  # the cluster tells the last seconds again
        for part in self._cluster.follow_log(pod, since):
            self._read = time.monotonic()
            *lines, self._rest = (self._rest + part).split(b"\n")
            for line in lines:
                self._copy(line.decode("utf-8", errors="replace") + "\n", known)

    def _copy(self, line: str, known: tuple[str, str]) -> None:
        found = _STAMP.fullmatch(line)
        if found is None:
            sys.stderr.write(line)
            return
        moment = (found[1], (found[2] or "").ljust(9, "0"))
        if moment > known:
            self._seen = moment
            sys.stderr.write(found[3])
            sys.stderr.flush()

    def _say(self, reason: str) -> None:
        if reason and reason != self._said:
            self._said = reason
            logger.info("TrainJob %s: %s", self._name, reason)


def _reason(pod: Any) -> str:
    """Returns why a pod has not started, as the cluster says it."""
    machine = f"machine {machine_of(pod)}"
    for status in pod.status.container_statuses or []:
        waiting = status.state.waiting if status.state else None
        if waiting and waiting.reason not in ("ContainerCreating", "PodInitializing"):
            return f"{machine}, {waiting.reason}: {waiting.message or ''}".rstrip(": ")
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{machine}, {condition.reason}: {condition.message}"
    return f"{machine} starts"
