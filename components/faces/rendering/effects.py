"""What the camera does to the finished drawing: light, blur, tone, vignette, compression, noise."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor

Values = Mapping[str, Tensor]

_BANK = 1 << 20


def blur(picture: Tensor, values: Values, limits: tuple[float, float], pixel: float) -> Tensor:
    """Blurs each image by its own radius, more along one axis where it moved.

    Three-tap kernels of variance sigma² (each at most 2/3 of a squared step), applied twice.

    Args:
        picture: ``[channels, rows, columns, images]``.
        values: ``blur``, ``motion`` (standard deviations in 1/48 of the image) and ``motion_axis``.
        limits: The largest blur and motion of the style; nothing is done where both are 0.
        pixel: Size of 1/48 of the image in pixels.
    """
    if max(limits) <= 0.0:
        return picture
    step = max(1, round(pixel))
    base, motion = values["blur"].square(), values["motion"].square()
    for axis, share in ((-2, values["motion_axis"]), (-3, 1.0 - values["motion_axis"])):
        variance = (base + motion * share) * (pixel / step) ** 2 * 0.5
        for _ in range(2):
            picture = _three_taps(picture, axis, step, variance.clamp(max=0.66) * 0.5)
    return picture


def _three_taps(picture: Tensor, axis: int, step: int, weight: Tensor) -> Tensor:
    length = picture.shape[axis]
    result = picture * (1.0 - 2.0 * weight)
    for near, far in ((0, step), (step, 0)):
        result.narrow(axis, near, length - step).addcmul_(picture.narrow(axis, far, length - step), weight)
    result.narrow(axis, 0, step).addcmul_(picture.narrow(axis, 0, step), weight)
    result.narrow(axis, length - step, step).addcmul_(picture.narrow(axis, length - step, step), weight)
    return result


def expose(picture: Tensor, values: Values) -> Tensor:
    """Applies vignette, tone curve, contrast, brightness and inversion in place."""
    size = picture.shape[1]
    line = torch.linspace(-1.0, 1.0, size)
    corners = (line[:, None].square() + line[None, :].square())[:, :, None] * 0.5
    picture.mul_(1.0 - corners * values["vignette"]).clamp_(0.0, 1.0)
    curve = picture.square().sub_(picture).mul_(values["gamma"])
    picture.add_(curve)
    sign = 1.0 - 2.0 * values["inverted"]
    return picture.sub_(0.5).mul_(values["gain"] * sign).add_(0.5 + values["offset"])


def tint(picture: Tensor, values: Values) -> Tensor:
    """Casts a colour over three-channel pictures in place: warm for positive, cold for negative values."""
    if picture.shape[0] == 3:
        cast = values["cast"]
        picture.mul_(torch.stack([1.0 + cast, 1.0 + 0.1 * cast, 1.0 - cast])[:, None, None, :])
    return picture


def compress(pictures: Tensor, strength: Tensor) -> Tensor:
    """Quantises 8x8 blocks in their cosine transform, as JPEG and video do.

    Args:
        pictures: ``[images, channels, rows, columns]``, 0 to 1.
        strength: Quantisation step of the higher frequencies, ``[images]``.
    """
    images, channels, rows, columns = pictures.shape
    down, right = -rows % 8, -columns % 8
    padded = torch.nn.functional.pad(pictures, (0, right, 0, down), mode="replicate")
    blocks = padded.unfold(2, 8, 8).unfold(3, 8, 8)
    basis = _cosines()
    frequencies = basis @ (blocks - 0.5) @ basis.T
    order = torch.arange(8.0)
    steps = (0.15 + (order[:, None] + order[None, :]) / 7.0) * strength[:, None, None, None, None, None]
    quantised = frequencies.div_(steps).round_().mul_(steps)
    blocks = (basis.T @ quantised @ basis).add_(0.5)
    whole = blocks.permute(0, 1, 2, 4, 3, 5).reshape(images, channels, rows + down, columns + right)
    return whole[:, :, :rows, :columns]


@cache
def _cosines() -> Tensor:
    order, place = np.arange(8.0)[:, None], np.arange(8.0)[None, :]
    basis = np.cos(np.pi * (2.0 * place + 1.0) * order / 16.0) * 0.5
    basis[0] /= np.sqrt(2.0)
    return torch.from_numpy(basis.astype(np.float32))


def add_noise(pictures: Tensor, values: Values, fine: bool, coarse: bool) -> Tensor:
    """Adds sensor noise and coarse grain in place.

    Every image adds two stretches of one fixed table of normal numbers, at places of its own.

    Args:
        pictures: ``[images, channels, rows, columns]``.
        values: ``noise``, ``grain`` (standard deviations) and the places ``noise_0`` to ``noise_3``.
        fine: Whether the style has noise.
        coarse: Whether the style has grain.
    """
    images, channels, rows, columns = pictures.shape
    if fine:
        amount = (values["noise"] * 0.7071)[:, None]
        length = channels * rows * columns
        flat = pictures.view(images, length)
        flat.add_((_stretch(values["noise_0"], length) + _stretch(values["noise_1"], length)) * amount)
    if coarse:
        high, wide = -(-rows // 2), -(-columns // 2)
        texture = _stretch(values["noise_2"], high * wide) + _stretch(values["noise_3"], high * wide)
        texture = (texture * (values["grain"] * 0.7071)[:, None]).view(images, 1, high, wide)
        pictures.add_(texture.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :rows, :columns])
    return pictures


def _stretch(where: Tensor, length: int) -> Tensor:
    bank = _bank(-(-length // _BANK))
    starts = (where.double() * (len(bank) - length)).long()
    return bank.unfold(0, length, 1)[starts]


@cache
def _bank(multiple: int) -> Tensor:
    numbers = np.random.Generator(np.random.Philox(key=20)).standard_normal(2 * multiple * _BANK, dtype=np.float32)
    return torch.from_numpy(numbers)
