"""Foreign source models: an ONNX or TorchScript file with a sidecar. Methods that need only outputs can use them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..common.errors import UserError, expected
from ..common.files import atomic_folder, digest_of, digest_of_file, write_json
from .kinds import is_torchscript
from .outputs import Outputs, Pixels, check_pixels, fit_pixels, run_batches
from .runners import OnnxRunner, Runner, Shapes, TorchScriptRunner
from .sidecar import FOLDER_FILE, PLACEHOLDER, Sidecar, read_sidecar, sidecar_path, template
from .vocabulary import canonical_order

logger = logging.getLogger("ferry")

_SMALLEST_PROBABILITY = 1e-12
_SUM_TOLERANCE = 1e-2  # half-precision softmax of seven classes stays within it


class ForeignModel:
    """A model of which nothing but its outputs is known.

    Class names are mapped by name into Ferry's names, and the outputs into Ferry's order. The model is run once on a
    black image when it is opened, so that a wrong size, layout or number of classes shows at once.

    Args:
        sidecar: What is said about the model.
        file: The model's file.
        trust: Whether a TorchScript file may be opened: it runs code from the file. ONNX needs no trust.

    Attributes:
        classes: Names in the order of the columns of the logits.
        channels: Channels that the model takes.
        input_size: Edge length that the model takes.
        digest: SHA-256 over the file and its sidecar.
        feature_kind: ``features``, or ``logits`` where the model exposes none.
        classifier: Always None: there are no weights to adapt.

    Raises:
        UserError: File and sidecar do not fit, or a TorchScript file is not trusted.
    """

    classifier: None = None

    def __init__(self, sidecar: Sidecar, file: Path, trust: bool = False) -> None:
        self.sidecar, self.file = sidecar, Path(file)
        self.classes, self._order = canonical_order(sidecar.classes)
        self.channels, self.input_size = sidecar.input.channels, sidecar.input.size
        self.feature_kind: Literal["features", "logits"] = "features" if sidecar.features_output else "logits"
        known = {key: value for key, value in sidecar.to_json().items() if key not in ("file", "note", "sha256")}
        self.digest = digest_of({"file": digest_of_file(self.file), "sidecar": known})
        self._warned = False
        self._runner = _open(self.file, sidecar.features_output, trust)
        probe = torch.zeros(1, self.channels, self.input_size, self.input_size, dtype=torch.uint8)
        self._feature_size = self._run(probe, "cpu")[1].shape[1]

    def outputs(self, pixels: Pixels, batch_size: int = 256, device: str | torch.device = "auto") -> Outputs:
        """Runs the model over images.

        Args:
            pixels: uint8 [N, C, H, W] with C of 1 or 3 and any size: resized (bilinear, antialiased) and converted to
                what the model takes.
            batch_size: Images per call.
            device: ``auto``, ``cpu`` or ``cuda``.

        Returns:
            Logits [N, classes] in Ferry's order (log-probabilities where the model gives probabilities) and features.

        Raises:
            UserError: The images or the model's outputs are not as described.
        """
        check_pixels(pixels)

        def run(batch: Tensor) -> tuple[Tensor, Tensor]:
            return self._run(batch, device)

        logits, features = run_batches(pixels, batch_size, run, len(self.classes), self._feature_size)
        return Outputs(logits, features, self.feature_kind)

    def _run(self, batch: Tensor, device: str | torch.device) -> tuple[Tensor, Tensor]:
        images = self._scaled(fit_pixels(batch, self.input_size, self.channels))
        step = self._runner.fixed_batch or len(images)
        parts = [self._call(images[begin : begin + step], step, device) for begin in range(0, len(images), step)]
        names = parts[0].keys()
        outputs = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in names}
        logits = self._logits(outputs)
        if not self.sidecar.features_output:
            return logits, logits
        return logits, self._features(outputs)

    def _call(self, images: np.ndarray, step: int, device: str | torch.device) -> dict[str, np.ndarray]:
        count = len(images)
        if count < step:  # a model that was exported for a fixed batch
            images = np.concatenate([images, np.repeat(images[-1:], step - count, axis=0)])
        try:
            outputs = self._runner.run(images, device)
        except UserError:
            raise
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            reason = str(error).strip().splitlines()[0]
            fix = "Check size, channels and layout in the sidecar."
            raise expected(str(self.file), f"able to take images {list(images.shape)}", reason, fix) from error
        wrong = {name: list(value.shape) for name, value in outputs.items() if value.shape[:1] != (len(images),)}
        wanted = {self.sidecar.logits_output, self.sidecar.features_output} & wrong.keys()
        if wanted or len(wrong) == len(outputs):
            fix = "Name another output in the sidecar."
            raise expected(f"outputs of {self.file}", f"one row per image, {len(images)}", wrong, fix)
        return {name: value[:count] for name, value in outputs.items() if name not in wrong}

    def _scaled(self, pixels: Tensor) -> np.ndarray:
        spec = self.sidecar.input
        if spec.channels == 3 and spec.colour == "BGR":
            pixels = pixels.flip(1)
        shape = (1, -1, 1, 1)
        scaled = pixels.float() * torch.tensor(spec.multiply).view(shape) + torch.tensor(spec.add).view(shape)
        return np.ascontiguousarray((scaled.permute(0, 2, 3, 1) if spec.layout == "NHWC" else scaled).numpy())

    def _logits(self, outputs: dict[str, Tensor]) -> Tensor:
        name = self.sidecar.logits_output
        if not name:
            others = [other for other in outputs if other != self.sidecar.features_output]
            if len(others) != 1:
                fix = "Say in the sidecar which one holds the classes."
                raise expected("logits_output", "given, as the model has several outputs", others, fix)
            name = others[0]
        values = _named(outputs, name, "logits_output").float().flatten(1)
        if values.shape[1] != len(self.sidecar.classes):
            rule = f"{values.shape[1]} names, one per output of '{name}'"
            fix = "Name every output in order; null leaves one out."
            raise expected("classes", rule, list(self.sidecar.classes), fix)
        self._check_kind(values)
        if self.sidecar.output == "probabilities":
            values = values.clamp_min(_SMALLEST_PROBABILITY).log()
        return values[:, self._order]

    def _check_kind(self, values: Tensor) -> None:
        kind = self.sidecar.output
        numbers = values.exp() if kind == "log_probabilities" else values
        sums_to_one = bool((numbers >= 0).all()) and bool(((numbers.sum(1) - 1).abs() < _SUM_TOLERANCE).all())
        if kind != "logits" and not sums_to_one:
            row = [round(value, 3) for value in values[0].tolist()]
            fix = 'Write "output": "logits" in the sidecar where the model ends without a softmax.'
            raise expected(f"outputs of {self.file}", f"{kind}, which sum to 1", row, fix)
        if kind == "logits" and sums_to_one and not self._warned:
            self._warned = True
            logger.warning(
                "The outputs of %s look like probabilities, but its sidecar calls them logits: confidences will be far "
                'too small. Write "output": "probabilities" in the sidecar.',
                self.file,
            )

    def _features(self, outputs: dict[str, Tensor]) -> Tensor:
        features = _named(outputs, self.sidecar.features_output, "features_output").float()
        if features.ndim == 4:
            features = features.mean((2, 3) if self.sidecar.features_layout == "NCHW" else (1, 2))
        return features.flatten(1)


def open_foreign(path: Path | str, trust: bool = False) -> ForeignModel:
    """Opens a foreign model: its file with a sidecar beside it, the sidecar itself, or a folder with ``foreign.json``.

    Args:
        path: The file or folder.
        trust: Whether a TorchScript file may be opened: it runs code from the file.

    Raises:
        UserError: There is no sidecar (the message holds one to be edited), or it does not fit the file.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FOLDER_FILE
    if path.suffix == ".json":
        return ForeignModel(*read_sidecar(path), trust=trust)
    beside = path.parent / FOLDER_FILE
    sidecar = sidecar_path(path) if sidecar_path(path).is_file() or not beside.is_file() else beside
    if not sidecar.is_file():
        raise _no_sidecar(path)
    spec, file = read_sidecar(sidecar)
    if file.resolve() != path.resolve():
        raise expected(f"{sidecar}: file", f"'{path.name}'", spec.file, "Correct the name in the sidecar.")
    return ForeignModel(spec, file, trust)


def pack_foreign(model: ForeignModel, folder: Path | str) -> Path:
    """Copies a foreign model and its sidecar into one folder that can be moved: ``foreign.json`` and the file.

    Weights that an ONNX file keeps in files of their own are not copied.
    """
    folder = Path(folder)
    spec = {**model.sidecar.to_json(), "file": model.file.name, "sha256": digest_of_file(model.file)}
    with atomic_folder(folder) as temporary:
        shutil.copyfile(model.file, temporary / model.file.name)
        write_json(temporary / FOLDER_FILE, spec)
    return folder


def _open(file: Path, features: str, trust: bool) -> Runner:
    if file.suffix.lower() == ".onnx":
        return OnnxRunner(file, features)
    if not is_torchscript(file):
        fix = "Export the model to ONNX, or convert its state dict with ferry.networks.convert_state_dict."
        raise expected(str(file), "an ONNX or TorchScript file", file.suffix or "another kind of file", fix)
    if not trust:
        raise expected(
            "trust",
            "true for a TorchScript file, because opening it runs code from the file",
            trust,
            f"Pass trust=True (--trust) if you know who made {file.name}, or export it to ONNX, which cannot run code.",
        )
    return TorchScriptRunner(file)


def _named(outputs: dict[str, Tensor], name: str, field: str) -> Tensor:
    if name not in outputs:
        fix = 'Choose one of those; positions in a TorchScript tuple are written as "0", "1".'
        raise expected(field, "one of the outputs " + ", ".join(outputs), name, fix)
    return outputs[name]


def _no_sidecar(path: Path) -> UserError:
    inputs: Shapes = {}
    outputs: Shapes = {}
    facts = "TorchScript does not name its inputs and outputs"
    if path.suffix.lower() == ".onnx":
        runner = OnnxRunner(path)
        inputs, outputs = runner.inputs, runner.outputs
        facts = f"Its inputs are {inputs}, its outputs {outputs}"
    return UserError(
        f"Expected `sidecar` to be an existing file, but got nothing at '{sidecar_path(path)}'. {facts}. "
        f"Write this file, replace every {PLACEHOLDER} by the name of that output and say how raw pixels p in 0..255 "
        "become the input, as p * multiply + add ((p/255-0.5)*2: 0.00784313725 and -1; p/255: 0.00392156863 and 0); "
        f"ferry.networks.write_sidecar writes it too:\n{template(path, inputs, outputs)}"
    )
