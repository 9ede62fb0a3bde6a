from .app import make_app
from .holder import ModelHolder
from .metrics import Metrics
from .origins import Origin, Revision, ServedModel, origin_of
from .server import serve
from .settings import ServeSettings

__all__ = [
    "Metrics",
    "ModelHolder",
    "Origin",
    "Revision",
    "ServeSettings",
    "ServedModel",
    "make_app",
    "origin_of",
    "serve",
]
