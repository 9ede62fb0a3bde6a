"""What a checkpoint belongs to, and how every process gets it."""

from __future__ import annotations

import hashlib
import io
import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from ..common.files import finite
from . import distributed
from .checkpoint import Checkpoint, same_weights
from .config import LoopConfig
from .method import Begun, Method

logger = logging.getLogger("ferry")

_WHOLE_UP_TO = 1 << 30
_CHUNK = 16 << 20
_SAMPLE = 4096


def digest_of_pixels(pixels: np.ndarray) -> str:
    """Returns the SHA-256 (hex) of shape and content; above 1 GiB of evenly spaced images that make up 1 GiB.

    Args:
        pixels: uint8 [N, C, H, W].
    """
    digest = hashlib.sha256(repr(pixels.shape).encode())
    stride = -(-pixels.nbytes // _WHOLE_UP_TO)
    rows = max(1, _CHUNK * pixels.shape[0] // max(pixels.nbytes, 1)) * stride
    for start in range(0, len(pixels), rows):
        digest.update(pixels[start : start + rows : stride].tobytes())
    return digest.hexdigest()


@torch.no_grad()
def fingerprint_of(method: Method) -> float:
    """Returns a number that tells the weights of two methods apart, and takes milliseconds.

    Evenly spaced values of each tensor add the logarithm of their norm and their cosine with a fixed wave, so that
    other weights, or other statistics in one tensor, show from a few percent on. A digest of the bytes would also tell
    apart what is the same: the last bits of random numbers, unit vectors and re-estimated statistics differ between
    processors, and a training may go on elsewhere.

    Args:
        method: Its floating-point tensors count, not those that are all zero.

    Returns:
        A number to be compared by :func:`~ferry.training.checkpoint.same_weights`: rounding has borders, at which the
        last bits would decide.
    """
    total = 0.0
    for place, tensor in enumerate(method.state_dict().values()):
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            continue
        values = tensor.detach().flatten()
        values = values[:: 1 + len(values) // _SAMPLE].cpu().double()
        norm = float(values.norm())
        if norm > 0:
            cosine = float(values @ torch.arange(len(values), dtype=torch.float64).cos_()) / norm
            total += (1.5 + math.cos(place)) * (cosine + math.log(norm))
    return total


def identity_of(method: Method, pixels: np.ndarray, config: LoopConfig, name: str) -> dict[str, Any]:
    """Returns what makes a training this one: its name, settings, method, first weights and images.

    Process 0 alone has the checkpoint, hence the others need not read up to 1 GiB of pixels: they get an empty dict.
    """
    if distributed.rank() > 0:
        return {}
    identity = {
        "name": name,
        **config.identity(),
        "method": {"class": type(method).__name__, **method.describe()},
        "weights": fingerprint_of(method),
        "data": {"shape": list(pixels.shape), "digest": digest_of_pixels(pixels)},
    }
    plain: dict[str, Any] = finite(identity)
    return plain


def first_weights(method: Method, identity: Mapping[str, Any], file: Checkpoint | None) -> float | None:
    """Returns the fingerprint of the weights that a training began with.

    Weights that an earlier call of the same training left in the method are on its way, whatever ended that call: an
    error may have come between two checkpoints. All others are first weights themselves.

    Args:
        method: As it is now.
        identity: Of the training, with the method as it is now; may be empty.
        file: Its checkpoint.
    """
    begun, present = method.begun, identity.get("weights")
    same = begun is not None and begun.training == _without_weights(identity, file)
    return begun.first if begun is not None and same and same_weights(begun.left, present) else present


def resumed(
    method: Method, identity: Mapping[str, Any], file: Checkpoint | None, device: torch.device, name: str
) -> tuple[float | None, dict[str, Any] | None]:
    """Finds where a training goes on.

    Args:
        method: As it is now.
        identity: Of the training, with the method as it is now; may be empty.
        file: Its checkpoint.
        device: Of this training.
        name: What is trained, for messages.

    Returns:
        The fingerprint of its first weights, and the checkpoint's content, None where it starts anew.

    Raises:
        UserError: The checkpoint is damaged or of another training.
    """
    first = first_weights(method, identity, file)
    kept = load_shared(file, {**identity, "weights": first}, device)
    if kept is not None:
        return kept["identity"]["weights"], kept
    if not same_weights(first, identity.get("weights")):
        logger.warning("%s: starting with the weights that an earlier call left, as it left no checkpoint", name)
        first = identity["weights"]
    return first, None


def remember(method: Method, identity: Mapping[str, Any], file: Checkpoint | None, first: float | None) -> None:
    """Notes on a method which training the weights in it are of, for :func:`first_weights` of the next call."""
    if identity:
        with suppress(RuntimeError):  # a device that has failed gives no weights, and its own error is raised already
            method.begun = Begun(_without_weights(identity, file), first, fingerprint_of(method))


def _without_weights(identity: Mapping[str, Any], file: Checkpoint | None) -> dict[str, Any]:
    place = None if file is None else str(file.path.absolute())
    return {**identity, "weights": None, "file": place}


def load_shared(
    checkpoint: Checkpoint | None, identity: Mapping[str, Any], device: torch.device
) -> dict[str, Any] | None:
    """Returns the checkpoint's content in every process; only process 0 needs to see the file.

    Args:
        checkpoint: None for a training without one.
        identity: Of this training; only process 0 looks at it.
        device: Of this training.

    Raises:
        UserError: The checkpoint is damaged or of another training.
        RetryableError: In the other processes, when process 0 failed.
    """
    if checkpoint is None:
        return None
    if distributed.world_size() == 1:
        return checkpoint.load(identity)
    if distributed.rank() > 0:
        received = distributed.broadcast_bytes(b"", device)
        return torch.load(io.BytesIO(received), map_location="cpu", weights_only=True) if received else None
    try:
        content = checkpoint.load(identity)
    except BaseException:
        distributed.broadcast_bytes(None, device)
        raise
    buffer = io.BytesIO()
    if content is not None:
        torch.save(content, buffer)
    distributed.broadcast_bytes(buffer.getvalue(), device)
    return content
