"""A training's checkpoint in an object store, for machines that come and go."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

from ..faces.addresses import S3Source
from ..faces.object_store import ObjectStore

logger = logging.getLogger("ferry")

_LAST_SECONDS = 25.0
"""How long the end of a training waits for the last upload: Kubernetes gives 30 s to a pod that must go."""


class Mirror:
    """Keeps the newest checkpoint under one key; uploads happen in a thread and never stop the training.

    Args:
        uri: ``s3://bucket/key``.
        store: The store; from the environment by default.

    Raises:
        UserError: It is no such address, or the environment names no store.
    """

    def __init__(self, uri: str, store: ObjectStore | None = None) -> None:
        self.uri, self._place = uri, S3Source.parse(uri)
        self._store = store or ObjectStore()
        self._lock, self._wake, self._idle = threading.Lock(), threading.Event(), threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None
        self._next, self._now = Path(), Path()
        self._warned = False

    def fetch(self, path: Path) -> None:
        """Downloads the checkpoint where there is one in the store and none here.

        Args:
            path: The file.

        Raises:
            RetryableError: The store cannot be reached: a training must not begin anew for that.
            UserError: A key or the bucket is wrong.
        """
        if path.exists():
            return
        found = self._store.find(self._place.bucket, self._place.prefix)
        if found is not None:
            self._store.save(self._place.bucket, found, path)
            logger.info("The checkpoint %s was taken from %s.", path.name, self.uri)

    def send(self, path: Path) -> None:
        """Uploads the checkpoint as it is now; one that still waits is replaced by it.

        Args:
            path: The file.
        """
        with self._lock:
            # Names that a checkpoint's next reader removes, should this process be killed.
            self._next, self._now = (path.with_name(f".{path.name}.{word}") for word in ("to_upload", "uploading"))
            try:
                self._next.unlink(missing_ok=True)
                try:
                    os.link(path, self._next)
                except OSError:  # a file system without hard links
                    shutil.copyfile(path, self._next)
            except OSError as error:
                self._warn(error)
                return
            self._idle.clear()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="checkpoint-upload", daemon=True)
            self._thread.start()
        self._wake.set()

    def settle(self) -> None:
        """Waits, but not long, until the newest checkpoint is in the store."""
        if not self._idle.wait(_LAST_SECONDS):
            logger.warning("The last checkpoint may not have reached %s.", self.uri)

    def _work(self) -> None:
        while self._wake.wait():
            try:
                with self._lock:
                    self._wake.clear()
                    if not self._next.exists():
                        self._idle.set()
                        continue
                    os.replace(self._next, self._now)
                self._store.upload(self._now, self._place.bucket, self._place.prefix)
            except Exception as error:  # whatever it is, the training goes on, and the next one is tried
                self._warn(error)
            finally:
                with suppress(OSError):
                    self._now.unlink(missing_ok=True)
            self._wake.set()  # there may be a newer one

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("The checkpoint stays on this machine. %s", error)
