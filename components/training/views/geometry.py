"""Affine maps, and crop and resize, of whole batches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .spec import Padding


def affine_images(images: Tensor, affine: Tensor, padding: Padding) -> Tensor:
    """Turns, shifts, magnifies and shears each image about its centre, with bilinear interpolation.

    Args:
        images: float [n, C, H, W].
        affine: float32 [n, 5] on the CPU, see `ViewParameters.affine`.
        padding: What lies beyond the edges.

    Returns:
        float [n, C, H, W].
    """
    height, width = images.shape[-2:]
    angle, right, down, zoom, shear = affine.double().unbind(dim=1)
    angle, shear = torch.deg2rad(angle), torch.deg2rad(shear)
    # Forward map in pixels about the centre: M = zoom * rotation * shear. Sampling needs its inverse.
    cos, sin, tan = torch.cos(angle), torch.sin(angle), torch.tan(shear)
    forward = torch.stack([cos, -(cos * tan + sin), sin, cos - sin * tan], dim=1).view(-1, 2, 2)
    inverse = torch.linalg.inv(forward) / zoom.view(-1, 1, 1)
    shift = -(inverse @ torch.stack([right, down], dim=1).unsqueeze(-1))
    half = torch.tensor([width / 2.0, height / 2.0], dtype=torch.float64)
    theta = torch.cat([inverse * half.view(1, 1, 2), shift], dim=2) / half.view(1, 2, 1)
    grid = functional.affine_grid(
        theta.to(images.device, images.dtype), [len(images), 1, height, width], align_corners=False
    )
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def crop_resized(pixels: Tensor, images: Tensor, box: Tensor, size: int, flip: Tensor, scale: float = 1.0) -> Tensor:
    """Crops, resizes with antialiasing and flips each sample, by one matrix product per axis.

    A target pixel i has its centre at ``(i + 1/2) * length / size`` in the crop and sees a triangle of half width
    ``max(1, length / size)`` around it, cut off at the crop's edges and scaled to sum 1: the filter of torchvision's
    and Pillow's antialiased bilinear resize.

    Args:
        pixels: [N, C, H, W], contiguous, of any dtype.
        images: int64 [n], which image each sample is cut from, on the CPU.
        box: int64 [n, 4] on the CPU, top, left, height, width.
        size: Side of the result in pixels.
        flip: bool [n] on the CPU.
        scale: Factor on the pixels.

    Returns:
        Planes float32 [C, n, size, size].
    """
    channels, height, width = pixels.shape[1:]
    n, device = len(images), pixels.device
    top, left, tall, wide = box.unbind(dim=1)
    tallest = int(tall.max())
    # Only the lines of pixels that a crop needs are read; a shorter crop's weights ignore the lines below it.
    lines = (top.unsqueeze(1) + torch.arange(tallest)).clamp_max_(height - 1).unsqueeze(1)
    lines = lines + ((images.unsqueeze(1) * channels + torch.arange(channels)) * height).unsqueeze(2)
    crops = pixels.view(-1, width).index_select(0, lines.view(-1).to(device)).to(torch.float32)
    across = _weights(left.to(device), wide.to(device), width, size, flip.to(device), scale)
    crops = torch.bmm(crops.view(n, channels * tallest, width), across.transpose(1, 2))
    down = _weights(torch.zeros_like(top).to(device), tall.to(device), tallest, size, None, 1.0)
    planes = crops.new_empty((channels, n, size, size))
    for channel, plane in enumerate(planes):  # one product per channel: broadcasting would copy the matrices
        torch.bmm(down, crops[:, channel * tallest : (channel + 1) * tallest], out=plane)
    return planes


def _weights(start: Tensor, length: Tensor, source: int, size: int, flip: Tensor | None, scale: float) -> Tensor:
    """Matrices float32 [n, size, source] of a crop and resize along one axis; each row sums to `scale`."""
    target = torch.arange(size, dtype=torch.float32, device=start.device) + 0.5
    position = target.unsqueeze(0)
    if flip is not None:
        position = torch.where(flip.unsqueeze(1), size - position, position)
    step = length.unsqueeze(1) / size
    pixel = torch.arange(source, device=start.device) - start.unsqueeze(1)  # counted from the crop's edge
    outside = (pixel < 0) | (pixel >= length.unsqueeze(1))
    pixel = (pixel + 0.5).masked_fill_(outside, 1e9)  # too far from every target pixel to have a weight
    slope = -1.0 / step.clamp_min(1.0)
    weights = torch.sub(pixel.unsqueeze(1), (position * step).unsqueeze(2))
    weights = weights.abs_().mul_(slope.unsqueeze(2)).add_(1.0).clamp_min_(0.0)
    return weights.mul_(scale / weights.sum(dim=2, keepdim=True))


def blur_basis(size: int, radius: int, device: torch.device) -> Tensor:
    """Maps a kernel's half to the matrix that applies it with mirrored edges.

    Returns:
        float32 [radius + 1, size * size]: entry d holds how often source pixel j is at distance d from target pixel i
        after reflection at the edges.
    """
    basis = torch.zeros((radius + 1, size, size))
    target = torch.arange(size)
    for offset in range(-radius, radius + 1):
        source = (target + offset).abs()
        source = torch.where(source >= size, 2 * (size - 1) - source, source)
        basis[abs(offset), target, source] += 1.0
    return basis.view(radius + 1, size * size).to(device)


def blur_planes(planes: Tensor, sigma: Tensor, basis: Tensor) -> Tensor:
    """Blurs each sample with its own Gaussian, mirroring at the edges, in place.

    Args:
        planes: float32 [C, n, S, S].
        sigma: float32 [n], standard deviations in pixels.
        basis: What `blur_basis` returned for S.

    Returns:
        `planes`.
    """
    size = planes.shape[-1]
    distance = torch.arange(len(basis), dtype=torch.float32, device=planes.device)
    # Deviations below a hundredth of a pixel are the identity in float32, and their square may underflow.
    kernel = torch.exp(-0.5 * (distance / sigma.clamp_min(0.01).unsqueeze(1)) ** 2)
    kernel = kernel / (2.0 * kernel.sum(dim=1, keepdim=True) - kernel[:, :1])
    matrices = (kernel @ basis).view(-1, size, size)
    across = matrices.transpose(1, 2)
    for plane in planes:
        torch.bmm(matrices, torch.bmm(plane, across), out=plane)
    return planes
