"""Colour operations on whole batches, equal to torchvision's per sample, on planes float32 [C, n, H, W] in 0..1."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, ViewParameters
from .spec import ViewSpec

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's and Pillow's weights of red, green, blue
_TINY = 1e-30


def gray(planes: Tensor) -> Tensor:
    """Luma of each pixel: [3, n, H, W] to [n, H, W]."""
    red, green, blue = planes.unbind()
    return torch.mul(red, _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def mean_gray(planes: Tensor) -> Tensor:
    """Mean luma of each sample: [C, n, H, W] to [n]; of one channel, its mean."""
    means = planes.mean(dim=(2, 3))
    if len(planes) == 1:
        return means[0]
    return means[0] * _LUMA[0] + means[1] * _LUMA[1] + means[2] * _LUMA[2]


def adjust_brightness(planes: Tensor, factor: Tensor) -> Tensor:
    """Multiplies each sample by its factor, in place. `factor` is float32 [n]."""
    return planes.mul_(factor.view(-1, 1, 1)).clamp_(0.0, 1.0)


def adjust_contrast(planes: Tensor, factor: Tensor) -> Tensor:
    """Multiplies each sample's distance from its mean luma, in place. `factor` is float32 [n]."""
    offset = mean_gray(planes).mul_(1.0 - factor).view(-1, 1, 1)
    return torch.addcmul(offset, planes, factor.view(-1, 1, 1), out=planes).clamp_(0.0, 1.0)


def adjust_saturation(planes: Tensor, factor: Tensor) -> Tensor:
    """Multiplies each pixel's distance from its own luma, in place. `factor` is float32 [n]."""
    return planes.lerp_(gray(planes), (1.0 - factor).view(-1, 1, 1)).clamp_(0.0, 1.0)


def adjust_hue(planes: Tensor, turns: Tensor) -> Tensor:
    """Turns the hue in the HSV hexagon, in place.

    A channel is ``v - (v - min) * w`` with w a trapezoid over the hue whose middle is opposite to the channel. This
    is the usual table of six sectors in closed form, so it needs neither the table nor a gather.

    Args:
        planes: float32 [3, n, H, W].
        turns: float32 [n], parts of a full turn.
    """
    red, green, blue = planes.unbind()
    top = torch.maximum(red, green)
    chroma = torch.minimum(red, green)
    top, chroma = torch.maximum(top, blue, out=top), torch.minimum(chroma, blue, out=chroma)
    torch.sub(top, chroma, out=chroma)
    hue = torch.where(
        top == green,
        torch.sub(blue, red).add_(chroma, alpha=2.0),
        torch.sub(red, green).add_(chroma, alpha=4.0),
    )
    hue = torch.where(top == red, green - blue, hue)
    # A grey pixel has chroma 0 and numerator 0, hence some finite hue, which its chroma makes irrelevant below.
    hue.div_(chroma.clamp_min(_TINY)).mul_(1.0 / 6.0).add_(turns.view(-1, 1, 1))
    opposite = planes.new_tensor((1.0 / 2.0, 5.0 / 6.0, 1.0 / 6.0)).view(3, 1, 1, 1)
    weight = hue - opposite
    weight.sub_(weight.round()).abs_().mul_(-6.0).add_(2.0).clamp_(0.0, 1.0)
    return torch.addcmul(top, chroma, weight, value=-1.0, out=planes)


_OPERATIONS = {
    BRIGHTNESS: adjust_brightness,
    CONTRAST: adjust_contrast,
    SATURATION: adjust_saturation,
    HUE: adjust_hue,
}


def jitter_order(parameters: ViewParameters, spec: ViewSpec, channels: int) -> Tensor:
    """Which operations change each sample, first to last.

    Returns:
        int64 [n, operations], only operations that do something to images of so many channels; -1 in all columns for
        samples without jitter.
    """
    strengths = (spec.brightness, spec.contrast, spec.saturation * (channels == 3), spec.hue * (channels == 3))
    active = torch.tensor([kind for kind, strength in enumerate(strengths) if strength > 0.0], dtype=torch.long)
    slots = parameters.order.argsort(dim=1)[:, active]
    return torch.where(parameters.jitter.unsqueeze(1), active[slots.argsort(dim=1)], -1)


def jitter_colours(planes: Tensor, order: Tensor, factors: Tensor) -> None:
    """Applies brightness, contrast, saturation and hue in each sample's own order, in place.

    Args:
        planes: float32 [C, n, H, W], C being 1 or 3.
        order: What `jitter_order` returned for these samples, on the CPU.
        factors: float32 [n, 4] on the CPU.
    """
    factors = factors.to(planes.device)
    for slot in order.unbind(dim=1):
        for kind in sorted(set(slot.tolist()) - {-1}):
            operation, values = _OPERATIONS[kind], factors[:, kind]
            change_rows(planes, slot == kind, partial(_with_values, operation, values))


def change_rows(planes: Tensor, mask: Tensor, change: Callable[[Tensor, slice | Tensor], Tensor]) -> None:
    """Applies an operation to some samples, in place.

    Args:
        planes: [C, n, H, W].
        mask: bool [n] on the CPU, which samples.
        change: Gets the samples' planes and their rows, changes the planes in place and returns them.
    """
    rows = mask.nonzero()[:, 0]
    if len(rows) == 0:
        return
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows):  # neighbours are changed where they lie
        change(planes[:, first : last + 1], slice(first, last + 1))
    else:
        rows = rows.to(planes.device)
        planes.index_copy_(1, rows, change(planes.index_select(1, rows), rows))


def _with_values(
    operation: Callable[[Tensor, Tensor], Tensor], values: Tensor, planes: Tensor, rows: slice | Tensor
) -> Tensor:
    return operation(planes, values[rows])
