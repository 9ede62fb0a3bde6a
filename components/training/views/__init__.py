"""Random views of images: batched tensor augmentation on the device that trains.

Views are drawn on the CPU as small tensors (`sample_views`) and applied to a whole batch at once (`apply_views`).
`views` does both for several crops. The distributions are those of torchvision's transforms applied to each sample.
"""

from .apply import apply_views, views
from .parameters import ViewParameters, sample_views
from .spec import MultiCrop, ViewSpec, evaluation, finetune, published, small

__all__ = [
    "MultiCrop",
    "ViewParameters",
    "ViewSpec",
    "apply_views",
    "evaluation",
    "finetune",
    "published",
    "sample_views",
    "small",
    "views",
]
