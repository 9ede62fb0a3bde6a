"""Saved models: a folder with ``model.safetensors`` (weights) and ``model.json`` (everything else). Never a pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..common.errors import UserError, expected
from ..common.files import atomic_folder, digest_of, read_json, write_json
from .architecture import check_classes
from .backbone import Encoder
from .classifier import Classifier
from .info import ModelInfo
from .kinds import PICKLE_SUFFIXES, looks_like_pickle, refuse_pickle

WEIGHTS_FILE = "model.safetensors"
INFO_FILE = "model.json"

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
_HEAD_ROWS = ("weight", "bias", "parametrizations.weight.original0", "parametrizations.weight.original1")


def save_model(
    model: Classifier | Encoder,
    folder: Path | str,
    *,
    method: str,
    lineage: Mapping[str, str],
    extra: Mapping[str, Any] | None = None,
) -> ModelInfo:
    """Saves a model so that it is either whole or absent.

    Args:
        model: The model, on any device and in any memory format; weights are stored as contiguous float32.
        folder: The folder to make; an existing one is replaced.
        method: How the weights were made, such as ``clup``.
        lineage: What they were made from, names to digests or text.
        extra: Further files by name, such as ``history.json``: a path is copied, bytes are written, everything else
            is written as JSON.

    Returns:
        The description as stored, with the content digest.

    Raises:
        UserError: A weight is not finite, a file name is not a plain one, or the folder cannot be written.
        RetryableError: The disk is full.
    """
    extra = extra or {}
    for name in extra:
        if name in (WEIGHTS_FILE, INFO_FILE) or Path(name).name != name or name.startswith("."):
            raise expected("extra", "plain file names beside the model's own", name, "Rename the file.")
    tensors = _tensors(model)
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise expected("model", "free of NaN and infinity", broken[:5], "The training diverged; keep an earlier model.")
    info = dataclasses.replace(model.info, method=method, lineage=lineage)
    info = dataclasses.replace(info, digest=_digest(tensors, info))
    with atomic_folder(folder) as temporary:
        _write_weights(tensors, temporary / WEIGHTS_FILE)
        write_json(temporary / INFO_FILE, info.to_json())
        for name, value in extra.items():
            _write_extra(temporary / name, value)
    return info


def load_info(folder: Path | str) -> ModelInfo:
    """Reads the description of a saved model without its weights.

    Raises:
        UserError: The folder is not a saved model, or its layout is of an unknown version.
    """
    folder = _checked_folder(folder)
    return ModelInfo.from_json(read_json(folder / INFO_FILE, "model"), str(folder / INFO_FILE))


def load_classifier(folder: Path | str, classes: Sequence[str] | None = None, reorder: bool = False) -> Classifier:
    """Loads a classifier.

    Args:
        folder: A folder that :func:`save_model` made.
        classes: The class names that the caller works with; they must be the model's, by name and order.
        reorder: Whether rows of the head may be moved when the names agree but their order does not.

    Returns:
        The classifier in evaluation mode, on the CPU.

    Raises:
        UserError: The folder is not a saved classifier, is damaged, or has other classes.
    """
    info = load_info(folder)
    if info.kind != "classifier":
        raise expected(
            str(folder), "a classifier", "an encoder", "Train a head on it, or pass a folder that holds a classifier."
        )
    order = _class_order(info.classes or (), check_classes(classes), reorder) if classes is not None else None
    model = Classifier(Encoder(info.architecture, info.normalisation), info)
    _load_into(model, Path(folder), info)
    if order is not None and order != list(range(len(order))):
        _permute_head(model, order)
        model.info = dataclasses.replace(info, classes=tuple(classes or ()))
        model.info = dataclasses.replace(model.info, digest=content_digest(model))
    lineage = {**info.lineage, "classifier": info.digest}
    part = dataclasses.replace(model.encoder.info, method=info.method, lineage=lineage, ferry=info.ferry)
    model.encoder.info = dataclasses.replace(part, digest=content_digest(model.encoder))
    return model.eval()


def load_encoder(folder: Path | str) -> Encoder:
    """Loads an encoder, or the encoder of a classifier.

    Args:
        folder: A folder that :func:`save_model` made.

    Returns:
        The encoder in evaluation mode, on the CPU. From a classifier, its description has kind ``encoder``, its own
        digest, and the classifier's digest in its lineage.

    Raises:
        UserError: The folder is not a saved model or is damaged.
    """
    info = load_info(folder)
    if info.kind == "classifier":
        return load_classifier(folder).encoder
    encoder = Encoder(info.architecture, info.normalisation)
    _load_into(encoder, Path(folder), info)
    encoder.info = info
    return encoder.eval()


def content_digest(model: Classifier | Encoder) -> str:
    """Returns the SHA-256 (hex) over weights, architecture, classes and normalisation: equal for equal functions."""
    return _digest(_tensors(model), model.info)


def is_saved_model(path: Path | str) -> bool:
    """Tells whether `path` is a folder that holds a saved model."""
    return (Path(path) / INFO_FILE).is_file()


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file.

    Raises:
        UserError: The file is missing, truncated, or a pickle under another name.
    """
    if looks_like_pickle(path):
        raise refuse_pickle(path)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    return tensors


def compare_tensors(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Lists how `found` differs from `wanted` in names, shapes and types; empty where it does not."""
    problems = []
    if missing := [name for name in wanted if name not in found]:
        problems.append(f"missing {_some(missing)}")
    if surplus := [name for name in found if name not in wanted]:
        problems.append(f"surplus {_some(surplus)}")
    for name in sorted(wanted.keys() & found.keys()):
        one, other = wanted[name], found[name]
        if one.shape != other.shape:
            problems.append(f"{name} of shape {list(other.shape)} instead of {list(one.shape)}")
        elif one.dtype != other.dtype:
            problems.append(f"{name} of type {other.dtype} instead of {one.dtype}")
    return problems


def _checked_folder(folder: Path | str) -> Path:
    folder = Path(folder)
    if looks_like_pickle(folder):
        raise refuse_pickle(folder)
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        raise expected(str(folder), f"a folder with {WEIGHTS_FILE} and {INFO_FILE}", got, "Check the path.")
    missing = [name for name in (WEIGHTS_FILE, INFO_FILE) if not (folder / name).is_file()]
    if missing:
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in PICKLE_SUFFIXES:
                raise refuse_pickle(path)
        got = "no " + " and no ".join(missing)
        raise expected(str(folder), f"a folder with {WEIGHTS_FILE} and {INFO_FILE}", got, "Check the path.")
    return folder


def _load_into(model: nn.Module, folder: Path, info: ModelInfo) -> None:
    tensors = read_safetensors(folder / WEIGHTS_FILE)
    problems = compare_tensors(model.state_dict(), tensors)
    if problems:
        what = f"the weights of the {info.architecture.name} that {INFO_FILE} describes"
        fix = "Weights and description do not belong together, or one was changed; make the model again."
        raise expected(str(folder / WEIGHTS_FILE), what, "; ".join(problems[:5]), fix)
    if info.digest != _digest(tensors, info):
        raise _damaged(folder, "its content does not match its digest")
    model.load_state_dict(tensors)


def _class_order(have: tuple[str, ...], want: tuple[str, ...], reorder: bool) -> list[int]:
    """Returns for each wanted class its index in the model."""
    if set(have) != set(want):
        only_model, only_asked = [n for n in have if n not in want], [n for n in want if n not in have]
        raise expected(
            "classes",
            f"those of the model, {list(have)}",
            list(want),
            f"Only the model has {only_model}; only the caller has {only_asked}. Map the names or use another model.",
        )
    if have != want and not reorder:
        raise expected(
            "classes",
            f"in the order of the model, {list(have)}",
            list(want),
            "The names agree, only their order differs: pass reorder=True to move the rows of the head.",
        )
    return [have.index(name) for name in want]


def _permute_head(model: Classifier, order: list[int]) -> None:
    with torch.no_grad():
        for name, tensor in model.head.named_parameters():
            if name not in _HEAD_ROWS:
                raise expected("head", "linear or weight-normalised", name, "Only such heads can be reordered.")
            tensor.copy_(tensor[order].clone())


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu()
        tensors[name] = (tensor.float() if tensor.is_floating_point() else tensor).clone(
            memory_format=torch.contiguous_format
        )
    return tensors


def _digest(tensors: Mapping[str, Tensor], info: ModelInfo) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        total.update(tensor.numpy().data)
    known = info.to_json()
    return digest_of(
        {"weights": total.hexdigest()} | {k: known[k] for k in ("architecture", "classes", "normalisation")}
    )


def _write_weights(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # it hides the system's error, by which a full disk is told
        number = _SYSTEM_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _write_extra(path: Path, value: Any) -> None:
    if isinstance(value, Path):
        shutil.copyfile(value, path)
    elif isinstance(value, bytes):
        path.write_bytes(value)
    else:
        write_json(path, value)


def _damaged(path: Path, reason: str) -> UserError:
    return expected(str(path), "an undamaged model", reason, "Copy it again from where it was made, or make it again.")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
