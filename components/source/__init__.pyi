from .config import SourceConfig
from .stage import train_on
from .supervised import train_supervised

__all__ = ["SourceConfig", "train_on", "train_supervised"]
