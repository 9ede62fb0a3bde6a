from .collapse import CollapseWatch, effective_rank, health
from .config import FOREVER, PretrainingConfig, preset, resolve, suggest_prototypes
from .deepcluster import DeepClusterV2, cluster_prediction_loss
from .pretraining import Pretrained, first_encoder, make_method, pretrain
from .swav import SwAV, swapped_prediction_loss

__all__ = [
    "FOREVER",
    "CollapseWatch",
    "DeepClusterV2",
    "Pretrained",
    "PretrainingConfig",
    "SwAV",
    "cluster_prediction_loss",
    "effective_rank",
    "first_encoder",
    "health",
    "make_method",
    "preset",
    "pretrain",
    "resolve",
    "suggest_prototypes",
    "swapped_prediction_loss",
]
