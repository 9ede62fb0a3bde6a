"""A prefix of the object store where a stage hands data to other machines and gets the model back."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from ...common.errors import expected
from ...common.files import atomic_folder
from ...common.progress import progress
from ...faces.addresses import ObjectInfo, S3Source, is_plain_name
from ...faces.object_store import ObjectStore
from ...faces.parallel import ordered_map
from .calls import CALL_FILE, Call

_WORKERS = 8
_INPUTS, _OUTPUT, _ANSWERS, _BEGUN = "inputs", "output", "answers", "begun"


class Exchange:
    """What one training puts under a prefix of its own.

    Args:
        uri: ``s3://bucket/prefix``.
        store: The store; from the environment by default.

    Raises:
        UserError: It is no such address, or the environment names no store.
    """

    def __init__(self, uri: str, store: ObjectStore | None = None) -> None:
        self.place = S3Source.folder(uri, "exchange")
        self.store = store or ObjectStore()

    def send_call(self, call: Call, folder: Path) -> None:
        """Uploads the inputs, then the call, with paths below the folder that the other side makes.

        Args:
            call: The call.
            folder: Where the call may be written first.
        """
        files, there = [], {}
        for name, path in call.inputs.items():
            below = f"{_INPUTS}/{name}"
            files += [(file, f"{below}/{where}") for file, where in _files(Path(path))]
            there[name] = below if Path(path).is_dir() else f"{below}/{Path(path).name}"
        replace(call, inputs=there, output=_OUTPUT).save(folder)
        self._send(files, "handing over the data")
        self._send([(folder / CALL_FILE, CALL_FILE)], "handing over the call")

    def begin(self, machine: int) -> bool:
        """Notes that a machine begins; returns False where it has begun before.

        Args:
            machine: Its number.
        """
        if self._find(f"{_BEGUN}/{machine}") is not None:
            return False
        with tempfile.NamedTemporaryFile() as empty:
            self._send([(Path(empty.name), f"{_BEGUN}/{machine}")], "beginning")
        return True

    def fetch_call(self, folder: Path) -> Call:
        """Downloads inputs and call.

        Args:
            folder: Where to.

        Returns:
            The call, with paths in `folder`.
        """
        self.store.save(self.place.bucket, self.place.below + CALL_FILE, folder / CALL_FILE)
        self._fetch(_INPUTS, folder / _INPUTS)
        given = Call.load(folder)
        there = {name: str(folder / path) for name, path in given.inputs.items()}
        return replace(given, inputs=there, output=str(folder / given.output))

    def send_results(self, folder: Path, output: Path) -> None:
        """Uploads the model, where there is one on this machine, then the answers.

        Args:
            folder: Where the answers are.
            output: The model's folder.
        """
        self._send([(file, f"{_OUTPUT}/{where}") for file, where in _files(output)], "handing back the model")
        answers = [(path, f"{_ANSWERS}/{path.name}") for path in sorted(folder.glob("answer-*.json"))]
        self._send(answers, "handing back the answers")

    def fetch_answers(self, folder: Path) -> None:
        """Downloads the answers.

        Args:
            folder: Where to.
        """
        self._fetch(_ANSWERS, folder)

    def fetch_output(self, output: Path) -> None:
        """Downloads the model as a folder that is whole or absent.

        Args:
            output: The folder to make.
        """
        with atomic_folder(output) as folder:
            self._fetch(_OUTPUT, folder)

    def clear(self) -> None:
        """Removes everything under the prefix."""
        keys = [item.key for item in self.store.list(self.place.bucket, self.place.below)]
        self.store.remove(self.place.bucket, keys)

    def _send(self, files: list[tuple[Path, str]], what: str) -> None:
        def send(pair: tuple[Path, str]) -> None:
            self.store.upload(pair[0], self.place.bucket, self.place.below + pair[1])

        with progress(what, len(files), "files") as bar:
            for _ in ordered_map(send, files, _WORKERS, chunk=1):
                bar.advance()

    def _fetch(self, part: str, folder: Path) -> None:
        """Downloads what lies under a part of the prefix into a folder."""
        start = f"{self.place.below}{part}/"

        def save(item: ObjectInfo) -> None:
            name = item.key[len(start) :]
            if not is_plain_name(name):
                raise expected("exchange", "a prefix with plain names", item.key, "Somebody else wrote there.")
            self.store.save(self.place.bucket, item, folder / name)

        for _ in ordered_map(save, self.store.list(self.place.bucket, start), _WORKERS, chunk=1):
            pass

    def _find(self, name: str) -> ObjectInfo | None:
        return self.store.find(self.place.bucket, self.place.below + name)


def _files(path: Path) -> list[tuple[Path, str]]:
    """Returns a file, or the files of a folder, with their names below it."""
    if path.is_file():
        return [(path, path.name)]
    found = sorted(file for file in path.rglob("*") if file.is_file())
    return [(file, file.relative_to(path).as_posix()) for file in found]
