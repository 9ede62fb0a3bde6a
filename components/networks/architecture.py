"""What a network is, before it has weights: backbone, stem, input and head, each stated and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from ..common.errors import expected, unknown

BackboneName = Literal["resnet10", "resnet18", "resnet50"]
StemName = Literal["imagenet", "cifar", "clup", "space_to_depth"]
HeadName = Literal["linear", "weight_norm"]

BACKBONES: tuple[str, ...] = get_args(BackboneName)
STEMS: tuple[str, ...] = get_args(StemName)
HEADS: tuple[str, ...] = get_args(HeadName)

SMALLEST_INPUT = 16
"""Below this edge length the last feature map of the widest-strided stem is a single pixel of padding."""


@dataclass(frozen=True)
class Architecture:
    """A network without weights. Everything that changes what the network computes is a field.

    A stem cannot be guessed from weights: the 7x7 kernels of ``imagenet`` and ``clup`` have the same shape but other
    strides, so a wrong guess loads silently and computes something else. It is therefore stored with every model.

    Attributes:
        name: ``resnet10`` (four stages of one basic block; for CPUs), ``resnet18`` or ``resnet50``.
        width: Channels of the first stage. 0 takes the usual width: 32 for ``resnet10``, 64 otherwise.
        stem: ``imagenet``: 7x7, stride 2, max-pool. ``cifar``: 3x3, stride 1, no pool. ``clup``: 7x7, stride 1,
            padding 2, no pool (about 15 times the cost of ``imagenet``). ``space_to_depth``: 2x2 pixels become
            channels, then 3x3, stride 1. ``auto`` takes ``space_to_depth`` for ``resnet10``, ``imagenet`` otherwise.
        channels: 1 for grey images, 3 for RGB.
        input_size: Edge length of the square input, in pixels.
        bottleneck: Size of the linear layer with batch normalisation between encoder and head (SHOT uses 256); 0 for
            none.
        head: ``linear``, or ``weight_norm`` as SHOT and CluP's source models have it.

    Raises:
        UserError: A field does not keep its rule.
    """

    name: BackboneName = "resnet10"
    width: int = 0
    stem: StemName | Literal["auto"] = "auto"
    channels: int = 1
    input_size: int = 48
    bottleneck: int = 0
    head: HeadName = "linear"

    def __post_init__(self) -> None:
        if self.name not in BACKBONES:
            raise unknown("architecture.name", str(self.name), BACKBONES)
        if self.stem == "auto":
            object.__setattr__(self, "stem", "space_to_depth" if self.name == "resnet10" else "imagenet")
        if self.width == 0:
            object.__setattr__(self, "width", 32 if self.name == "resnet10" else 64)
        if self.stem not in STEMS:
            raise unknown("architecture.stem", str(self.stem), STEMS)
        if self.head not in HEADS:
            raise unknown("architecture.head", str(self.head), HEADS)
        check_whole("architecture.width", self.width, 4, 1024, "Use 32 for a small network or 64 for the usual one.")
        check_whole("architecture.input_size", self.input_size, SMALLEST_INPUT, 4096, "Faces use 48 to 224 pixels.")
        check_whole("architecture.bottleneck", self.bottleneck, 0, 65536, "Use 256 as SHOT does, or 0 for none.")
        if self.channels not in (1, 3):
            raise expected("architecture.channels", "1 or 3", self.channels, "Use 1 for grey images, 3 for RGB.")
        if self.stem == "space_to_depth" and self.input_size % 2:
            raise expected(
                "architecture.input_size",
                "even for the stem 'space_to_depth'",
                self.input_size,
                f"Use {self.input_size + 1}, or another stem.",
            )

    @property
    def backbone(self) -> Architecture:
        """The same network without bottleneck and head: what an encoder's weights depend on."""
        return replace(self, bottleneck=0, head="linear")

    @property
    def feature_size(self) -> int:
        """Size of the encoder's feature vector."""
        return self.width * (32 if self.name == "resnet50" else 8)


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel, applied to pixels divided by 255.

    Attributes:
        mean: One number per channel, in 0..1.
        std: One positive number per channel.

    Raises:
        UserError: The lengths differ, or a number is not finite, or a deviation is not positive.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            got = f"{len(self.mean)} means and {len(self.std)} deviations"
            raise expected("normalisation", "one or three means and as many deviations", got, "Give one per channel.")
        if not all(map(math.isfinite, self.mean)):
            raise expected("normalisation.mean", "finite", self.mean, "Give means in 0..1, of pixels divided by 255.")
        if not all(math.isfinite(value) and value > 0 for value in self.std):
            raise expected("normalisation.std", "positive", self.std, "Give deviations of pixels divided by 255.")

    @classmethod
    def usual(cls, channels: int) -> Normalisation:
        """Returns ``(x / 255 - 0.5) / 0.25`` for 1 or 3 channels."""
        return cls((0.5,) * channels, (0.25,) * channels)

    @classmethod
    def imagenet(cls) -> Normalisation:
        """Returns the RGB statistics that networks pretrained on ImageNet expect."""
        return cls((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def check_whole(field: str, value: Any, low: int, high: int, fix: str) -> None:
    """Raises UserError unless `value` is a whole number in low..high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise expected(field, f"a whole number from {low} to {high}", value, fix)


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Returns class names as a tuple.

    Raises:
        UserError: There are fewer than two, one is empty or not text, or one is doubled.
    """
    if isinstance(classes, str):
        raise expected("classes", "a list of names", classes, "Pass one name per class, in the order of the outputs.")
    names = tuple(classes)
    if len(names) < 2:
        raise expected("classes", "at least two names", list(names), "A classifier needs two classes or more.")
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise expected("classes", "names, not numbers", list(names), "Name every class: an index alone has no meaning.")
    if len(set(names)) != len(names):
        doubled = sorted({name for name in names if names.count(name) > 1})
        raise expected("classes", "without doubles", doubled, "Name every class once.")
    return names
