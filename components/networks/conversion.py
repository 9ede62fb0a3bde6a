"""Conversion of a local PyTorch state dict of a ResNet into a Ferry model. Nothing is downloaded, no code is run."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from ..common.errors import UserError, expected
from ..common.files import digest_of_file
from .architecture import Architecture, Normalisation, check_classes
from .backbone import Encoder, build_encoder
from .classifier import Classifier, build_classifier
from .info import ModelInfo
from .kinds import is_torchscript, refuse_pickle
from .saved import read_safetensors, save_model

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
_USUAL_PREFIXES = (
    "module",
    "backbone",
    "encoder",
    "model",
    "net",
    "network",
    "resnet",
    "features",
    "feature_extractor",
)
_HEADS = ("fc", "head", "classifier", "linear")
_BACKBONE_WORDS = ("conv", "bn", "layer", "stem", "downsample")
_CODE = re.compile(r"GLOBAL ([\w.]+)")
_MARK = "layer1.0.conv1.weight"
_PLAIN = (("weight", "weight"), ("bias", "bias"))
_WEIGHT_NORM = (
    (
        ("parametrizations.weight.original0", "weight_g"),
        ("parametrizations.weight.original1", "weight_v"),
        ("bias", "bias"),
    ),
    (
        ("parametrizations.weight.original0", "parametrizations.weight.original0"),
        ("parametrizations.weight.original1", "parametrizations.weight.original1"),
        ("bias", "bias"),
    ),
)


@dataclass(frozen=True)
class Conversion:
    """What came out of a state dict.

    Attributes:
        model: The encoder, or the classifier where class names were given; in evaluation mode.
        prefix: What stood before the backbone's names in the file.
        loaded: Names in the file that were used.
        ignored: Names in the file that were not.
        notes: What the file cannot tell and was assumed, as sentences.
        digest: SHA-256 of the file.
    """

    model: Encoder | Classifier
    prefix: str
    loaded: tuple[str, ...]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]
    digest: str

    def save(self, folder: Path | str) -> ModelInfo:
        """Saves the model as :func:`save_model` does, with the file's digest as lineage."""
        return save_model(self.model, folder, method="converted", lineage={"state_dict": self.digest})

    def __str__(self) -> str:
        prefix = f" under the prefix '{self.prefix}'" if self.prefix else ""
        lines = [f"Loaded {len(self.loaded)} tensors{prefix}, all of the backbone."]
        if self.ignored:
            shown = ", ".join(self.ignored[:8]) + (", ..." if len(self.ignored) > 8 else "")
            lines.append(f"Ignored {len(self.ignored)}: {shown}.")
        return "\n".join([*lines, *self.notes])


def convert_state_dict(
    path: Path | str,
    architecture: Architecture,
    *,
    classes: Sequence[str] | None = None,
    normalisation: Normalisation | None = None,
    prefix: str | None = None,
    sum_channels: bool = False,
) -> Conversion:
    """Converts a local file with the state dict of a ResNet of torchvision's layout.

    The file is opened with ``torch.load(weights_only=True)`` or as safetensors, so no code from it runs. Wrappers
    such as ``{"state_dict": ...}`` and prefixes such as ``module.`` or ``backbone.`` are found by themselves.

    Args:
        path: A .pt, .pth, .ckpt, .bin or .safetensors file.
        architecture: The network that the weights belong to. Its stem cannot be checked where kernels have the same
            shape: ``imagenet`` and ``clup`` load the same file and compute different things.
        classes: Class names in the order of the file's outputs: the head is then converted too.
        normalisation: What the weights expect of their input; ``Normalisation.usual`` where None, and noted.
        prefix: What stands before ``conv1.weight`` in the file, where there are several backbones.
        sum_channels: Whether an RGB first layer may be summed for grey input (exact for grey repeated three times,
            when all channels were normalised alike).

    Returns:
        The model and a report of what was loaded.

    Raises:
        UserError: The file cannot be opened safely, or less than the whole backbone (and head, where asked for)
            matches.
    """
    path = Path(path)
    tensors = _read(path)
    prefix = _find_prefix(tensors, path) if prefix is None else prefix
    encoder = build_encoder(architecture, 0, normalisation)
    state, notes = _backbone_state(tensors, prefix, encoder, path, sum_channels)
    encoder.load_state_dict(state)
    used = {name for name in tensors if name.startswith(prefix) and name[len(prefix) :] in state}
    model: Encoder | Classifier = encoder
    if classes is not None:
        model, names = _with_head(tensors, prefix, encoder, architecture, check_classes(classes), path)
        used.update(names)
    if normalisation is None:
        notes.append(f"The file does not say how its input was normalised: assumed {encoder.normalisation}.")
    ignored = tuple(sorted(set(tensors) - used))
    surplus = [name for name in ignored if _is_backbone_name(name, prefix)]
    if surplus:
        fix = "The file holds a deeper network; choose the architecture that it was trained with."
        raise expected(str(path), f"the weights of a {architecture.name}", f"surplus {', '.join(surplus[:5])}", fix)
    digest = digest_of_file(path)
    model.info = dataclasses.replace(model.info, method="converted", lineage={"state_dict": digest})
    return Conversion(model.eval(), prefix, tuple(sorted(used)), ignored, tuple(notes), digest)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise expected("path", "an existing file", str(path), "Pretrained weights are only read from a local file.")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if is_torchscript(path):
        raise refuse_pickle(path)
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, OSError) as error:
        raise _unsafe(path, error) from error
    for _ in range(3):
        if not isinstance(value, Mapping):
            break
        inner = [value[word] for word in _WRAPPERS if isinstance(value.get(word), Mapping)]
        if not inner:
            break
        value = inner[0]
    tensors = {str(k): v for k, v in value.items() if isinstance(v, Tensor)} if isinstance(value, Mapping) else {}
    if not tensors:
        raise expected(
            str(path), "a state dict of tensors", type(value).__name__, "Save model.state_dict(), not the model."
        )
    return tensors


def _unsafe(path: Path, error: Exception) -> UserError:
    code = _CODE.search(str(error))  # torch's own message goes on with ways to let the code run
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = f"a pickle that calls {code[1]}" if code else lines[0]
    return expected(
        str(path),
        "a file with nothing but tensors",
        reason,
        "Where you trust the file, save its tensors alone: torch.save(model.state_dict(), 'weights.pt'); a truncated "
        "file must be copied again.",
    )


def _find_prefix(tensors: Mapping[str, Tensor], path: Path) -> str:
    found = sorted((name[: -len(_MARK)] for name in tensors if name.endswith(_MARK)), key=len)
    usual = [prefix for prefix in found if all(word in _USUAL_PREFIXES for word in prefix.split(".")[:-1])]
    candidates = usual or found
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        shown = ", ".join(itertools.islice(sorted(tensors), 6))
        fix = "Only ResNets with torchvision's names can be converted; export others to ONNX and give them a sidecar."
        raise expected(str(path), f"a state dict with names like {_MARK}", f"{shown}, ...", fix)
    raise expected("prefix", "given where a file holds several backbones", candidates, "Pass one of those as prefix.")


def _backbone_state(
    tensors: Mapping[str, Tensor], prefix: str, encoder: Encoder, path: Path, sum_channels: bool
) -> tuple[dict[str, Tensor], list[str]]:
    notes, state, problems = [], {}, []
    architecture = encoder.architecture
    for name, wanted in encoder.state_dict().items():
        tensor = tensors.get(prefix + name)
        if tensor is None and name.endswith("num_batches_tracked"):
            tensor = torch.zeros_like(wanted)
        if tensor is None:
            problems.append(f"missing {prefix}{name}")
            continue
        if name == "conv1.weight" and tensor.ndim == 4 and architecture.channels == 1 and tensor.shape[1] == 3:
            if not sum_channels:
                fix = "Use channels=3, or pass sum_channels=True to sum its kernels for grey images."
                raise expected(f"{path}: {prefix}conv1.weight", "of 1 channel", "3 channels", fix)
            tensor = tensor.sum(1, keepdim=True)
            notes.append("The RGB kernels of conv1 were summed for grey images.")
        if tensor.shape != wanted.shape:
            problems.append(f"{prefix}{name} of shape {list(tensor.shape)} instead of {list(wanted.shape)}")
        state[name] = tensor
    if problems:
        title = f"{architecture.name} (width {architecture.width}, stem {architecture.stem})"
        rule = f"all {len(encoder.state_dict())} tensors of a {title}"
        got = "; ".join(problems[:4]) + (f" and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise expected(
            str(path), rule, got, "Nothing was loaded: choose the architecture that the file was trained with."
        )
    if architecture.stem in ("imagenet", "clup"):
        notes.append(
            f"Stride and padding are not in the file: the stem '{architecture.stem}' was taken as you gave it."
        )
    return state, notes


def _with_head(
    tensors: Mapping[str, Tensor],
    prefix: str,
    encoder: Encoder,
    architecture: Architecture,
    classes: tuple[str, ...],
    path: Path,
) -> tuple[Classifier, list[str]]:
    if architecture.bottleneck:
        fix = "Convert the encoder alone (leave classes out) and train a head, or export the whole model to ONNX."
        raise expected("architecture.bottleneck", "0 where a head is converted", architecture.bottleneck, fix)
    words = prefix.split(".")[:-1]
    parents = [".".join([*words[:depth], ""]) for depth in range(len(words), -1, -1)]
    layouts = (_PLAIN,) if architecture.head == "linear" else _WEIGHT_NORM
    for parent, word, layout in itertools.product(parents, _HEADS, layouts):
        names = {ours: f"{parent}{word}.{theirs}" for ours, theirs in layout}
        if all(name in tensors for name in names.values()):
            classifier = build_classifier(architecture, classes, encoder=encoder)
            wanted, found = classifier.head.state_dict(), {ours: tensors[name] for ours, name in names.items()}
            for ours, tensor in found.items():
                if tensor.shape != wanted[ours].shape:
                    rule = f"of shape {list(wanted[ours].shape)} for the {len(classes)} classes given"
                    fix = "Name as many classes as the file has outputs, in their order."
                    raise expected(f"{path}: {names[ours]}", rule, list(tensor.shape), fix)
            classifier.head.load_state_dict(found)
            return classifier, list(names.values())
    shown = [name for name in tensors if not _is_backbone_name(name, prefix)][:6]
    fix = "Choose architecture.head 'linear' or 'weight_norm' as in the file, or leave classes out."
    raise expected(str(path), f"a file with a {architecture.head} head", shown, fix)


def _is_backbone_name(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name[len(prefix) :].startswith(_BACKBONE_WORDS)
