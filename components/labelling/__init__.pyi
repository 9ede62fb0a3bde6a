from .config import DEFAULT_KEEP, LabellingConfig, default_clusters
from .labels import LabelledClusters, label_from_clusters, pseudo_labels
from .purity import ClusterPurity, cluster_purity, smoothed_purity
from .quota import class_quota
from .teacher import teacher_outputs

__all__ = [
    "DEFAULT_KEEP",
    "ClusterPurity",
    "LabelledClusters",
    "LabellingConfig",
    "class_quota",
    "cluster_purity",
    "default_clusters",
    "label_from_clusters",
    "pseudo_labels",
    "smoothed_purity",
    "teacher_outputs",
]
