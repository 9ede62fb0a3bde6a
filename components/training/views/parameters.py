"""The random numbers of views: drawn for the global batch on the CPU, sliceable by rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...common.errors import expected
from .spec import ViewSpec

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # columns of `factors`, entries of `order`

_TRIES = 10  # RandomResizedCrop draws area and ratio this often before it takes the middle of the image
_AREA, _RATIO = slice(0, _TRIES), slice(_TRIES, 2 * _TRIES)
_TOP, _LEFT, _FLIP, _JITTER, _GRAY, _BLUR, _SIGMA = range(2 * _TRIES, 2 * _TRIES + 7)
_FACTORS, _ORDER, _AFFINE = slice(27, 31), slice(31, 35), slice(35, 40)
_COLUMNS = 40


@dataclass(frozen=True)
class ViewParameters:
    """What happens to each sample of a batch, one row per view. All tensors are on the CPU.

    Attributes:
        box: int64 [n, 4], the crop's top, left, height, width in pixels of the image.
        flip: bool [n].
        jitter: bool [n], whether the four colour operations are applied.
        factors: float32 [n, 4], brightness, contrast, saturation (1 = unchanged), hue (turns).
        order: int64 [n, 4], which of the four comes first, second, third, fourth.
        grayscale: bool [n].
        blur: bool [n].
        sigma: float32 [n], standard deviation of the blur in pixels of the output.
        affine: float32 [n, 5], angle in degrees (clockwise), shift right and down in pixels of the image,
            magnification, horizontal shear in degrees; (0, 0, 0, 1, 0) is the identity.
    """

    box: Tensor
    flip: Tensor
    jitter: Tensor
    factors: Tensor
    order: Tensor
    grayscale: Tensor
    blur: Tensor
    sigma: Tensor
    affine: Tensor

    def __len__(self) -> int:
        return len(self.box)

    def __getitem__(self, rows: slice | Tensor) -> ViewParameters:
        return ViewParameters(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @staticmethod
    def concatenate(parts: Sequence[ViewParameters]) -> ViewParameters:
        """Joins the rows of several into one."""
        names = [field.name for field in fields(ViewParameters)]
        return ViewParameters(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def sample_views(
    spec: ViewSpec, n: int, image_size: int | tuple[int, int], generator: torch.Generator
) -> ViewParameters:
    """Draws the parameters of one view for each of `n` images.

    One call draws one block of 40 uniform numbers per row, whatever the spec. Row k therefore depends on the
    generator's state and on k, but not on `n`: a process that holds rows 64 to 127 of a global batch may draw 128
    rows and keep the last 64.

    Args:
        spec: The kind of view.
        n: Number of images, of the global batch under data-parallel training.
        image_size: Height and width of the images in pixels, or one number for squares.
        generator: A generator on the CPU; it is advanced.

    Returns:
        The parameters, `n` rows.

    Raises:
        UserError: `image_size` is not positive.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 1:
        raise expected("image_size", "at least 1 pixel", image_size, "Pass the height and width of the images.")
    draws = torch.rand((n, _COLUMNS), generator=generator, dtype=torch.float64)
    strengths = torch.tensor([spec.brightness, spec.contrast, spec.saturation], dtype=torch.float64)
    low, high = (1.0 - strengths).clamp_min(0.0), 1.0 + strengths
    colour = low + (high - low) * draws[:, _FACTORS][:, :HUE]
    hue = spec.hue * (2.0 * draws[:, _FACTORS][:, HUE:] - 1.0)
    smallest, largest = spec.sigma_range
    return ViewParameters(
        box=_crop_boxes(spec, height, width, draws),
        flip=draws[:, _FLIP] < spec.flip,
        jitter=draws[:, _JITTER] < spec.jitter,
        factors=torch.cat([colour, hue], dim=1).float(),
        order=draws[:, _ORDER].argsort(dim=1),
        grayscale=draws[:, _GRAY] < spec.grayscale,
        blur=draws[:, _BLUR] < spec.blur,
        sigma=(smallest + (largest - smallest) * draws[:, _SIGMA]).float(),
        affine=_affine(spec, height, width, draws[:, _AFFINE]),
    )


def _crop_boxes(spec: ViewSpec, height: int, width: int, draws: Tensor) -> Tensor:
    """The rule of torchvision's ``RandomResizedCrop``: ten tries, then the middle of the image."""
    area = height * width * (spec.scale[0] + (spec.scale[1] - spec.scale[0]) * draws[:, _AREA])
    low, high = (math.log(ratio) for ratio in spec.ratio)
    ratio = torch.exp(low + (high - low) * draws[:, _RATIO])
    widths, heights = torch.sqrt(area * ratio).round(), torch.sqrt(area / ratio).round()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.to(torch.uint8).argmax(
        dim=1, keepdim=True
    )  # of equal values, the first; checked below if there is none
    middle_height, middle_width = _middle(spec, height, width)
    found = fits.any(dim=1)
    h = torch.where(found, heights.gather(1, first)[:, 0], float(middle_height))
    w = torch.where(found, widths.gather(1, first)[:, 0], float(middle_width))
    top = torch.where(found, (draws[:, _TOP] * (height - h + 1)).floor(), float((height - middle_height) // 2))
    left = torch.where(found, (draws[:, _LEFT] * (width - w + 1)).floor(), float((width - middle_width) // 2))
    return torch.stack([top, left, h, w], dim=1).long()


def _middle(spec: ViewSpec, height: int, width: int) -> tuple[int, int]:
    """Height and width of the crop that is taken when no try fits."""
    ratio = width / height
    if ratio < spec.ratio[0]:
        return min(height, round(width / spec.ratio[0])), width
    if ratio > spec.ratio[1]:
        return height, min(width, round(height * spec.ratio[1]))
    return height, width


def _affine(spec: ViewSpec, height: int, width: int, draws: Tensor) -> Tensor:
    reach = [spec.rotation, spec.translation * width, spec.translation * height, spec.zoom, spec.shear]
    centre = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    return (centre + torch.tensor(reach, dtype=torch.float64) * (2.0 * draws - 1.0)).float()
