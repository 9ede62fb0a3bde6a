"""What a view is: the strengths and probabilities of its random operations, and the presets that Ferry trains with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ...common.errors import expected

Padding = Literal["zeros", "border", "reflection"]

_PROBABILITIES = ("flip", "jitter", "grayscale", "blur")
_STRENGTHS = ("brightness", "contrast", "saturation", "translation", "zoom", "blur_floor")


@dataclass(frozen=True)
class ViewSpec:
    """One kind of view: a random crop, resized, then random operations in the fixed order of the fields below.

    The order is affine, crop and resize, flip, colour jitter, grayscale, blur. The distributions of everything but the
    affine part are those of torchvision's ``RandomResizedCrop``, ``RandomHorizontalFlip``,
    ``RandomApply([ColorJitter])``, ``RandomGrayscale`` and ``RandomApply([GaussianBlur])``, drawn for each sample.

    Attributes:
        size: Side of the square output in pixels.
        scale: Smallest and largest area of the crop as a fraction of the image's area.
        ratio: Smallest and largest width / height of the crop.
        flip: Probability of a horizontal flip.
        jitter: Probability that the colour jitter is applied at all.
        brightness: The factor is uniform in [max(0, 1 - brightness), 1 + brightness].
        contrast: As brightness.
        saturation: As brightness; without effect on images of one channel.
        hue: The hue is turned by a uniform part of [-hue, hue] turns, at most 0.5; without effect on one channel.
        grayscale: Probability that colours are taken away; without effect on one channel.
        blur: Probability of a Gaussian blur.
        blur_sigma: Smallest and largest standard deviation in pixels, at a view of `blur_reference` pixels.
        blur_reference: The view size that `blur_sigma` is meant for. The deviation scales with ``size /
            blur_reference``: two pixels are mild at 224 pixels and destroy a face of 48.
        blur_floor: The largest deviation never falls below this many pixels. Below about 0.3 pixels a blur changes
            nothing, so scaling alone would switch it off for small views.
        rotation: The angle is uniform in [-rotation, rotation] degrees.
        translation: The shift is uniform in plus or minus this fraction of width and height.
        zoom: The magnification is uniform in [1 - zoom, 1 + zoom].
        shear: The horizontal shear is uniform in [-shear, shear] degrees.
        padding: What the affine part shows beyond the image's edge.

    Raises:
        UserError: A value is out of its range.
    """

    size: int
    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0)
    flip: float = 0.0
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_reference: int = 224
    blur_floor: float = 0.5
    rotation: float = 0.0
    translation: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    padding: Padding = "border"

    def __post_init__(self) -> None:
        for name in ("size", "blur_reference"):
            if getattr(self, name) < 1:
                raise expected(name, "at least 1 pixel", getattr(self, name), "Pass the side of the view in pixels.")
        for name in _PROBABILITIES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise expected(name, "a probability from 0 to 1", getattr(self, name), "Pass a number such as 0.5.")
        for name in _STRENGTHS:
            if not 0.0 <= getattr(self, name) < math.inf:
                raise expected(name, "0 or larger", getattr(self, name), "Pass 0 to switch it off.")
        _check_range("scale", self.scale, 1.0)
        _check_range("ratio", self.ratio, math.inf)
        _check_range("blur_sigma", self.blur_sigma, math.inf)
        if not 0.0 <= self.hue <= 0.5:
            raise expected("hue", "from 0 to 0.5 turns", self.hue, "Half a turn already reaches every hue.")
        if not self.zoom < 1.0:
            raise expected("zoom", "below 1", self.zoom, "Pass a fraction such as 0.1.")
        if not 0.0 <= self.rotation <= 180.0:
            raise expected("rotation", "from 0 to 180 degrees", self.rotation, "Pass an angle such as 10.")
        if not 0.0 <= self.shear < 90.0:
            raise expected("shear", "from 0 to below 90 degrees", self.shear, "Pass an angle such as 5.")
        if self.padding not in ("zeros", "border", "reflection"):
            raise expected("padding", "one of zeros, border, reflection", self.padding, "Choose one of those.")

    @property
    def affine(self) -> bool:
        """Whether the affine part does anything."""
        return max(self.rotation, self.translation, self.zoom, self.shear) > 0.0

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Smallest and largest standard deviation of the blur in pixels of the output."""
        factor = self.size / self.blur_reference
        largest = max(self.blur_sigma[1] * factor, self.blur_floor)
        return min(self.blur_sigma[0] * factor, largest), largest

    @property
    def blur_radius(self) -> int:
        """Half the width of the blur's kernel in pixels: four standard deviations, within the image."""
        return min(max(1, math.ceil(4.0 * self.sigma_range[1])), self.size - 1)


@dataclass(frozen=True)
class MultiCrop:
    """Several views of each image; the first kind are the ones that SwAV takes its codes from.

    Attributes:
        crops: Pairs of a view's spec and how many of it.

    Raises:
        UserError: There is no view.
    """

    crops: tuple[tuple[ViewSpec, int], ...]

    def __post_init__(self) -> None:
        if not self.crops or any(count < 1 for _, count in self.crops):
            fix = "Pass pairs such as (ViewSpec(48), 2)."
            raise expected("crops", "pairs of a spec and a count of at least 1", self.crops, fix)

    @property
    def total(self) -> int:
        """Number of views per image."""
        return sum(count for _, count in self.crops)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Side in pixels of every view, in the order in which `views` returns them."""
        return tuple(spec.size for spec, count in self.crops for _ in range(count))


def published(size: int = 224, *, large: int = 2, small: int = 6) -> MultiCrop:
    """The views of the SwAV paper (section 4 and appendix): 2 x 224 and 6 x 96 pixels, scaled to another size.

    Args:
        size: Side of the large views in pixels. The small ones keep the ratio 96 / 224, in even numbers. The blur
            keeps its share of the view, so that 224 gives exactly the published 0.1 to 2 pixels in both.
        large: Number of large views.
        small: Number of small views; 0 for none.
    """
    local = _even(size * 96 / 224)
    colour = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "grayscale": 0.2}
    common = {"flip": 0.5, "jitter": 0.8, "blur": 0.5, **colour}
    first = ViewSpec(size, scale=(0.14, 1.0), blur_reference=224, **common)  # type: ignore[arg-type]
    second = ViewSpec(local, scale=(0.05, 0.14), blur_reference=96, **common)  # type: ignore[arg-type]
    return _multicrop((first, large), (second, small))


def small(size: int = 48, *, large: int = 2, small: int = 2) -> MultiCrop:
    """Views for small faces and small data sets: softer crops and colours than the published ones.

    A crop of 5 % of a face of 48 pixels holds no expression, and strong jitter makes the task so hard that the codes
    collapse to uniform; both were seen on 11,000 faces.

    Args:
        size: Side of the images in pixels. Large views have 3/4 of it and small ones 1/2, in even numbers, which cuts
            the cost of a step to less than half at crops that were going to be magnified anyway.
        large: Number of large views.
        small: Number of small views; 0 for none.
    """
    colour = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "grayscale": 0.1}
    common = {"flip": 0.5, "jitter": 0.8, "blur": 0.3, **colour}
    first = ViewSpec(_even(size * 0.75), scale=(0.5, 1.0), **common)  # type: ignore[arg-type]
    second = ViewSpec(_even(size * 0.5), scale=(0.2, 0.5), **common)  # type: ignore[arg-type]
    return _multicrop((first, large), (second, small))


def finetune(size: int = 48) -> ViewSpec:
    """The weak augmentation of supervised training on faces: small turns, shifts and zooms, and a flip."""
    return ViewSpec(size, ratio=(1.0, 1.0), flip=0.5, rotation=8.0, translation=0.08, zoom=0.06)


def evaluation(size: int = 48) -> ViewSpec:
    """No randomness: the whole image (of an oblong one, the largest middle square), resized."""
    return ViewSpec(size, ratio=(1.0, 1.0))


def _multicrop(*crops: tuple[ViewSpec, int]) -> MultiCrop:
    return MultiCrop(tuple((spec, count) for spec, count in crops if count > 0))


def _even(value: float) -> int:
    return max(2, 2 * round(value / 2))


def _check_range(name: str, value: tuple[float, float], limit: float) -> None:
    if len(value) != 2 or not 0.0 < value[0] <= value[1] <= limit or math.isinf(value[1]):
        rule = "two numbers, 0 < smallest <= largest" + ("" if math.isinf(limit) else f" <= {limit:g}")
        raise expected(name, rule, value, "Pass a pair such as (0.5, 1.0).")
