"""What the processes of a training are told, and what they answer: two kinds of JSON files in one folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ...common.errors import FerryError, Interrupted, RetryableError, TrainingDiverged, UserError, expected
from ...common.files import read_json, write_json
from ...common.parameters import from_mapping
from ...common.stage import StageRecord
from ..nesting import artifact_uri

CALL_FILE = "call.json"
PROCESS_FILES = "process-"
"""Beginning of the names of files in which processes leave their numbers."""

_PACKAGE = __name__.split(".")[0]
_KINDS: Mapping[str, type[FerryError]] = {
    kind.__name__: kind for kind in (FerryError, UserError, RetryableError, Interrupted, TrainingDiverged)
}


class Work(Protocol):
    """A training on artifacts: reads `inputs`, writes the folder `output`, leaves warnings and facts."""

    def __call__(
        self, inputs: Mapping[str, Path | str], output: Path | str, record: StageRecord, **arguments: Any
    ) -> None:
        """Does the work; the arguments are what JSON can hold."""


@dataclass(frozen=True)
class Call:
    """A training that processes are to do together.

    Attributes:
        function: The function of Ferry, as ``module:name``.
        inputs: Folders and files that it reads, by name.
        output: The folder that it makes.
        arguments: What else it is given; what JSON can hold.
        address: Where the output will lie in the pipeline's store, for tags; empty where that is not known.
    """

    function: str
    inputs: Mapping[str, str]
    output: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    address: str = ""

    @classmethod
    def of(
        cls, work: Callable[..., None], inputs: Mapping[str, Path | str], output: Path | str, arguments: dict[str, Any]
    ) -> Call:
        """Describes a call of a module's function.

        Args:
            work: The function.
            inputs: What it reads, by name.
            output: The folder that it makes.
            arguments: What else it is given.
        """
        there = {name: str(Path(path).absolute()) for name, path in inputs.items()}
        name = f"{work.__module__}:{work.__qualname__}"
        return cls(name, there, str(Path(output).absolute()), arguments, artifact_uri(output))

    def save(self, folder: Path) -> None:
        """Writes the call where :meth:`load` finds it.

        Args:
            folder: The folder.
        """
        write_json(folder / CALL_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Call:
        """Reads the call of a folder.

        Args:
            folder: The folder.

        Raises:
            UserError: There is none, or another version of Ferry wrote it.
        """
        return from_mapping(cls, read_json(folder / CALL_FILE, "call"), "call.")

    def resolve(self) -> Work:
        """Returns the function.

        Raises:
            UserError: It is not one of this package: a file from elsewhere decides nothing about what runs here.
        """
        module, _, name = self.function.partition(":")
        if module.split(".")[0] != _PACKAGE or not name.isidentifier():
            raise expected("function", f"one of {_PACKAGE}", self.function, "The file was changed; run the stage anew.")
        found: Work = getattr(import_module(module), name)
        return found


@dataclass(frozen=True)
class Answer:
    """How one process ended.

    Attributes:
        rank: Its number.
        kind: Class of the error, empty for none; ``Exception`` for one that Ferry did not raise on purpose.
        message: The error for people.
        ended: When, in seconds since the epoch.
        warnings: The record's warnings.
        facts: The record's facts.
        checkpoints: Paths of checkpoints that may have been written.
    """

    rank: int
    kind: str = ""
    message: str = ""
    ended: float = 0.0
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    checkpoints: list[str] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Writes the answer into the folder of the call.

        Args:
            folder: The folder.
        """
        write_json(folder / f"answer-{self.rank}.json", {**asdict(self), "ended": self.ended or time.time()})


def answers(folder: Path) -> list[Answer]:
    """Returns the answers in a folder, by rank.

    Args:
        folder: Folder of the call.

    Raises:
        UserError: Another version of Ferry wrote one.
    """
    found = [from_mapping(Answer, read_json(path, "answer"), "answer.") for path in folder.glob("answer-*.json")]
    return sorted(found, key=lambda answer: answer.rank)


def kind_of(error: BaseException) -> str:
    """Returns how an answer names an error's class.

    Args:
        error: The error.
    """
    return next((name for name, kind in reversed(list(_KINDS.items())) if isinstance(error, kind)), "Exception")


def settle(found: list[Answer], processes: int, record: StageRecord) -> None:
    """Takes over what the first process left, or raises what ended them.

    Args:
        found: The answers.
        processes: How many there should be.
        record: Receives warnings and facts.

    Raises:
        FerryError: Of the kind of the process that failed first; the others failed because it was gone.
    """
    failed = sorted((answer for answer in found if answer.kind), key=_blame)
    silent = sorted(set(range(processes)) - {answer.rank for answer in found})
    if silent and not any(_is_cause(answer) for answer in failed):
        others = [f" Process {answer.rank} said: {answer.message}" for answer in failed if answer.kind not in _KINDS]
        got = f"ended without a word (process {', '.join(map(str, silent))} of {processes}, counted from 0)"
        fix = "Often its memory was not enough: look into the log above, give the stage more, or take fewer processes."
        raise FerryError(f"Expected `process` to end by itself, but got one that {got}. {fix}{''.join(others[:1])}")
    if failed:
        raise _KINDS.get(failed[0].kind, FerryError)(failed[0].message)
    first = found[0]
    record.warnings.extend(first.warnings)
    record.facts.update(first.facts)


def has_cause(found: list[Answer]) -> bool:
    """Tells whether an answer says what ended the others; where one does, nothing better will come.

    Args:
        found: The answers so far.
    """
    return any(_is_cause(answer) for answer in found)


def _is_cause(answer: Answer) -> bool:
    return answer.kind in _KINDS and answer.kind != Interrupted.__name__


def _blame(answer: Answer) -> tuple[bool, float]:
    """Orders failures: causes before the broken connections and the interruptions that they bring about."""
    return not _is_cause(answer), answer.ended
