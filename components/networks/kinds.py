"""What a file is, told from its name and first bytes, before anything opens it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ..common.errors import UserError, expected

PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".tar")

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def looks_like_pickle(path: Path) -> bool:
    """Tells whether a file is a pickle, or torch's zip of one, by suffix or by its first bytes."""
    if not path.is_file() or path.suffix.lower() == ".onnx":
        return False
    with path.open("rb") as file:
        start = file.read(4)
    return path.suffix.lower() in PICKLE_SUFFIXES or start.startswith(_PICKLE_STARTS)


def is_torchscript(path: Path) -> bool:
    """Tells whether a file is a TorchScript archive, without opening it in torch."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def refuse_pickle(path: Path) -> UserError:
    """Builds the error for a pickle where a saved model belongs, saying how to convert it."""
    rule = "a folder with model.safetensors and model.json"
    if is_torchscript(path):
        fix = "Write a sidecar for it and open it with ferry.networks.load_source(path, trust=True) if you trust it."
        return expected(str(path), rule, "a TorchScript file, which runs code when it is opened", fix)
    call = f"ferry.networks.convert_state_dict({str(path)!r}, architecture, classes=names).save(folder)"
    fix = f"Convert its state dict once, with the ferry.networks.Architecture that it belongs to: {call}."
    return expected(str(path), rule, "a pickle, which may run any code when it is opened", fix)
