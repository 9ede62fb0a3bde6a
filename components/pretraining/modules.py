"""Parts that SwAV and DeepClusterV2 share: projector, prototypes, and the pass of several crops through an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..networks import Encoder
from .config import PretrainingConfig


class Projector(nn.Sequential):
    """Two-layer projection head, and optionally a BatchNorm without affine parameters behind it.

    Args:
        features: Size of the encoder's output.
        hidden: Width of the hidden layer.
        output: Size D of the embedding.
        normalise_output: Whether the BatchNorm follows.
    """

    def __init__(self, features: int, hidden: int, output: int, normalise_output: bool) -> None:
        layers: list[nn.Module] = [
            nn.Linear(features, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, output),
        ]
        if normalise_output:
            layers.append(nn.BatchNorm1d(output, affine=False))
        super().__init__(*layers)


class Prototypes(nn.Module):
    """K unit vectors; the score of an embedding is its cosine with each of them.

    Without bias, as in the reference: with one, scores would not be cosines.

    Args:
        size: Size D of the embedding.
        count: Number of prototypes K.
        learn: Whether they get gradients at all.
    """

    weight: Tensor

    def __init__(self, size: int, count: int, learn: bool) -> None:
        super().__init__()
        weight = functional.normalize(torch.randn(count, size), dim=1)
        if learn:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)

    def forward(self, embeddings: Tensor, frozen: bool = False) -> Tensor:
        """Returns scores, float32 [B, K], of unit embeddings [B, D].

        Args:
            embeddings: Unit rows.
            frozen: Whether the prototypes get a zero gradient in this step.
        """
        weight = self.weight.float()
        if frozen and weight.requires_grad:
            weight = weight.detach() + 0.0 * weight  # a zero gradient, so that data-parallel training still sees one
        return embeddings.float() @ weight.t()

    @torch.no_grad()
    def normalise(self) -> None:
        """Gives every prototype length one again."""
        self.weight.copy_(functional.normalize(self.weight, dim=1))


class ProjectedEncoder(nn.Module):
    """An encoder and its projector, applied to several crops at once.

    Args:
        encoder: The encoder that is being pretrained.
        config: Settings.
    """

    def __init__(self, encoder: Encoder, config: PretrainingConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = Projector(
            encoder.feature_size, config.projector_hidden, config.projector_output, config.normalise_output
        )

    def forward(self, crops: Sequence[Tensor]) -> list[Tensor]:
        """Returns unit embeddings, float32 [B, D], one tensor per crop.

        Crops of one size go through the encoder together, as in the reference; all features then share one pass
        through the projector.

        Args:
            crops: Normalised crops, each [B, C, H, W]; crops of one size stand side by side.
        """
        features, start = [], 0
        while start < len(crops):
            end = start
            while end < len(crops) and crops[end].shape == crops[start].shape:
                end += 1
            features.append(self.encoder(torch.cat(list(crops[start:end]))))
            start = end
        with torch.autocast(crops[0].device.type, enabled=False):
            projected = functional.normalize(self.projector(torch.cat(features).float()), dim=1)
        return list(projected.chunk(len(crops)))
