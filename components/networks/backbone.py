"""The encoder: torchvision's residual blocks behind an explicit stem. Weights are never downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from ..common.errors import expected
from .architecture import Architecture, Normalisation, check_whole
from .info import ModelInfo

Block = type[BasicBlock] | type[Bottleneck]

_STAGES: dict[str, tuple[Block, tuple[int, ...]]] = {
    "resnet10": (BasicBlock, (1, 1, 1, 1)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


class SpaceToDepth(nn.Module):
    """Moves each square of 2x2 pixels into the channels: [B, C, H, W] -> [B, 4C, H/2, W/2]."""

    def forward(self, x: Tensor) -> Tensor:
        """Rearranges `x`; odd heights or widths are refused."""
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
        if not tracing and (x.shape[-2] % 2 or x.shape[-1] % 2):
            raise expected(
                "image size",
                "even for the stem 'space_to_depth'",
                tuple(x.shape[-2:]),
                "Use even image and crop sizes, or another stem.",
            )
        return nn.functional.pixel_unshuffle(x, 2)


class Encoder(nn.Module):
    """A ResNet without its classification layer.

    The names of its weights are those of torchvision's ResNets, whatever the stem, so that state dicts exchange.

    Args:
        architecture: The network; its bottleneck and head play no part here.
        normalisation: What the network expects of its input; ``Normalisation.usual`` where None.

    Attributes:
        architecture: The network, without bottleneck and head.
        feature_size: Size of the feature vector.
        info: What is known about the weights.
    """

    def __init__(self, architecture: Architecture, normalisation: Normalisation | None = None) -> None:
        super().__init__()
        self.architecture = architecture.backbone
        self.feature_size = architecture.feature_size
        normalisation = normalisation or Normalisation.usual(architecture.channels)
        self.info = ModelInfo("encoder", self.architecture, None, normalisation)
        width, channels = architecture.width, architecture.channels
        self.rearrange: nn.Module = nn.Identity()
        self.maxpool: nn.Module = nn.Identity()
        if architecture.stem == "imagenet":
            self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        elif architecture.stem == "clup":
            self.conv1 = nn.Conv2d(channels, width, 7, stride=1, padding=2, bias=False)
        elif architecture.stem == "cifar":
            self.conv1 = nn.Conv2d(channels, width, 3, stride=1, padding=1, bias=False)
        else:
            self.rearrange = SpaceToDepth()
            self.conv1 = nn.Conv2d(4 * channels, width, 3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        block, depths = _STAGES[architecture.name]
        ratio: int = block.expansion
        self.layer1 = _stage(block, width, width, depths[0], stride=1)
        self.layer2 = _stage(block, width * ratio, width * 2, depths[1], stride=2)
        self.layer3 = _stage(block, width * 2 * ratio, width * 4, depths[2], stride=2)
        self.layer4 = _stage(block, width * 4 * ratio, width * 8, depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        _initialise(self)

    @property
    def normalisation(self) -> Normalisation:
        """What the network expects of its input."""
        return self.info.normalisation

    def feature_map(self, x: Tensor) -> Tensor:
        """Returns the last map [B, feature_size, h, w] for normalised images [B, C, H, W]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.rearrange(x)))))
        result: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return result

    def forward(self, x: Tensor) -> Tensor:
        """Returns features [B, feature_size] for normalised images [B, C, H, W] of any size that the stem takes."""
        return torch.flatten(self.avgpool(self.feature_map(x)), 1)


def build_encoder(architecture: Architecture, seed: int, normalisation: Normalisation | None = None) -> Encoder:
    """Builds an encoder with fresh weights.

    Args:
        architecture: The network.
        seed: Fixes the weights; the global random state is neither read nor changed.
        normalisation: What the network expects of its input; ``Normalisation.usual`` where None.

    Returns:
        The encoder, in training mode, on the CPU.
    """
    with seeded(seed, "encoder"):
        return Encoder(architecture, normalisation)


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Seeds the CPU's generator inside the block and restores it afterwards; accelerators are not touched.

    Args:
        seed: A whole number >= 0.
        purpose: Separates the streams of parts that share one seed.
    """
    check_whole("seed", seed, 0, 2**63 - 1, "Use a seed such as 0.")
    word = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:7]
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # torch.manual_seed would also seed every accelerator, which fork_rng(devices=[]) does not restore.
        torch.default_generator.manual_seed(int.from_bytes(word, "big"))
        yield


def _stage(block: Block, before: int, planes: int, depth: int, stride: int) -> nn.Sequential:
    after = planes * block.expansion
    shortcut: nn.Module | None = None
    if stride != 1 or before != after:
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
    first = block(before, planes, stride, shortcut)
    return nn.Sequential(first, *(block(after, planes) for _ in range(1, depth)))


def _initialise(module: nn.Module) -> None:
    """He initialisation by fan-out, as torchvision's ResNets have it (He et al. 2015, section 2.2)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
