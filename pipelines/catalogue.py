"""The pipelines that Ferry ships, their parameters, and their compiled form."""

from __future__ import annotations

import copy
import math
import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.errors import closest, expected, unknown
from ..common.parameters import convert

if TYPE_CHECKING:
    from .cluster.profile import Profile

REMOTE = ("s3://", "models:/")
"""What a parameter that names data or a model may begin with instead of being a local path."""

_MARK = re.compile(r"^\[(required|optional)\]\s*")
_TYPES = {"STRING": str, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": float, "BOOLEAN": bool}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a pipeline.

    Attributes:
        name: Its name, as on the command line and in the Kubeflow form.
        kind: Python type.
        default: Default value; None where it is required.
        description: What it means, without the mark that says whether it is required.
        choices: The words that it takes; empty where others are allowed too.
    """

    name: str
    kind: type
    default: Any
    description: str
    choices: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return self.default is None


@dataclass(frozen=True)
class PipelineInfo:
    """A pipeline by name.

    Attributes:
        name: Its name on the command line and in Kubeflow.
        summary: What it does, in one line.
        module: The module of ``ferry.pipelines`` that defines a function of the same name.
        paths: Parameters that name data or a model, on this machine or elsewhere.
        words: Parameters that are a word, or the path of what is on this machine.
    """

    name: str
    summary: str
    module: str
    paths: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def component(self) -> Any:
        """Returns the kfp pipeline object."""
        return getattr(import_module(f"..{self.module}", __name__), self.module)

    def choices(self) -> dict[str, tuple[str, ...]]:
        """Returns the words of every parameter that takes no others."""
        found: dict[str, tuple[str, ...]] = import_module(f"..checks.{self.module}", __name__).choices()
        return found

    def check(self, values: Mapping[str, Any]) -> None:
        """Checks values beyond their types, before anything runs."""
        import_module(f"..checks.{self.module}", __name__).check(values)


PIPELINES = {
    "adabn": PipelineInfo(
        "adabn",
        "Adapt a model to unlabelled faces in seconds, by its batch-normalisation statistics alone",
        "adabn",
        ("target", "source", "holdout"),
    ),
    "clup": PipelineInfo(
        "clup",
        "Adapt a model to unlabelled faces with CluP, evaluate, report and register it",
        "clup",
        ("target", "source", "holdout", "target_labels"),
        ("pretraining_init",),
    ),
    "source": PipelineInfo("source", "Train a source model on labelled faces", "source", ("faces",)),
}


def find(name: str) -> PipelineInfo:
    """Returns the pipeline of that name.

    Raises:
        UserError: There is none; the closest name is suggested.
    """
    if name not in PIPELINES:
        raise unknown("pipeline", name, sorted(PIPELINES))
    return PIPELINES[name]


@cache
def stages(pipeline: PipelineInfo) -> tuple[str, ...]:
    """Returns the names of the stages of a pipeline."""
    return tuple(sorted(pipeline.component().pipeline_spec.root.dag.tasks))


@cache
def parameters(pipeline: PipelineInfo) -> dict[str, Parameter]:
    """Returns the parameters of a pipeline by name, in the order of its signature."""
    found = {}
    spec, choices = pipeline.component().pipeline_spec, pipeline.choices()
    for name, entry in spec.root.input_definitions.parameters.items():
        kind = _TYPES[_parameter_type(entry)]
        default = _default(entry, kind)
        description = _MARK.sub("", " ".join(entry.description.split()))
        found[name] = Parameter(name, kind, default, description, choices.get(name, ()))
    order = list(pipeline.component().pipeline_func.__annotations__)
    return {name: found[name] for name in order if name in found}


def checked_parameters(pipeline: PipelineInfo, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a value of the right type for every parameter of a pipeline.

    Args:
        pipeline: The pipeline.
        given: Values by name; strings are converted.

    Raises:
        UserError: A name is unknown, a value has the wrong type or range, or a required one is missing.
    """
    known = parameters(pipeline)
    for name in given:
        if name not in known:
            fix = closest(name, list(known)).strip() or f"See: ferry parameters {pipeline.name}"
            raise expected(name, f"a parameter of the pipeline {pipeline.name}", name, fix)
    values, missing = {}, []
    for name, parameter in known.items():
        if name in given:
            values[name] = convert(name, given[name], parameter.kind)
            check_number(name, values[name])
        elif parameter.required:
            missing.append(parameter)
        else:
            values[name] = parameter.default
    if missing:
        fix = "; ".join(f"-p {entry.name}=VALUE: {entry.description.rstrip('.')}" for entry in missing)
        raise expected("`, `".join(entry.name for entry in missing), "given", "nothing", f"Pass {fix}.")
    pipeline.check(values)
    return values


def with_local_paths(pipeline: PipelineInfo, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values with local paths made absolute, for a run on this machine.

    Args:
        pipeline: The pipeline.
        values: From :func:`checked_parameters`.

    Raises:
        UserError: A path does not exist.
    """
    found = dict(values)
    for name in pipeline.paths:
        text = str(values[name]).strip()
        if not text or text.startswith(REMOTE):
            continue
        path = Path(text).expanduser().absolute()
        if not path.exists():
            raise expected(name, "an existing path", text, f"Check the path; it would be {path}.")
        found[name] = str(path)
    for name in pipeline.words:
        if "/" in found[name] or Path(found[name]).is_dir():
            found[name] = str(Path(found[name]).expanduser().absolute())
    return found


def compile_pipeline(pipeline: PipelineInfo, profile: Profile | None = None, *, choices: bool = True) -> str:
    """Returns a pipeline compiled to Kubeflow's YAML; the same source and profile give the same bytes.

    Args:
        pipeline: The pipeline.
        profile: What pods its stages get; None leaves that to the cluster.
        choices: Whether parameters name the words that they take, for Kubeflow's form and its API; servers older than
            2.16 refuse a pipeline with them.

    Raises:
        UserError: The profile names a stage that there is not, or asks of one what it cannot have.
    """
    from kfp import compiler

    component = pipeline.component()
    if profile is not None:
        from .cluster.apply import check_stages, with_profile

        check_stages(profile, {stage for info in (*PIPELINES.values(), pipeline) for stage in stages(info)})
        component = with_profile(component, profile)
    if choices:
        component = _with_choices(component, pipeline.choices())
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(component, str(path))
        return path.read_text(encoding="utf-8")


def check_number(name: str, value: Any) -> None:
    """Checks a number's range, whatever the pipeline.

    Raises:
        UserError: It is not finite, or no seed.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise expected(name, "finite", value, "Pass a number such as 0.1.")
    if name == "seed" and not 0 <= value < 2**32:
        raise expected(name, "from 0 to 4294967295", value, "Pass a number such as 1.")


def _with_choices(component: Any, choices: Mapping[str, tuple[str, ...]]) -> Any:
    """Returns a pipeline whose parameters name their words: kfp's format has a field for them, its functions do not."""
    from google.protobuf.struct_pb2 import Value

    found = copy.deepcopy(component)  # the one of the module is for everybody
    for name, words in choices.items():
        entry = found.pipeline_spec.root.input_definitions.parameters[name]
        entry.literals.extend(Value(string_value=word) for word in words)
    return found


def _parameter_type(entry: Any) -> str:
    from kfp.pipeline_spec import pipeline_spec_pb2

    return str(pipeline_spec_pb2.ParameterType.ParameterTypeEnum.Name(entry.parameter_type))


def _default(entry: Any, kind: type) -> Any:
    if not entry.is_optional:
        return None
    from google.protobuf.json_format import MessageToDict

    return kind(MessageToDict(entry.default_value)) if entry.HasField("default_value") else kind()
