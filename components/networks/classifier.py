"""The classifier: encoder, optional bottleneck, head."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ..common.errors import expected
from .architecture import Architecture, Normalisation, check_classes
from .backbone import Encoder, build_encoder, seeded
from .info import ModelInfo


class Classifier(nn.Module):
    """Encoder, optional bottleneck and head: ``head(bottleneck(encoder(x)))``, as SHOT's C(B(F(x))).

    Args:
        encoder: The encoder, taken as it is.
        info: What is known about the model; its architecture says which bottleneck and head to build.

    Attributes:
        encoder: The backbone.
        bottleneck: Linear layer and batch normalisation without ReLU (SHOT), or None.
        head: The last layer; a weight-normalised one keeps magnitude and direction apart.
        info: What is known about the model.
    """

    def __init__(self, encoder: Encoder, info: ModelInfo) -> None:
        super().__init__()
        if info.classes is None or info.architecture.backbone != encoder.architecture:
            raise expected(
                "info", "of a classifier on this encoder", info.architecture, "Use build_classifier or load_classifier."
            )
        self.encoder = encoder
        self.info = info
        self.bottleneck: nn.Module | None = None
        size = encoder.feature_size
        if info.architecture.bottleneck:
            linear = nn.Linear(size, info.architecture.bottleneck)
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)
            size = info.architecture.bottleneck
            self.bottleneck = nn.Sequential(linear, nn.BatchNorm1d(size))
        self.head: nn.Module = nn.Linear(size, len(info.classes))
        if info.architecture.head == "weight_norm":
            parametrizations.weight_norm(self.head, dim=0)

    @property
    def architecture(self) -> Architecture:
        """The whole network, with bottleneck and head."""
        return self.info.architecture

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return self.info.classes or ()

    @property
    def normalisation(self) -> Normalisation:
        """What the network expects of its input."""
        return self.info.normalisation

    def features(self, x: Tensor) -> Tensor:
        """Returns what the head sees, [B, D], for normalised images [B, C, H, W]."""
        x = self.encoder(x)
        return x if self.bottleneck is None else self.bottleneck(x)

    def forward_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits [B, classes] and what the head sees [B, D]."""
        features = self.features(x)
        return self.head(features), features

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits [B, classes] for normalised images [B, C, H, W]."""
        return self.forward_features(x)[0]


def build_classifier(
    architecture: Architecture,
    classes: Sequence[str],
    normalisation: Normalisation | None = None,
    seed: int = 0,
    encoder: Encoder | None = None,
) -> Classifier:
    """Builds a classifier with fresh weights, or with a fresh head on a copy of a trained encoder.

    The encoder's fresh weights are those of ``build_encoder(architecture, seed)``.

    Args:
        architecture: The network.
        classes: Class names in the order of the outputs.
        normalisation: What the network expects of its input. Where None: the encoder's, else ``Normalisation.usual``.
        seed: Fixes the weights; the global random state is neither read nor changed.
        encoder: A trained encoder, copied; it must be the same network apart from the input size.

    Returns:
        The classifier, in training mode, on the CPU.

    Raises:
        UserError: The encoder is another network, or the class names are wrong.
    """
    if encoder is None:
        encoder = build_encoder(architecture, seed, normalisation)
    else:
        encoder = _adopted(encoder, architecture, normalisation)
    info = ModelInfo("classifier", architecture, check_classes(classes), encoder.normalisation)
    with seeded(seed, "head"):
        return Classifier(encoder, info)


def normalise(pixels: Tensor, normalisation: Normalisation) -> Tensor:
    """Returns ``(pixels / 255 - mean) / std`` as float32.

    Args:
        pixels: uint8 [B, C, H, W].
        normalisation: Means and deviations for the C channels.

    Returns:
        float32 [B, C, H, W] on the same device and in the same memory format.
    """
    if pixels.dtype != torch.uint8:
        raise expected("pixels", "uint8 in 0..255", pixels.dtype, "Normalise raw pixels, once.")
    if pixels.ndim != 4 or pixels.shape[1] != len(normalisation.mean):
        raise expected(
            "pixels",
            f"[batch, {len(normalisation.mean)}, height, width]",
            tuple(pixels.shape),
            "Decode the images with as many channels as the model has.",
        )
    shape = (1, -1, 1, 1)
    mean = torch.tensor(normalisation.mean, dtype=torch.float32, device=pixels.device).view(shape)
    std = torch.tensor(normalisation.std, dtype=torch.float32, device=pixels.device).view(shape)
    return pixels.float().sub_(mean * 255).div_(std * 255)


def _adopted(encoder: Encoder, architecture: Architecture, normalisation: Normalisation | None) -> Encoder:
    same_size = dataclasses.replace(encoder.architecture, input_size=architecture.input_size)
    if same_size != architecture.backbone:
        raise expected(
            "encoder", f"the network {architecture.backbone}", encoder.architecture, "Give both the same architecture."
        )
    if normalisation is not None and normalisation != encoder.normalisation:
        raise expected(
            "normalisation",
            f"the encoder's, {encoder.normalisation}",
            normalisation,
            "Leave it out: the encoder knows it.",
        )
    encoder = copy.deepcopy(encoder).cpu().train()
    encoder.architecture = architecture.backbone
    encoder.info = dataclasses.replace(encoder.info, architecture=architecture.backbone)
    return encoder
