from .clup import fine_tune, start_network
from .config import FinetuningConfig
from .statistics import adabn

__all__ = ["FinetuningConfig", "adabn", "fine_tune", "start_network"]
