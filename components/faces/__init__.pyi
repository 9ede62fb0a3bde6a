from .cache import default_cache
from .decode import Limits, SkippedImage, decode_image, face_pixels
from .duplicates import require_disjoint, shared_faces
from .importing import import_faces
from .pushing import PushReport, push_faces
from .rendering import render_faces
from .report import ImportReport
from .schema import EXPRESSIONS, FaceRecord, FacesInfo, RawFace, Reader, SplitInfo
from .settings import ImportConfig
from .sheet import contact_sheet
from .store import LabelledFaces, UnlabelledFaces, open_faces, open_unlabelled, read_info, require_same_classes
from .summary import FacesSummary, SplitSummary, summarise_faces
from .unlabelled import drop_labels
from .writer import FacesWriter, write_faces

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
    "PushReport",
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
    "push_faces",
    "read_info",
    "render_faces",
    "require_disjoint",
    "require_same_classes",
    "shared_faces",
    "summarise_faces",
    "write_faces",
]
