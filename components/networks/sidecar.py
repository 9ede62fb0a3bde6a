"""The JSON file beside a foreign model that says what the file itself does not: classes, input, outputs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..common.errors import expected, unknown
from ..common.files import digest_of_file, read_json, write_json
from ..common.parameters import from_mapping
from .architecture import check_whole
from .vocabulary import canonical_order

FORMAT = 1
FOLDER_FILE = "foreign.json"
PLACEHOLDER = "?"

Layout = Literal["NCHW", "NHWC"]
OutputKind = Literal["logits", "probabilities", "log_probabilities"]


@dataclass(frozen=True)
class InputSpec:
    """What a foreign model takes: ``pixel * multiply + add`` with raw pixels in 0..255.

    Attributes:
        size: Edge length in pixels.
        channels: 1 for grey, 3 for colour.
        multiply: Factor per channel, in the model's own order of channels.
        add: Summand per channel.
        layout: ``NCHW`` or ``NHWC``.
        colour: ``RGB`` or ``BGR``, the order of three channels.
    """

    size: int
    channels: int
    multiply: tuple[float, ...]
    add: tuple[float, ...]
    layout: Layout = "NCHW"
    colour: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
        check_whole("input.size", self.size, 1, 4096, "Give the edge length in pixels.")
        if self.channels not in (1, 3):
            raise expected("input.channels", "1 or 3", self.channels, "Use 1 for grey images, 3 for colour.")
        if self.layout not in ("NCHW", "NHWC"):
            raise unknown("input.layout", str(self.layout), ("NCHW", "NHWC"))
        if self.colour not in ("RGB", "BGR"):
            raise unknown("input.colour", str(self.colour), ("RGB", "BGR"))
        for name, values in (("multiply", self.multiply), ("add", self.add)):
            if len(values) != self.channels:
                raise expected(
                    f"input.scale.{name}",
                    f"{self.channels} number(s), one per channel",
                    list(values),
                    "Give one per channel.",
                )
        if any(value == 0 for value in self.multiply):
            raise expected("input.scale.multiply", "other than 0", list(self.multiply), "Use 1/255 for inputs in 0..1.")


@dataclass(frozen=True)
class Sidecar:
    """What is said about a foreign model.

    Attributes:
        file: The model's file, relative to the sidecar's folder, or absolute.
        classes: Names in the order of the outputs; None for an output that is to be left out.
        input: What the model takes.
        output: What the numbers of the output are.
        logits_output: Name of the output with one number per class; may be empty where there is only one. For a
            TorchScript tuple the position as text, for a dictionary the key.
        features_output: Name of the output, or of a tensor inside an ONNX graph, that serves as features. Maps are
            averaged over their area. Empty: the logits serve.
        features_layout: Layout of features that are maps.
        sha256: Digest of the file, where the sidecar was made for just that one.
        note: Free text: where the model comes from, its licence.
        format: Version of the layout.
    """

    file: str
    classes: tuple[str | None, ...]
    input: InputSpec
    output: OutputKind = "logits"
    logits_output: str = ""
    features_output: str = ""
    features_layout: Layout = "NCHW"
    sha256: str = ""
    note: str = ""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if PLACEHOLDER in self.classes:
            fix = "Replace each question mark by the name of that output, in the order of the outputs."
            raise expected("classes", "names", list(self.classes), fix)
        _check_names(self.classes)
        canonical_order(self.classes)
        if self.output not in ("logits", "probabilities", "log_probabilities"):
            raise unknown("output", str(self.output), ("logits", "probabilities", "log_probabilities"))
        if self.features_layout not in ("NCHW", "NHWC"):
            raise unknown("features_layout", str(self.features_layout), ("NCHW", "NHWC"))

    def to_json(self) -> dict[str, Any]:
        """Returns what the sidecar file holds."""
        return {
            "format": self.format,
            "file": self.file,
            "classes": list(self.classes),
            "input": {
                "size": self.input.size,
                "channels": self.input.channels,
                "layout": self.input.layout,
                "colour": self.input.colour,
                "scale": {"multiply": list(self.input.multiply), "add": list(self.input.add)},
            },
            "output": self.output,
            "logits_output": self.logits_output or None,
            "features_output": self.features_output or None,
            "features_layout": self.features_layout,
            "sha256": self.sha256 or None,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, value: Any, what: str) -> Sidecar:
        """Builds a sidecar from parsed JSON.

        Raises:
            UserError: The version is unknown, or a field is missing, unknown or wrong.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            got = value.get("format") if isinstance(value, dict) else value
            raise expected(f"{what}: format", f"the known version {FORMAT}", got, f'Write "format": {FORMAT}.')
        for name in ("file", "classes", "input"):
            if value.get(name) is None:
                raise expected(f"{what}: {name}", "given", None, "Add the field.")
        if not isinstance(value["classes"], list):
            raise expected(
                f"{what}: classes", "a list of names", value["classes"], "Give one name per output, in order."
            )
        _check_names(value["classes"])
        values = {key: item for key, item in value.items() if item is not None}
        return from_mapping(
            cls, {**values, "classes": tuple(value["classes"]), "input": _input_spec(value["input"], what)}, f"{what}: "
        )


def sidecar_path(model_file: Path | str) -> Path:
    """Returns where the sidecar of a model file belongs: beside it, with ``.json`` appended."""
    return Path(f"{model_file}.json")


def read_sidecar(path: Path) -> tuple[Sidecar, Path]:
    """Reads a sidecar and finds its model file.

    Returns:
        The sidecar and the model's file, which exists and has the digest that the sidecar names, if it names one.

    Raises:
        UserError: The sidecar is wrong, or the file is missing or another one.
    """
    sidecar = Sidecar.from_json(read_json(path, "sidecar"), str(path))
    file = path.parent / sidecar.file
    if not file.is_file():
        raise expected(
            f"{path}: file", "an existing file", str(file), "Give the name of the model file beside the sidecar."
        )
    if sidecar.sha256 and sidecar.sha256 != (digest := digest_of_file(file)):
        fix = "The sidecar was made for another file; check it and correct or remove sha256."
        raise expected(f"{path}: sha256", f"the digest of {file.name}, {digest}", sidecar.sha256, fix)
    return sidecar, file


def write_sidecar(
    model_file: Path | str,
    classes: Sequence[str | None],
    *,
    size: int,
    channels: int,
    multiply: float | Sequence[float],
    add: float | Sequence[float],
    layout: Layout = "NCHW",
    colour: Literal["RGB", "BGR"] = "RGB",
    output: OutputKind = "logits",
    logits_output: str = "",
    features_output: str = "",
    features_layout: Layout = "NCHW",
    note: str = "",
    path: Path | str | None = None,
) -> Path:
    """Writes the sidecar of a foreign model.

    Args:
        model_file: The ONNX or TorchScript file; it must exist.
        classes: Names in the order of the model's outputs; None for an output that is to be left out.
        size: Edge length of the input in pixels.
        channels: 1 or 3.
        multiply: Factor on raw pixels in 0..255, one number or one per channel; ``2 / 255`` for ``(p/255-0.5)*2``.
        add: Summand, likewise; ``-1`` for ``(p/255-0.5)*2``.
        layout: ``NCHW`` or ``NHWC``.
        colour: ``RGB`` or ``BGR``.
        output: ``logits``, ``probabilities`` or ``log_probabilities``.
        logits_output: See :class:`Sidecar`.
        features_output: See :class:`Sidecar`.
        features_layout: See :class:`Sidecar`.
        note: Free text: where the model comes from, its licence.
        path: Where to write; beside the model as ``<file>.json`` where None.

    Returns:
        The path of the sidecar.

    Raises:
        UserError: The file is missing or a value is wrong.
    """
    model_file = Path(model_file)
    if not model_file.is_file():
        raise expected("model_file", "an existing file", str(model_file), "Check the path.")
    target = sidecar_path(model_file) if path is None else Path(path)
    file = os.path.relpath(model_file.resolve(), target.parent.resolve())
    if file.startswith(os.pardir):
        file = str(model_file.resolve())
    spec = InputSpec(size, channels, _per_channel(multiply, channels), _per_channel(add, channels), layout, colour)
    digest = digest_of_file(model_file)
    sidecar = Sidecar(file, tuple(classes), spec, output, logits_output, features_output, features_layout, digest, note)
    write_json(target, sidecar.to_json())
    return target


def template(file: Path, inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, Sequence[Any]]) -> str:
    """Returns JSON to be edited, with what a model's own shapes tell already filled in.

    Names and scaling are left open on purpose: guessed ones would load and be wrong without a sign.

    Args:
        file: The model's file.
        inputs: Shapes by name; empty where unknown.
        outputs: Shapes by name; empty where unknown.
    """
    shape = list(next(iter(inputs.values()), ()))
    nhwc = len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3)
    channels = shape[3 if nhwc else 1] if len(shape) == 4 else 1
    size = shape[2] if len(shape) == 4 else 48
    last = [list(one)[-1] if one else None for one in outputs.values()]
    count = last[0] if last and isinstance(last[0], int) else 7
    value = {
        "format": FORMAT,
        "file": file.name,
        "classes": [PLACEHOLDER] * count,
        "input": {
            "size": size if isinstance(size, int) else 48,
            "channels": channels if channels in (1, 3) else 1,
            "layout": "NHWC" if nhwc else "NCHW",
            "scale": {"multiply": [None], "add": [None]},
        },
        "output": "logits",
        "logits_output": next(iter(outputs), None),
        "features_output": None,
    }
    return json.dumps(value, indent=2)


def _check_names(classes: Sequence[Any]) -> None:
    if any(name is not None and (not isinstance(name, str) or not name.strip()) for name in classes):
        fix = "Name every output, or use null to leave it out: an index alone has no meaning."
        raise expected("classes", "names, not numbers", list(classes), fix)


def _input_spec(value: Any, what: str) -> InputSpec:
    if not isinstance(value, dict):
        raise expected(f"{what}: input", "an object with size, channels and scale", value, "See write_sidecar.")
    for name in ("size", "channels", "scale"):
        if name not in value:
            raise expected(f"{what}: input.{name}", "given", None, "Add the field.")
    rest = {key: item for key, item in value.items() if key != "scale"}
    scale = value["scale"]
    if not isinstance(scale, dict) or set(scale) != {"multiply", "add"}:
        fix = 'Write for example {"multiply": [0.00784313725], "add": [-1]} for (p/255-0.5)*2.'
        raise expected(f"{what}: input.scale", "an object with multiply and add", scale, fix)
    for name, numbers in scale.items():
        items = numbers if isinstance(numbers, list) else [numbers]
        if not all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in items):
            fix = "Say how raw pixels p in 0..255 become the model's input: p * multiply + add."
            raise expected(f"{what}: input.scale.{name}", "a number per channel", numbers, fix)
        rest[name] = _per_channel(items[0] if len(items) == 1 else items, value["channels"])
    return from_mapping(InputSpec, rest, f"{what}: input.")


def _per_channel(value: float | Sequence[float], channels: Any) -> tuple[float, ...]:
    if isinstance(value, (int, float)):
        return (float(value),) * (channels if channels in (1, 3) else 1)
    return tuple(float(item) for item in value)
