"""Pseudo-labels for target faces from the outputs of a source model: clusters, purity, class-wise quotas."""

from ..faces.pseudo_labels import Columns, PseudoLabels
from .config import DEFAULT_KEEP, LabellingConfig, default_clusters
from .labels import LabelledClusters, label_from_clusters, pseudo_labels
from .purity import ClusterPurity, cluster_purity, smoothed_purity
from .quota import class_quota

__all__ = [
    "DEFAULT_KEEP",
    "ClusterPurity",
    "Columns",
    "LabelledClusters",
    "LabellingConfig",
    "PseudoLabels",
    "class_quota",
    "cluster_purity",
    "default_clusters",
    "label_from_clusters",
    "pseudo_labels",
    "smoothed_purity",
]
