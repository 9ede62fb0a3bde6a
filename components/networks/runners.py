"""What executes foreign model files: onnxruntime for ONNX, torch for TorchScript. Both take and give arrays by name."""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..common.errors import UserError, expected, unknown
from .outputs import pick_device

_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}

Shapes = dict[str, list[Any]]


class Runner(Protocol):
    """A loaded foreign model.

    Attributes:
        fixed_batch: Number of images that every call must have, or 0 where any number will do.
    """

    fixed_batch: int

    def run(self, images: np.ndarray, device: str | torch.device) -> dict[str, np.ndarray]:
        """Returns the outputs by name for scaled float32 images."""
        ...


class OnnxRunner:
    """An ONNX file in onnxruntime. It can compute, but it cannot run code of its own.

    Args:
        path: The file.
        features: Name of an output, or of a tensor inside the graph that is to become one; empty for none.

    Raises:
        UserError: The file is damaged, has several inputs, or has no such tensor.
    """

    def __init__(self, path: Path, features: str = "") -> None:
        self._path, self._model = path, path.read_bytes()
        self._sessions: dict[str, Any] = {}
        session = self._session("cpu")
        self.inputs: Shapes = {item.name: list(item.shape) for item in session.get_inputs()}
        self.outputs: Shapes = {item.name: list(item.shape) for item in session.get_outputs()}
        if features and features not in self.outputs:
            self._model += _exposed(features)
            self._sessions.clear()
            try:
                session = self._session("cpu")
            except UserError as error:
                raise unknown("features_output", features, _tensor_names(path) or list(self.outputs)) from error
        if len(self.inputs) != 1:
            raise expected(str(path), "a model with one input", self.inputs, "Export it with the images as only input.")
        self._input = next(iter(self.inputs))
        kind = session.get_inputs()[0].type
        if kind not in _TYPES:
            raise expected(f"{path}: type of the input", "one of " + ", ".join(_TYPES), kind, "Export it for float32.")
        self._type = _TYPES[kind]
        batch = self.inputs[self._input][0] if self.inputs[self._input] else None
        self.fixed_batch = batch if isinstance(batch, int) and batch > 0 else 0

    def run(self, images: np.ndarray, device: str | torch.device) -> dict[str, np.ndarray]:
        """Returns the outputs by name for scaled float32 images."""
        session = self._session(_provider_device(device))
        names = [item.name for item in session.get_outputs()]
        return dict(zip(names, session.run(names, {self._input: images.astype(self._type, copy=False)}), strict=True))

    def _session(self, device: str) -> Any:
        if device not in self._sessions:
            onnxruntime = _onnxruntime()
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.use_deterministic_compute = True
            options.intra_op_num_threads = torch.get_num_threads()
            # The model is given as bytes, so that large weights kept in files of their own are looked for beside it.
            folder = str(self._path.parent.resolve())
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
            providers = ["CPUExecutionProvider"]
            if device == "cuda":
                providers.insert(0, "CUDAExecutionProvider")
            try:
                self._sessions[device] = onnxruntime.InferenceSession(self._model, options, providers=providers)
            except Exception as error:  # onnxruntime's errors have no common base but Exception
                reason = str(error).strip().splitlines()[0]
                fix = "Copy the file again, or export it again with a usual opset."
                raise expected(str(self._path), "an ONNX model that onnxruntime can open", reason, fix) from error
        return self._sessions[device]


class TorchScriptRunner:
    """A TorchScript file in torch. Opening it runs code from the file: only for files that are trusted.

    Args:
        path: The file.

    Raises:
        UserError: The file is damaged.
    """

    fixed_batch = 0

    def __init__(self, path: Path) -> None:
        self._path = path
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch deprecates TorchScript; the files are still there
            try:
                self._module = torch.jit.load(str(path), map_location="cpu").eval()
            except (RuntimeError, ValueError, OSError) as error:
                reason = str(error).strip().splitlines()[0]
                fix = "Copy the file again, or export the model to ONNX."
                raise expected(str(path), "a TorchScript model", reason, fix) from error

    def run(self, images: np.ndarray, device: str | torch.device) -> dict[str, np.ndarray]:
        """Returns the outputs by name, or by position where they have no names, for scaled float32 images."""
        place = pick_device(device)
        with torch.inference_mode():
            try:
                result = self._module.to(place)(torch.from_numpy(images).to(place))
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                fix = "Check size, channels and layout in the sidecar."
                raise expected(str(self._path), f"able to take images {list(images.shape)}", reason, fix) from error
        if isinstance(result, torch.Tensor):
            result = (result,)
        pairs = result.items() if isinstance(result, dict) else ((str(i), item) for i, item in enumerate(result))
        return {str(name): item.float().cpu().numpy() for name, item in pairs}


def _onnxruntime() -> Any:
    """Imports onnxruntime, which would write a device number and a store of events into the home of the user."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return import_module("onnxruntime")


def _provider_device(device: str | torch.device) -> str:
    has_cuda = "CUDAExecutionProvider" in _onnxruntime().get_available_providers()
    word = str(device).split(":", maxsplit=1)[0]
    if word == "auto":
        return "cuda" if has_cuda else "cpu"
    if word == "cuda" and not has_cuda:
        raise expected("device", "present", str(device), "Install onnxruntime-gpu, or use auto or cpu.")
    if word not in ("cpu", "cuda"):
        raise expected("device", "auto, cpu or cuda", str(device), "Use auto to take what there is.")
    return word


def _exposed(name: str) -> bytes:
    """Returns bytes which, appended to an ONNX file, make the inner tensor `name` an output.

    Protocol buffers define the concatenation of two encoded messages as their merge, in which repeated fields grow.
    The appended message is a ModelProto whose graph (field 7) has one output (field 12) with a name (field 1).
    """
    message = name.encode()
    for field in (1, 12, 7):
        message = _varint(field << 3 | 2) + _varint(len(message)) + message
    return message


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _tensor_names(path: Path) -> list[str]:
    """Lists tensors that may serve as features, last first, where the `onnx` package is there to read the graph."""
    try:
        import onnx
    except ImportError:
        return []
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    useful = {"Conv", "Relu", "Add", "Gemm", "MatMul", "GlobalAveragePool", "Flatten", "Concat", "BatchNormalization"}
    return [output for node in reversed(nodes) if node.op_type in useful for output in node.output][:12]
