"""The crops of a batch, ready for an encoder."""

from __future__ import annotations

from torch import Tensor

from ..networks import Normalisation
from ..training import Batch
from ..training.views import MultiCrop, published, small, views
from .config import PretrainingConfig

_MAKERS = {"published": published, "small": small}


def multi_crop(input_size: int, config: PretrainingConfig) -> MultiCrop:
    """Returns the views of a pretraining for images of `input_size` pixels."""
    large, local = config.crops
    return _MAKERS[config.views](input_size, large=large, small=local)


def normalised_crops(batch: Batch, crops: MultiCrop, normalisation: Normalisation) -> list[Tensor]:
    """Returns the crops of this process's rows, float32, normalised, large ones first.

    The random numbers are drawn for the whole global batch, so that the number of processes does not change them.
    """
    drawn = views(batch.pixels, crops, batch.generator, rows=batch.slice)
    return [normalised_images(crop, normalisation) for crop in drawn]


def normalised_images(images: Tensor, normalisation: Normalisation) -> Tensor:
    """Returns ``(images - mean) / std`` of images in 0..1, float [B, C, H, W]."""
    mean = images.new_tensor(normalisation.mean).view(1, -1, 1, 1)
    std = images.new_tensor(normalisation.std).view(1, -1, 1, 1)
    return (images - mean) / std
