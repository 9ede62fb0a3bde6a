"""Which images a step sees, and the seeds of its randomness: pure functions of (seed, epoch, step).

Nothing here holds a random state, so there is none to save: a training that starts again at step 4,711 draws what it
would have drawn without the interruption.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..common.errors import expected

Purpose = Literal["order", "draws", "noise", "start", "end"]
_PURPOSES: dict[str, int] = {"order": 0, "draws": 1, "noise": 2, "start": 3, "end": 4}
_SMALL_ENOUGH_FOR_THE_DEVICE = 2 << 30


def seed_for(purpose: Purpose, seed: int, *position: int) -> int:
    """Returns a 63-bit seed that depends on every argument and on nothing else.

    Args:
        purpose: What it is for, so that equal positions of different purposes are independent.
        seed: The training's seed; may be negative.
        position: Epoch, step, rank, ... as non-negative numbers.
    """
    words = [_PURPOSES[purpose], seed % 2**64, *position]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_for(purpose: Purpose, seed: int, *position: int) -> torch.Generator:
    """Returns a CPU generator seeded with :func:`seed_for`."""
    return torch.Generator().manual_seed(seed_for(purpose, seed, *position))


def seed_global(seed: int, device: torch.device) -> None:
    """Seeds torch's global generators of the CPU and of `device`.

    ``torch.manual_seed`` would also queue a call, with a stack trace, for each kind of GPU that is not in use.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@lru_cache(maxsize=2)
def permutation(size: int, seed: int, epoch: int) -> Tensor:
    """Returns the order of `size` images in an epoch (int64 [size]), a pure function of (size, seed, epoch)."""
    return torch.randperm(size, generator=generator_for("order", seed, epoch))


@dataclass(frozen=True)
class Sampler:
    """Cuts each epoch's permutation into global batches.

    A last batch of a single image joins the batch before it, since batch norm has no variance of one image.

    Attributes:
        size: Number of images.
        batch_size: Images per batch, over all processes.
        seed: The training's seed.
        drop_last: Whether a smaller last batch is left out.

    Raises:
        UserError: There are no images, or fewer than one whole batch with `drop_last`.
    """

    size: int
    batch_size: int
    seed: int
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise expected("pixels", "at least one image", self.size, "Check the data set and its split.")
        if self.drop_last and self.size < self.batch_size:
            rule = f"at most the number of images ({self.size}) with drop_last"
            raise expected("batch_size", rule, self.batch_size, "Pass a smaller batch_size or drop_last=false.")

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        whole, rest = divmod(self.size, self.batch_size)
        if self.drop_last or (rest == 1 and whole > 0 and self.batch_size > 1):
            return whole
        return whole + (rest > 0)

    @property
    def images_per_epoch(self) -> int:
        """Number of images in an epoch."""
        return self.steps_per_epoch * self.batch_size if self.drop_last else self.size

    def images_before(self, step: int) -> int:
        """Returns how many images the first `step` steps of the training see."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return epoch * self.images_per_epoch + index * self.batch_size

    def batch(self, epoch: int, index: int) -> Tensor:
        """Returns the images (int64 [B]) of batch `index` of an epoch."""
        last = index == self.steps_per_epoch - 1
        stop = self.images_per_epoch if last else (index + 1) * self.batch_size
        return permutation(self.size, self.seed, epoch)[index * self.batch_size : stop]


def share(rows: builtins.slice, parts: int, index: int) -> builtins.slice:
    """Returns part `index` of `parts` contiguous, nearly equal parts of `rows`; the first ones get the rest.

    Example:
        >>> [share(slice(0, 5), 2, part) for part in (0, 1)]
        [slice(0, 3, None), slice(3, 5, None)]
    """
    whole, rest = divmod(rows.stop - rows.start, parts)
    start = rows.start + index * whole + min(index, rest)
    return builtins.slice(start, start + whole + (index < rest))


class Pixels:
    """Hands out images as uint8 tensors on the training device.

    On a GPU a set of at most 2 GiB that fills less than a quarter of the free memory is kept on the device whole.

    Args:
        pixels: uint8 [N, C, H, W], usually a memory map.
        device: Where images are wanted.

    Raises:
        UserError: Wrong type, shape or no image.
    """

    def __init__(self, pixels: np.ndarray, device: torch.device) -> None:
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 4:
            got = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise expected("pixels", "a numpy array of uint8 [N, C, H, W]", got, "Use faces.pixels(size).")
        self.array, self.device = pixels, device
        self._resident: Tensor | None = None
        if device.type == "cuda" and pixels.nbytes <= _SMALL_ENOUGH_FOR_THE_DEVICE:
            free, _ = torch.cuda.mem_get_info(device)
            if pixels.nbytes * 4 < free:
                self._resident = torch.from_numpy(np.array(pixels)).to(device)

    def __len__(self) -> int:
        return len(self.array)

    def __call__(self, indices: Tensor) -> Tensor:
        """Returns the images (uint8 [b, C, H, W]) at `indices` (int64 [b], any device)."""
        if self._resident is not None:
            return self._resident[indices.to(self.device)]
        chosen = torch.from_numpy(np.take(self.array, indices.cpu().numpy(), axis=0))
        if self.device.type == "cuda":
            return chosen.pin_memory().to(self.device, non_blocking=True)
        return chosen.to(self.device)
