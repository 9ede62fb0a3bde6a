"""A profile: what pods a cluster gives to the stages, and where they find images, keys and addresses.

It is a YAML file. Every field may be left out; `docs/profiles.md` describes all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ...common.errors import UserError, expected, unknown
from ...common.images import KINDS
from ...common.parameters import from_mapping

T = TypeVar("T")

_CPU = re.compile(r"\d+(\.\d+)?|\d+m")
_MEMORY = re.compile(r"\d+([EPTGMK]i?)?")
_DURATION = re.compile(r"(\d+)(s|m|h|d)?")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SECRET = re.compile(r"pass(word|wd)?|secret|token|credential|(access|api|secret)_?key", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OBJECT = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_DIGEST = re.compile(r"\S+@sha256:[0-9a-f]{64}")
_POLICIES = ("Always", "IfNotPresent", "Never")
_OF_CPU = ("cpu", "cpu_limit")
_OF_MEMORY = ("memory", "shared_memory")
_TOLERATION: Mapping[str, tuple[str, ...]] = {
    "key": (),
    "operator": ("Exists", "Equal"),
    "value": (),
    "effect": ("NoSchedule", "PreferNoSchedule", "NoExecute"),
    "toleration_seconds": (),
}
_LEAST_MEMORY = 64 << 20
_EXCHANGE = re.compile(r"s3://[^/\s]+/[^\s]*[^/\s]/?")
_ADDRESS = re.compile(r"//[^/@\s]+:[^/@\s]+@")


@dataclass(frozen=True)
class Pod:
    """What a pod of a stage asks for; None and empty leave it to the cluster, or to the settings of more stages.

    Attributes:
        cpu: Processors that are kept for it, such as ``500m`` or ``4``.
        cpu_limit: Processors that it may use; as many as there are where not given.
        memory: Memory that it gets, such as ``8Gi``; request and limit are the same.
        gpus: Number of GPUs; 0 asks for none, and then the YAML does not mention any.
        gpu_type: Resource name of a GPU.
        nodes: Machines of a training; more than one makes a TrainJob of Kubeflow's Trainer.
        shared_memory: Size of ``/dev/shm``, in memory; it counts into `memory`. For stages with torch.
        timeout: Longest time, such as ``90m`` or ``12h``.
        retries: How often a pod that failed is started again; only for stages that may run twice.
        backoff: Wait before the first retry; it doubles each time.
        node_selector: Labels that its node must have.
        tolerations: Taints that it tolerates: mappings with ``key``, ``operator``, ``value``, ``effect``.
    """

    cpu: str = ""
    cpu_limit: str = ""
    memory: str = ""
    gpus: int | None = None
    gpu_type: str = ""
    nodes: int | None = None
    shared_memory: str = ""
    timeout: str = ""
    retries: int | None = None
    backoff: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for names, form, example in ((_OF_CPU, _CPU, "500m, 1.5 or 4"), (_OF_MEMORY, _MEMORY, "1536Mi or 8Gi")):
            for name in names:
                value = getattr(self, name)
                if value and not form.fullmatch(value):
                    raise expected(
                        name, "a quantity that Kubeflow understands", value, f"Write, for example, {example}."
                    )
        for name in ("timeout", "backoff"):
            value = getattr(self, name)
            if value and not (_DURATION.fullmatch(value) and seconds(value)):
                raise expected(name, "a time", value, "Write, for example, 30s, 90m or 12h.")
        if self.memory.isdecimal() and int(self.memory) < _LEAST_MEMORY:
            raise expected("memory", "enough for a stage", f"{self.memory} bytes", "Write the unit, such as 8Gi.")
        if self.nodes is not None and self.nodes < 1:
            raise expected("nodes", "1 or more", self.nodes, "Remove it for one machine.")
        for name in ("gpus", "retries"):
            number = getattr(self, name)
            if number is not None and number < 0:
                raise expected(name, "zero or more", number, "Pass 0 for none.")
        for toleration in self.tolerations:
            _check_toleration(toleration)

    def over(self, other: Pod) -> Pod:
        """Returns these settings, with those of `other` where these say nothing; 0 and ``{}`` of these count."""
        given = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(other, **{name: value for name, value in given.items() if value not in ("", None, {}, ())})


@dataclass(frozen=True)
class Images:
    """Where images come from.

    Attributes:
        registry: Registry and folder; ``FERRY_IMAGE_REGISTRY`` where empty.
        lock: ``images.lock.json`` with digests, relative to the profile; its images go before the registry's.
        pull_policy: ``Always``, ``IfNotPresent`` or ``Never``; the cluster's where empty.
        pull_secrets: Names of the secrets that the registry asks for.
        digests: What the lock holds, by kind.
    """

    registry: str = ""
    lock: str = ""
    pull_policy: str = ""
    pull_secrets: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if "://" in self.registry:
            fix = "Write it without, such as registry.example.org/ml."
            raise expected("images.registry", "without a scheme", self.registry, fix)
        if self.pull_policy and self.pull_policy not in _POLICIES:
            raise unknown("images.pull_policy", self.pull_policy, _POLICIES)
        for name in self.pull_secrets:
            _check_object("images.pull_secrets", name)


@dataclass(frozen=True)
class Trainer:
    """How trainings on several machines use Kubeflow's Trainer.

    Attributes:
        exchange: ``s3://bucket/prefix`` where a stage and its machines hand each other data and model.
        runtime: The ClusterTrainingRuntime.
        launcher: Pod of the stage itself, which hands over the data and waits; over the profile's `default`.
    """

    exchange: str = ""
    runtime: str = "torch-distributed"
    launcher: Pod = field(default_factory=Pod)

    def __post_init__(self) -> None:
        if self.exchange and not _EXCHANGE.fullmatch(self.exchange):
            fix = "Write it as s3://bucket/prefix."
            raise expected("trainer.exchange", "a prefix below a bucket", self.exchange, fix)
        _check_object("trainer.runtime", self.runtime)


@dataclass(frozen=True)
class Keys:
    """Which variables a secret or a config map gives, and to whom.

    Attributes:
        keys: Variable to the key that holds its value; no key twice.
        optional: Whether pods start where it is missing.
        stages: Stages that get it; empty for all.
    """

    keys: Mapping[str, str]
    optional: bool = False
    stages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for variable in self.keys:
            _check_variable("keys", variable)
        twice = [key for key in self.keys.values() if list(self.keys.values()).count(key) > 1]
        if twice:
            raise expected("keys", "a key for each variable", twice[0], "Kubeflow gives a key to one variable only.")


@dataclass(frozen=True)
class Profile:
    """How the stages of pipelines become pods.

    Attributes:
        images: Where images come from.
        default: For every stage.
        torch: For stages whose image has torch, over `default`.
        stages: By name of the stage, over both.
        trainer: For trainings on several machines.
        environment: Variables with their values, which must not be secret.
        secrets: What secrets give, by name.
        config_maps: What config maps give, by name.
    """

    images: Images = field(default_factory=Images)
    default: Pod = field(default_factory=Pod)
    torch: Pod = field(default_factory=Pod)
    stages: Mapping[str, Pod] = field(default_factory=dict)
    trainer: Trainer = field(default_factory=Trainer)
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Keys] = field(default_factory=dict)
    config_maps: Mapping[str, Keys] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for variable, value in self.environment.items():
            _check_variable("environment", variable)
            if _SECRET.search(variable) or _ADDRESS.search(value):
                fix = "Put it into a Secret and name that under secrets."
                raise expected("environment", "without secrets", variable, fix)
        for kind, named in (("secrets", self.secrets), ("config_maps", self.config_maps)):
            for name in named:
                _check_object(kind, name)

    def pod(self, stage: str, torch: bool) -> Pod:
        """Returns what a stage's pod asks for.

        Args:
            stage: The stage's name.
            torch: Whether its image has torch.
        """
        general = self.torch.over(self.default) if torch else self.default
        return self.stages[stage].over(general) if stage in self.stages else general


def load_profile(path: Path | str) -> Profile:
    """Reads a profile.

    Args:
        path: The YAML file.

    Raises:
        UserError: It is missing or no YAML, a field is unknown or wrong, or its lock cannot be read.
    """
    import yaml

    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise expected("profile", "a file that can be read", str(path), f"{error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise expected("profile", "YAML", str(path), f"{' '.join(str(error).split())}.") from error
    if values is not None and not isinstance(values, Mapping):
        raise expected("profile", "a mapping of fields", type(values).__name__, f"Look into {path}.")
    return profile_of(dict(values or {}), path.parent)


def profile_of(values: Mapping[str, Any], folder: Path) -> Profile:
    """Builds a profile from what its file holds.

    Args:
        values: The file's content.
        folder: Where the file is, for the lock that it names.

    Raises:
        UserError: A field is unknown or wrong.
    """
    found = dict(values)
    for name in ("default", "torch"):
        if name in found:
            found[name] = _pod(found[name], f"{name}.")
    if "stages" in found:
        named = _mapping("stages", found["stages"])
        found["stages"] = {stage: _pod(entry, f"stages.{stage}.") for stage, entry in named.items()}
    if "images" in found:
        images = from_mapping(Images, _mapping("images", found["images"]), "images.")
        found["images"] = replace(images, digests=_digests(folder / images.lock) if images.lock else {})
    if "trainer" in found:
        trainer = dict(_mapping("trainer", found["trainer"]))
        if "launcher" in trainer:
            trainer["launcher"] = _pod(trainer["launcher"], "trainer.launcher.")
        found["trainer"] = from_mapping(Trainer, trainer, "trainer.")
    if "environment" in found:
        given = _mapping("environment", found["environment"])
        found["environment"] = {name: _text(f"environment.{name}", value) for name, value in given.items()}
    for kind in ("secrets", "config_maps"):
        if kind in found:
            named = _mapping(kind, found[kind])
            found[kind] = {name: _keys(f"{kind}.{name}.", values) for name, values in named.items()}
    return from_mapping(Profile, found)


def seconds(time: str) -> int:
    """Returns a time such as ``90m`` in seconds."""
    match = _DURATION.fullmatch(time)
    if match is None:
        raise expected("time", "a number with s, m, h or d", time, "Write, for example, 90m.")
    return int(match[1]) * _SECONDS[match[2] or ""]


def _pod(values: Any, name: str) -> Pod:
    given = dict(_mapping(name.rstrip("."), values))
    for key in (*_OF_CPU, *_OF_MEMORY, "timeout", "backoff"):
        if isinstance(given.get(key), (int, float)) and not isinstance(given[key], bool):
            given[key] = str(given[key])  # YAML reads cpu: 4 as a number
    if "node_selector" in given:
        labels = _mapping(f"{name}node_selector", given["node_selector"])
        given["node_selector"] = {key: _text(f"{name}node_selector.{key}", value) for key, value in labels.items()}
    if "tolerations" in given:
        entries = given["tolerations"]
        if not isinstance(entries, list):
            raise expected(f"{name}tolerations", "a list", entries, "Begin each with a dash.")
        given["tolerations"] = tuple(dict(_mapping(f"{name}tolerations", entry)) for entry in entries)
    return _named(Pod, given, name)


def _digests(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fix = "Write it: python images/build.py push."
        raise expected("images.lock", "a file with digests of images", str(path), fix) from error
    for kind, name in _mapping("images.lock", found).items():
        if kind not in KINDS or not isinstance(name, str) or not _DIGEST.fullmatch(name):
            fix = "Write it anew: python images/build.py push."
            raise expected("images.lock", "digests by kind of image", f"{kind}: {name}", fix)
    return dict(found)


def _mapping(name: str, values: Any) -> Mapping[str, Any]:
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise expected(name, "a mapping of names", values, "Indent its fields below it.")
    return values


def _keys(name: str, values: Any) -> Keys:
    given = dict(_mapping(name.rstrip("."), values))
    pairs = _mapping(f"{name}keys", given.get("keys", {}))
    given["keys"] = {variable: _text(f"{name}keys.{variable}", key) for variable, key in pairs.items()}
    return _named(Keys, given, name)


def _named(kind: type[T], given: Mapping[str, Any], name: str) -> T:
    """Builds a part of a profile; errors name the place in the file."""
    try:
        return from_mapping(kind, given, name)
    except UserError as error:
        raise UserError(re.sub(rf"^Expected `(?!{re.escape(name)})", f"Expected `{name}", str(error))) from error


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise expected(name, "text", value, "Put it between quotation marks.")
    return value


def _check_toleration(toleration: Mapping[str, Any]) -> None:
    for key, value in toleration.items():
        if key not in _TOLERATION:
            raise unknown("tolerations", key, tuple(_TOLERATION))
        if key == "toleration_seconds":
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise expected("tolerations", "with a number of toleration_seconds", value, "Write, for example, 300.")
        elif not isinstance(value, str):
            raise expected("tolerations", f"with text as {key}", value, "Put it between quotation marks.")
        elif _TOLERATION[key] and value not in _TOLERATION[key]:
            raise unknown("tolerations", value, _TOLERATION[key])


def _check_variable(name: str, variable: str) -> None:
    if not _VARIABLE.fullmatch(variable):
        raise expected(name, "names of environment variables", variable, "Write, for example, S3_ENDPOINT.")


def _check_object(name: str, value: str) -> None:
    if not _OBJECT.fullmatch(value):
        raise expected(name, "names of Kubernetes objects", value, "Take lower-case letters, digits and dashes.")
