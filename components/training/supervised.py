"""Training on labels: cross-entropy with weak augmentation, label smoothing and mixup.

Source models and CluP's third stage are both this; they differ in where labels and first weights come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..common.errors import expected
from .config import LoopConfig
from .loop import TrainResult, train
from .method import Batch, Method, split_by_dimension
from .tracking import Tracker
from .views import ViewSpec, apply_views, finetune, sample_views


def checked_labels(labels: np.ndarray | Tensor, images: int, classes: int) -> Tensor:
    """Returns labels as :class:`Supervised` takes them: int64 [N], or float32 [N, classes].

    Args:
        labels: One label per image: whole numbers [N] from 0 to classes - 1, or shares [N, classes] (soft labels)
            that are not negative and whose rows sum to 1.
        images: Number of images N.
        classes: Number of classes.

    Raises:
        UserError: The labels do not keep these rules.
    """
    values = torch.as_tensor(np.array(labels)) if isinstance(labels, np.ndarray) else labels.detach().clone()
    soft = values.is_floating_point()
    shape = (images, classes) if soft else (images,)
    if tuple(values.shape) != shape or values.dtype == torch.bool:
        rule = f"whole numbers of shape [{images}] or shares of shape [{images}, {classes}]"
        raise expected("labels", rule, f"{values.dtype} {tuple(values.shape)}", "Pass one label per image.")
    if soft:
        wrong = (values < 0).any(1) | ~((values.sum(1) - 1).abs() < 1e-3)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            got = f"{int(wrong.sum())} rows that are not, first row {row}: {values[row].tolist()}"
            raise expected("labels", "shares that sum to 1 in every row", got, "Divide each row by its sum.")
        return values.float()
    if images and not (int(values.min()) >= 0 and int(values.max()) < classes):
        got = f"values from {int(values.min())} to {int(values.max())}"
        raise expected("labels", f"in the range 0 to {classes - 1}", got, "Check the class names of the labels.")
    return values.long()


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
        flops_per_image: Operations of the network per image, forward and backward; 0 where unknown.

    Raises:
        UserError: Labels are not of one of the two forms, or another argument is out of range.
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
        flops_per_image: float = 0.0,
    ) -> None:
        super().__init__()
        if labels.ndim not in (1, 2) or (labels.ndim == 1) == labels.is_floating_point():
            rule = "whole numbers of shape [N] or fractions of shape [N, classes]"
            raise expected("labels", rule, f"{labels.dtype} {tuple(labels.shape)}", "Pass one label per image.")
        if not 0 <= mixup < float("inf"):
            raise expected("mixup", "zero or positive", mixup, "Pass 0.2 as CluP does, or 0 for none.")
        if not 0 <= label_smoothing < 1:
            raise expected("label_smoothing", "at least 0 and below 1", label_smoothing, "Pass 0.1, or 0 for none.")
        children = [name for name, _ in network.named_children()]
        if backbone and backbone not in children:
            raise expected(
                "backbone", f"one of {', '.join(children)}", backbone, "Leave it empty for one rate for all."
            )
        if not 0 <= backbone_scale < float("inf"):
            raise expected("backbone_scale", "zero or positive", backbone_scale, "Pass 0.1, or 1 for one rate for all.")
        self.network, self.views = network, views
        self.mixup, self.label_smoothing = mixup, label_smoothing
        self.backbone, self.backbone_scale = backbone, backbone_scale
        self.flops_per_image = flops_per_image
        # Not persistent: they are an input of the training, which describe() names, and can be large.
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def describe(self) -> dict[str, Any]:
        """Returns what makes this training another one besides the loop's settings."""
        labels = self.labels.detach().cpu().contiguous().numpy()
        return {
            "labels": hashlib.sha256(f"{labels.dtype} {labels.shape}".encode() + labels.tobytes()).hexdigest(),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "views": asdict(self.views),
            "mixup": self.mixup,
            "label_smoothing": self.label_smoothing,
            "backbone": self.backbone,
            "backbone_scale": self.backbone_scale,
        }

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

    def parameter_groups(self, config: LoopConfig) -> list[dict[str, Any]]:
        """Returns the parameters, those of the backbone with their own factor on the learning rate."""
        if not self.backbone or self.backbone_scale == 1.0:
            return super().parameter_groups(config)
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
        if not len(batch):  # more processes than images are left: this one only takes part in the others' statistics
            return batch.pixels.new_zeros((0, batch.pixels.shape[1], *(2 * [self.views.size]))).float(), 1.0, None
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
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


class NormalisationLike(Protocol):
    """Mean and standard deviation of a network's input, per channel, in 0..1."""

    @property
    def mean(self) -> Sequence[float]:
        """The mean."""

    @property
    def std(self) -> Sequence[float]:
        """The standard deviation."""


class SupervisedSettings(Protocol):
    """What the settings of every training on labels have in common."""

    @property
    def momentum(self) -> float:
        """Nesterov momentum."""

    @property
    def weight_decay(self) -> float:
        """Weight decay; 1-D parameters are left out."""

    @property
    def mixup(self) -> float:
        """Parameter alpha of mixup; 0 for none."""

    @property
    def label_smoothing(self) -> float:
        """Label smoothing."""

    @property
    def precision(self) -> str:
        """Precision of the loop."""

    @property
    def seed(self) -> int:
        """Seed."""


def train_on_labels(
    network: nn.Module,
    pixels: np.ndarray,
    labels: Tensor,
    settings: SupervisedSettings,
    *,
    normalisation: NormalisationLike,
    flops_per_image: float,
    name: str,
    checkpoint: Path | None = None,
    tracker: Tracker | None = None,
    **course: Any,
) -> TrainResult:
    """Trains a network on labels with weak augmentation and SGD with Nesterov momentum, in place.

    Args:
        network: Gives logits [b, classes] for normalised images.
        pixels: Faces, uint8 [N, C, H, W].
        labels: As :func:`checked_labels` returns them.
        settings: Momentum, regularisation, precision and seed.
        normalisation: Of the network's input.
        flops_per_image: Operations of the network per image, forward and backward; 0 where unknown.
        name: Of the training, for messages.
        checkpoint: Where the state is kept, for resuming.
        tracker: Receives metrics.
        **course: Epochs, batch size, learning rate and schedule: fields of :class:`LoopConfig`.

    Raises:
        UserError: A setting is out of range.
        TrainingDiverged: The loss is not finite.
    """
    method = Supervised(
        network,
        labels,
        normalisation.mean,
        normalisation.std,
        finetune(pixels.shape[-1]),
        mixup=settings.mixup,
        label_smoothing=settings.label_smoothing,
        flops_per_image=flops_per_image,
    )
    loop = LoopConfig(
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
        precision=settings.precision,  # type: ignore[arg-type]
        seed=settings.seed,
        **course,
    )
    return train(method, pixels, loop, checkpoint=checkpoint, tracker=tracker, name=name)
