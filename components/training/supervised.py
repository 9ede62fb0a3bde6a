"""Training on labels: cross-entropy with weak augmentation, label smoothing and mixup.

Source models and CluP's third stage are both this; they differ in where labels and first weights come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..common.errors import expected
from .method import Batch, Method
from .views import ViewSpec, apply_views, sample_views


class Supervised(Method):
    """A classifier that learns labels, given by the index of the image.

    Args:
        network: Gives logits [b, classes] for normalised images.
        labels: int64 [N], or float [N, classes] with rows that sum to 1 (soft labels).
        mean: Of the network's input, per channel, in 0..1.
        std: Of the network's input, per channel.
        views: Random view of each image.
        mixup: Parameter alpha of mixup's Beta distribution (Zhang et al. 2018); 0 for none.
        label_smoothing: Probability that is spread over all classes.
        backbone: Name of the child of `network` that learns at `backbone_scale`, or empty.
        backbone_scale: Factor on the learning rate of that child.

    Raises:
        UserError: Labels are not of one of the two forms, or mixup or label smoothing is out of range.
    """

    labels: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        views: ViewSpec,
        mixup: float = 0.0,
        label_smoothing: float = 0.0,
        backbone: str = "",
        backbone_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if labels.ndim not in (1, 2) or (labels.ndim == 1) == labels.is_floating_point():
            rule = "whole numbers of shape [N] or fractions of shape [N, classes]"
            raise expected("labels", rule, f"{labels.dtype} {tuple(labels.shape)}", "Pass one label per image.")
        if not mixup >= 0:
            raise expected("mixup", "zero or positive", mixup, "Pass 0.2 as CluP does, or 0 for none.")
        if not 0 <= label_smoothing < 1:
            raise expected("label_smoothing", "at least 0 and below 1", label_smoothing, "Pass 0.1, or 0 for none.")
        self.network, self.views = network, views
        self.mixup, self.label_smoothing = mixup, label_smoothing
        self.backbone, self.backbone_scale = backbone, backbone_scale
        # Not persistent: labels come from an artifact whose digest names the checkpoint, and can be large.
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the loss and the share of right answers of this process's rows."""
        images, weight, partners = self._images(batch)
        logits = self.network((images - self.mean) / self.std)
        with torch.autocast(batch.pixels.device.type, enabled=False):
            logits = logits.float()
            labels = self.labels[batch.indices.to(self.labels.device)]
            loss = self._cross_entropy(logits, labels)
            if partners is not None:
                other = self.labels[batch.global_indices[partners].to(self.labels.device)]
                loss = weight * loss + (1.0 - weight) * self._cross_entropy(logits, other)
        right = logits.argmax(1) == (labels if labels.ndim == 1 else labels.argmax(1))
        return {"loss": loss, "accuracy": right.float().mean()}

    def parameter_groups(self, config: Any) -> list[dict[str, Any]]:
        """Returns the parameters, those of the backbone with their own factor on the learning rate."""
        if not self.backbone or self.backbone_scale == 1.0:
            return super().parameter_groups(config)
        from .method import split_by_dimension

        child = getattr(self.network, self.backbone)
        inside = {id(parameter) for parameter in child.parameters()}
        rest = (parameter for parameter in self.network.parameters() if id(parameter) not in inside)
        return [
            *split_by_dimension(iter(child.parameters()), config, self.backbone_scale),
            *split_by_dimension(rest, config),
        ]

    def _images(self, batch: Batch) -> tuple[Tensor, float, Tensor | None]:
        """Returns augmented images in 0..1, mixup's weight, and the partner of each row in the global batch."""
        count = len(batch.global_indices)
        size = (batch.pixels.shape[-2], batch.pixels.shape[-1])
        parameters = sample_views(self.views, count, size, batch.generator)
        images = apply_views(batch.pixels, parameters[batch.slice], self.views)
        if self.mixup == 0 or not self.training:
            return images, 1.0, None
        weight = _beta(self.mixup, batch.generator)
        partners = torch.randperm(count, generator=batch.generator)[batch.slice]
        if len(batch.indices) == count:
            other = images[partners.to(images.device)]
        else:  # the partner may be another process's row: make the same view of it here
            pixels = batch.fetch(batch.global_indices[partners.to(batch.global_indices.device)])
            other = apply_views(pixels, parameters[partners], self.views)
        return torch.lerp(other, images, weight), weight, partners.to(batch.global_indices.device)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


def _beta(alpha: float, generator: torch.Generator) -> float:
    """Draws from Beta(alpha, alpha), a pure function of the generator's state."""
    import numpy as np

    seed = int(torch.randint(2**62, (1,), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))
