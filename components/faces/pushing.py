"""Uploads Faces folders to an object store, from where other machines and stages import them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import expected
from ..common.files import digest_of_file
from ..common.progress import progress
from .addresses import ObjectInfo, S3Source
from .object_store import ObjectStore
from .parallel import ordered_map
from .schema import FACES_FILE
from .store import read_info

_WORKERS = 8
_SHOWN = 3


@dataclass(frozen=True)
class PushReport:
    """What an upload did.

    Attributes:
        uri: Where the data set is now.
        sent: Files that were uploaded.
        kept: Files that were there already, by their SHA-256.
        size: Bytes of all of them.
    """

    uri: str
    sent: int
    kept: int
    size: int


def push_faces(folder: Path | str, target: str, store: ObjectStore | None = None) -> PushReport:
    """Uploads a Faces folder under a prefix; the same call goes on after an interruption.

    ``faces.json`` goes last: a prefix that has it holds the whole data set. Nothing in the store is removed.

    Args:
        folder: A Faces folder.
        target: ``s3://bucket/prefix``, where nothing else lies.
        store: The store; from the environment by default.

    Returns:
        What was sent.

    Raises:
        UserError: It is no Faces folder, something else lies under the prefix, or a key or the bucket is wrong.
        RetryableError: The store cannot be reached, or a transfer failed several times.
    """
    folder = Path(folder)
    read_info(folder)
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return push_files(files, folder / FACES_FILE, target, store)


def push_files(files: Sequence[Path], last: Path, target: str, store: ObjectStore | None = None) -> PushReport:
    """Uploads files under a prefix as :func:`push_faces` does.

    Args:
        files: The files; no name twice.
        last: The one among them that goes last.
        target: ``s3://bucket/prefix``, where nothing else lies.
        store: The store; from the environment by default.

    Returns:
        What was sent.

    Raises:
        FerryError: As :func:`push_faces`.
    """
    there = S3Source.folder(target, "target")
    others = [path for path in files if path != last]
    upload = _Upload(store or ObjectStore(), there, {path.name: digest_of_file(path) for path in files})
    known = upload.known()
    todo = [path for path in others if path.name not in known]
    with progress(f"uploading {last.parent}", len(files), "files") as bar:
        bar.advance(len(others) - len(todo))
        for _ in ordered_map(upload.send, todo, _WORKERS, chunk=1):
            bar.advance()
        if last.name not in known:
            upload.known()  # somebody else may have begun to use the prefix meanwhile
            upload.send(last)
        bar.advance()
    sent = len(files) - len(known)
    return PushReport(there.uri, sent, len(files) - sent, sum(path.stat().st_size for path in files))


class _Upload:
    def __init__(self, store: ObjectStore, target: S3Source, digests: dict[str, str]) -> None:
        self.store, self.target, self.digests = store, target, digests

    def known(self) -> set[str]:
        """Returns the names of this data set's files that are under the prefix.

        Raises:
            UserError: Something else is there, or a file of the same name with another or with unknown content.
        """
        names = [item.key[len(self.target.below) :] for item in self._listing()]
        self._refuse([name for name in names if name not in self.digests])
        digests = [digest for _, digest in ordered_map(self._digest, names, _WORKERS, chunk=1)]
        there = dict(zip(names, digests, strict=True))
        self._refuse(
            [
                f"{name} {'with other content' if found else 'that was not pushed from here'}"
                for name, found in there.items()
                if found != self.digests[name]
            ]
        )
        return set(names)

    def _refuse(self, others: list[str]) -> None:
        if others:
            more = f" and {len(others) - _SHOWN:,} more" if len(others) > _SHOWN else ""
            got = f"{self.target.uri} with {', '.join(others[:_SHOWN])}{more}"
            raise expected("target", "a prefix without other objects", got, "Choose another one.")

    def send(self, path: Path) -> None:
        """Uploads one file, in a thread."""
        key = self.target.below + path.name
        self.store.upload(path, self.target.bucket, key, sha256=self.digests[path.name])

    def _digest(self, name: str) -> str:
        return self.store.sha256_of(self.target.bucket, self.target.below + name)

    def _listing(self) -> Iterator[ObjectInfo]:
        return self.store.list(self.target.bucket, self.target.below)
