"""One crash-safe file that holds all of a training, and the one before it."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import pickle  # for the name of the error that torch.load raises; nothing is unpickled here
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..common.checkpoints import address_of
from ..common.errors import expected
from ..common.files import atomic_file

if TYPE_CHECKING:
    from .mirror import Mirror

logger = logging.getLogger("ferry")

FORMAT = 2
"""2 knows the weights that the training began with and those that it has now; 1 did not."""
_NOISE = 1e-3
"""Difference of two fingerprints up to which weights are the same."""
_SEAL = b"ferry-sha256:"
_SEAL_LENGTH = len(_SEAL) + hashlib.sha256().digest_size


class Checkpoint:
    """Reads and writes a training's checkpoint.

    A checkpoint is written to a temporary file in the same folder, synced and renamed, so that a killed process or a
    full disk leaves the old one whole. The one before is kept as ``NAME.previous``. Where the environment names an
    object store, the newest one is kept there too (:class:`~ferry.training.mirror.Mirror`).

    Args:
        path: The file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.previous = self.path.with_name(self.path.name + ".previous")
        self._worth_keeping = True
        self._mirror: Mirror | None = None
        if address := address_of(self.path):
            from .mirror import Mirror

            self._mirror = Mirror(address)

    def load(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the newest good checkpoint, None where there is none.

        Args:
            identity: What the training is; a checkpoint of another one is refused.

        Raises:
            UserError: All checkpoints are damaged, or they belong to another training.
            RetryableError: The object store that may have one cannot be reached.
        """
        self._remove_leftovers()
        if self._mirror is not None:
            self._mirror.fetch(self.path)
        damaged = []
        for path in (self.path, self.previous):
            if not path.exists():
                continue
            try:
                content = read_checkpoint(path)
            except DamagedCheckpoint as error:
                logger.warning("The checkpoint %s is damaged (%s).", path, error)
                damaged.append(path)
                self._worth_keeping = self._worth_keeping and path != self.path
                continue
            found, weights = dict(content["identity"]), identity.get("weights")
            # the second: the same call again, on what it has trained so far
            if same_weights(found.get("weights"), weights) or same_weights(content.get("current_weights"), weights):
                found["weights"] = weights
            _check_identity(path, found, identity)
            if path == self.previous:
                logger.warning("Going on from the checkpoint before it, %s.", path)
            return content
        if damaged:
            files = " and ".join(map(str, damaged))
            raise expected("checkpoint", "readable", f"damaged: {files}", "Delete it to start this training again.")
        return None

    def save(self, content: Mapping[str, Any]) -> None:
        """Writes a checkpoint and keeps the one before.

        Args:
            content: Tensors, numbers, texts, lists and dicts of those; with ``identity``.

        Raises:
            RetryableError: The disk is full; both older checkpoints are as they were.
            UserError: The folder cannot be written.
        """
        buffer = io.BytesIO()  # torch.save into a file hides the reason of a failed write
        torch.save({"format": FORMAT, **content}, buffer)
        with atomic_file(self.path) as file:
            file.write(buffer.getbuffer())
            file.write(_SEAL + hashlib.sha256(buffer.getbuffer()).digest())
            file.flush()
            os.fsync(file.fileno())
            if self._worth_keeping:  # a damaged file must not take the place of the good one before it
                self._keep_current()
        self._worth_keeping = True
        if self._mirror is not None:
            self._mirror.send(self.path)

    def settle(self) -> None:
        """Waits, but not long, until the newest checkpoint is where it is kept."""
        if self._mirror is not None:
            self._mirror.settle()

    def _keep_current(self) -> None:
        """Makes the present file also the previous one; it never goes away in between."""
        if not self.path.exists():
            return
        temporary = self.previous.with_name(f".{self.previous.name}.{os.getpid():08d}")
        temporary.unlink(missing_ok=True)
        try:
            os.link(self.path, temporary)
        except OSError:  # a file system without hard links
            with atomic_file(self.previous) as file, open(self.path, "rb") as source:
                shutil.copyfileobj(source, file)
            return
        os.replace(temporary, self.previous)

    def _remove_leftovers(self) -> None:
        """Removes temporary files that a killed process left behind."""
        if not self.path.parent.is_dir():
            return
        name = re.compile(rf"\.{re.escape(self.path.name)}(\.previous)?\.[a-z0-9_]{{8,}}")
        for entry in self.path.parent.iterdir():
            if name.fullmatch(entry.name):
                entry.unlink(missing_ok=True)


def same_weights(one: float | None, other: float | None) -> bool:
    """Tells whether two fingerprints are of the same weights, but for noise.

    Relative noise of 1e-5, more than processors differ by, moved the fingerprint of a ResNet-18 by up to 2e-4; those
    of two seeds differ by some tenths or more.

    Args:
        one: As :func:`~ferry.training.resume.fingerprint_of` makes it; None where a training has none.
        other: Likewise.
    """
    if one is None or other is None:
        return one is other
    return abs(one - other) <= _NOISE or (math.isnan(one) and math.isnan(other))


class DamagedCheckpoint(Exception):
    """A checkpoint's bytes are not what was written."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint whole, proves its digest, and returns it with tensors on the CPU.

    Args:
        path: The file.

    Raises:
        DamagedCheckpoint: It cannot be read as one.
        UserError: Another version of Ferry wrote it.
    """
    written = memoryview(path.read_bytes())
    body, seal = written[:-_SEAL_LENGTH], written[-_SEAL_LENGTH:]
    # The checksums inside torch's zip format miss changes in its directory, so the whole file has its own.
    if bytes(seal) != _SEAL + hashlib.sha256(body).digest():
        raise DamagedCheckpoint("its digest is wrong")
    try:
        content = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise DamagedCheckpoint((str(error).splitlines() or [""])[0][:200]) from error
    if not isinstance(content, dict) or not isinstance(content.get("identity"), dict):
        raise DamagedCheckpoint("it does not hold a training")
    if content.get("format") != FORMAT:
        fix = "Delete it to start this training again, or use the version of Ferry that wrote it."
        raise expected("checkpoint", f"of format {FORMAT}", f"{path} of format {content.get('format')}", fix)
    return content


def _check_identity(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises an error that names each difference between two descriptions of a training."""
    found, wanted = _flat(found), _flat(wanted)
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if names:
        pairs = [f"{name} {_word(found.get(name))} there, {_word(wanted.get(name))} here" for name in names]
        fix = "Delete the file to start again, or run with the settings, data and first weights that it was made with."
        raise expected("checkpoint", "of this training", f"{path} with {'; '.join(pairs[:8])}", fix)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result.update(_flat(value, f"{prefix}{name}."))
        else:
            result[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return result


def _word(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
