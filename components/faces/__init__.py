"""What a data set of faces is: the Faces artifact, readers of public layouts, splits by content, decoded pixels.

>>> from ferry.faces import import_faces, open_faces
>>> report = import_faces("fer2013", "faces/fer2013", overlap="drop_from_train")  # doctest: +SKIP
>>> open_faces("faces/fer2013", "test").pixels(48).shape  # doctest: +SKIP
(3589, 1, 48, 48)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .cache import default_cache
from .decode import Limits, SkippedImage, decode_image, face_pixels
from .duplicates import require_disjoint, shared_faces
from .importing import import_faces
from .report import ImportReport
from .schema import EXPRESSIONS, FaceRecord, FacesInfo, RawFace, Reader, SplitInfo
from .settings import ImportConfig
from .sheet import contact_sheet
from .store import LabelledFaces, UnlabelledFaces, open_faces, open_unlabelled, read_info, require_same_classes
from .summary import FacesSummary, SplitSummary, summarise_faces
from .unlabelled import drop_labels
from .writer import FacesWriter, write_faces

if TYPE_CHECKING:
    from .rendering import render_faces

__all__ = [
    "EXPRESSIONS",
    "FaceRecord",
    "FacesInfo",
    "FacesSummary",
    "FacesWriter",
    "ImportConfig",
    "ImportReport",
    "LabelledFaces",
    "Limits",
    "RawFace",
    "Reader",
    "SkippedImage",
    "SplitInfo",
    "SplitSummary",
    "UnlabelledFaces",
    "contact_sheet",
    "decode_image",
    "default_cache",
    "drop_labels",
    "face_pixels",
    "import_faces",
    "open_faces",
    "open_unlabelled",
    "read_info",
    "render_faces",
    "require_disjoint",
    "require_same_classes",
    "shared_faces",
    "summarise_faces",
    "write_faces",
]


def __getattr__(name: str) -> Any:
    # The renderer is needed by few and brings its own weight.
    if name == "render_faces":
        from .rendering import render_faces

        return render_faces
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
