"""Applies drawn parameters to a batch of images on the device that trains."""

from __future__ import annotations

import torch
from torch import Tensor

from ...common.errors import expected
from .colour import change_rows, gray, jitter_colours, jitter_order
from .geometry import affine_images, blur_basis, blur_planes, crop_resized
from .parameters import ViewParameters, sample_views
from .spec import MultiCrop, ViewSpec

# Values per block of work, which bounds the memory of temporaries. On CPUs larger blocks gained nothing more, and
# blocks that fit the second-level cache lost: their many short calls cost more than the cache saves.
_CPU_BLOCK = 1_600_000
_OTHER_BLOCK = 64_000_000


def views(pixels: Tensor, multicrop: MultiCrop, generator: torch.Generator, rows: slice | None = None) -> list[Tensor]:
    """Makes all random views of a batch.

    Args:
        pixels: uint8 [n, C, H, W], or float in 0..1, on any device.
        multicrop: Which views.
        generator: A generator on the CPU. It is advanced by one number per view, whatever the batch, so that equal
            generators stay equal on all processes.
        rows: Under data-parallel training, the rows of the global batch that `pixels` holds. The views of a sample do
            not depend on how the global batch is divided.

    Returns:
        One float32 tensor [n, C, size, size] in 0..1 per view, in the order of `multicrop.sizes`, on the device of
        `pixels`.

    Raises:
        UserError: The shapes do not fit.
    """
    n = len(pixels)
    start, stop, step = (rows or slice(0, n)).indices(2**62)
    if step != 1 or stop - start != n:
        raise expected("rows", f"a slice of {n} rows, as many as `pixels` has", rows, "Pass `batch.slice`.")
    result: list[Tensor] = []
    for spec, count in multicrop.crops:
        parts = []
        for seed in torch.randint(2**62, (count,), generator=generator).tolist():
            own = torch.Generator().manual_seed(seed)
            parts.append(sample_views(spec, stop, (pixels.shape[-2], pixels.shape[-1]), own)[start:])
        result.extend(apply_views(pixels, ViewParameters.concatenate(parts), spec).split(n))
    return result


@torch.no_grad()
def apply_views(pixels: Tensor, parameters: ViewParameters, spec: ViewSpec) -> Tensor:
    """Makes the views that `parameters` describe.

    Args:
        pixels: uint8 [n, C, H, W], or float in 0..1, on any device; C is 1 or 3 where colours are changed.
        parameters: A multiple of n rows; row r is made from image ``r % n``.
        spec: The spec that the parameters were drawn from.

    Returns:
        float32 [rows, C, size, size] in 0..1 on the device of `pixels`.

    Raises:
        UserError: The shapes do not fit.
    """
    _check(pixels, parameters, spec)
    channels, device = pixels.shape[1], pixels.device
    pixels = pixels.contiguous()
    out = torch.empty((len(parameters), channels, spec.size, spec.size), device=device)
    order = jitter_order(parameters, spec, channels) if spec.jitter else torch.full((len(parameters), 0), -1)
    basis = blur_basis(spec.size, spec.blur_radius, device) if spec.blur else None
    rows = _neighbours(parameters, order)
    images, parameters, order = rows % len(pixels), parameters[rows], order[rows]
    values = channels * max(spec.size**2, pixels.shape[2] * pixels.shape[3] // 4)  # a crop reads part of its image
    length = max(1, (_CPU_BLOCK if device.type == "cpu" else _OTHER_BLOCK) // values)
    with torch.autocast(device.type, enabled=False):  # half precision would round the resize and the blur
        for start in range(0, len(rows), length):
            block = slice(start, start + length)
            planes = _crop(pixels, images[block], parameters[block], spec)
            _change(planes, order[block], parameters[block], basis)
            out.index_copy_(0, rows[block].to(device), planes.clamp_(0.0, 1.0).transpose(0, 1))
    return out


def _neighbours(parameters: ViewParameters, order: Tensor) -> Tensor:
    """The sequence in which rows are worked on: rows that get the same operation become neighbours.

    First by the order of the colour operations, then those that lose their colours, then those that are blurred. An
    operation then mostly finds its rows in one piece and changes them where they lie, without gathering them.
    """
    group = ((order + 1) * 5 ** torch.arange(order.shape[1] - 1, -1, -1)).sum(dim=1)
    gray, blurred = parameters.grayscale.long(), parameters.blur
    return (group * 4 + torch.where(blurred, 2 - gray, 3 - 3 * gray)).argsort(stable=True)


def _crop(pixels: Tensor, images: Tensor, parameters: ViewParameters, spec: ViewSpec) -> Tensor:
    """Affine map, crop, resize and flip: planes float32 [C, n, size, size], a layout with contiguous channels."""
    scale = 1.0 if pixels.is_floating_point() else 1.0 / 255.0
    height, width = pixels.shape[-2:]
    whole = torch.tensor([0, 0, spec.size, spec.size])
    same = height == width == spec.size and bool((parameters.box == whole).all())
    if spec.affine or same:
        pixels = pixels.index_select(0, images.to(pixels.device)).to(torch.float32)
        images = torch.arange(len(images))
    if spec.affine:
        pixels = affine_images(pixels, parameters.affine, spec.padding)
    if not same:
        return crop_resized(pixels, images, parameters.box, spec.size, parameters.flip, scale)
    planes = pixels.transpose(0, 1).mul(scale).contiguous()
    change_rows(planes, parameters.flip, lambda chosen, _: chosen.copy_(chosen.flip(-1)))
    return planes


def _change(planes: Tensor, order: Tensor, parameters: ViewParameters, basis: Tensor | None) -> None:
    """Colour jitter, grayscale and blur, in place."""
    jitter_colours(planes, order, parameters.factors)
    if len(planes) == 3:
        change_rows(planes, parameters.grayscale, lambda chosen, _: chosen.copy_(gray(chosen)))
    if basis is not None:
        sigma = parameters.sigma.to(planes.device)
        change_rows(planes, parameters.blur, lambda chosen, rows: blur_planes(chosen, sigma[rows], basis))


def _check(pixels: Tensor, parameters: ViewParameters, spec: ViewSpec) -> None:
    if pixels.ndim != 4 or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
        got = f"{pixels.dtype} {list(pixels.shape)}"
        raise expected("pixels", "uint8 or float of shape [n, channels, height, width]", got, "Stack the images.")
    if len(pixels) == 0 or len(parameters) == 0 or len(parameters) % len(pixels):
        rule = f"a multiple of the {len(pixels)} images and not 0"
        raise expected("len(parameters)", rule, len(parameters), "Draw one row per image.")
    if (spec.jitter or spec.grayscale) and pixels.shape[1] not in (1, 3):
        fix = "Switch jitter and grayscale off for other images."
        raise expected("channels", "1 or 3 where colours are changed", pixels.shape[1], fix)
