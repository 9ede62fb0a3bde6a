"""Parts that SwAV and DeepClusterV2 share: projector, prototypes, and the pass of several crops through an encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..networks import Encoder, Normalisation, flops
from ..training import Method
from ..training.views import MultiCrop
from .collapse import CollapseWatch
from .config import PretrainingConfig

_SMALLEST_COUNTED = 16  # pixels; the cost of smaller crops is scaled from here


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
            frozen: Whether the prototypes get no gradient in this step; the optimiser then leaves them, and their
                momentum, alone.
        """
        weight = self.weight.detach() if frozen else self.weight
        return embeddings.float() @ weight.float().t()

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


@contextmanager
def unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """Lets passes in training mode leave no trace: the running statistics are afterwards as they were."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


class CropMethod(Method):
    """What SwAV and DeepClusterV2 have in common as methods of the training loop.

    Args:
        encoder: The encoder to pretrain.
        normalisation: Normalisation of the encoder's input.
        crops: The views of an image; the first two are those that codes or clusters come from.
        config: Complete settings (see :func:`ferry.pretraining.resolve`).
        heads: Sets of prototypes, for the count of operations.
    """

    assign_views = 2

    def __init__(
        self,
        encoder: Encoder,
        normalisation: Normalisation,
        crops: MultiCrop,
        config: PretrainingConfig,
        heads: int = 1,
    ) -> None:
        super().__init__()
        self.config, self.crops, self.normalisation = config, crops, normalisation
        self.network = ProjectedEncoder(encoder, config)
        self.flops_per_image = float(sum(self._flops(size, heads) for size in crops.sizes))
        self.collapse = CollapseWatch(config.prototypes, method=config.method)

    def describe(self) -> dict[str, Any]:
        """Returns what makes this training another one besides the loop's settings."""
        settings = asdict(self.config)
        for name in ("preset", "precision", "init"):  # where values came from, and what does not belong to identity
            settings.pop(name)
        return {
            **settings,
            "architecture": asdict(self.network.encoder.architecture),
            "normalisation": asdict(self.normalisation),
            "crops": [{**asdict(spec), "count": count} for spec, count in self.crops.crops],
        }

    def watch(self, record: dict[str, float]) -> None:
        """Stops a collapsed training.

        Raises:
            TrainingDiverged: The training has collapsed.
        """
        self.collapse.look(record)

    def _flops(self, size: int, heads: int) -> float:
        """Operations of one crop, forward and backward."""
        config, encoder = self.config, self.network.encoder
        counted = max(size, _SMALLEST_COUNTED)
        counted += counted % 2
        body = flops(replace(encoder.architecture, input_size=counted), training=True) * (size / counted) ** 2
        dense = encoder.feature_size * config.projector_hidden + config.projector_hidden * config.projector_output
        return body + 6.0 * (dense + heads * config.projector_output * config.prototypes)
