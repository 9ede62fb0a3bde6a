from .architecture import BACKBONES, HEADS, STEMS, Architecture, Normalisation
from .backbone import Encoder, build_encoder
from .classifier import Classifier, build_classifier, normalise
from .compute import Description, describe, flops
from .conversion import Conversion, convert_state_dict
from .foreign import ForeignModel, open_foreign, pack_foreign
from .info import ModelInfo
from .outputs import Outputs, evaluation_mode, fit_pixels, inference
from .remote import fetch_model, push_model
from .saved import content_digest, is_saved_model, load_classifier, load_encoder, load_info, save_model
from .sidecar import Sidecar, write_sidecar
from .sources import FerrySource, SourceModel, load_imported, load_source

__all__ = [
    "BACKBONES",
    "HEADS",
    "STEMS",
    "Architecture",
    "Classifier",
    "Conversion",
    "Description",
    "Encoder",
    "FerrySource",
    "ForeignModel",
    "ModelInfo",
    "Normalisation",
    "Outputs",
    "Sidecar",
    "SourceModel",
    "build_classifier",
    "build_encoder",
    "content_digest",
    "convert_state_dict",
    "describe",
    "evaluation_mode",
    "fetch_model",
    "fit_pixels",
    "flops",
    "inference",
    "is_saved_model",
    "load_classifier",
    "load_encoder",
    "load_imported",
    "load_info",
    "load_source",
    "normalise",
    "open_foreign",
    "pack_foreign",
    "push_model",
    "save_model",
    "write_sidecar",
]
