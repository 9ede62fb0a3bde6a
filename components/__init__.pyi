from .faces import import_faces, open_faces
from .faces.rendering import render_faces
from .networks import load_classifier
from .pipelines.api import compile_pipeline, demo, predict, run, serve

__version__: str

__all__ = [
    "compile_pipeline",
    "demo",
    "import_faces",
    "load_classifier",
    "open_faces",
    "predict",
    "render_faces",
    "run",
    "serve",
]
