"""What identifies the present state of data and models: Kubeflow's cache knows a place by its name only.

Nothing of the content is read. A state is another one whenever an import could give another result: other objects or
files, other versions of them, another version behind an alias, another Ferry.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .. import __file__ as package_file
from .. import __version__
from ..common.errors import expected
from ..faces.readers import is_s3
from ..training.runs import is_registry_uri, version_of

_CODE = (".py", ".jinja", ".css")


def state_of(place: str) -> str:
    """Returns the state of what lies at a place.

    Args:
        place: A folder, a file, ``s3://bucket/prefix``, ``models:/NAME@ALIAS``, or empty.

    Returns:
        64 hexadecimal digits; empty for an empty place.

    Raises:
        UserError: There is nothing, or it cannot be looked at.
        RetryableError: The store or the MLflow server does not answer.
    """
    place = place.strip()
    if not place:
        return ""
    if is_registry_uri(place):
        lines = iter([version_of(place)])
    elif is_s3(place):
        lines = _objects(place)
    else:
        lines = _files(Path(place).expanduser())
    found = hashlib.sha256(f"{place}\n{code_state()}\n".encode())
    for line in lines:
        found.update(f"{line}\n".encode())
    return found.hexdigest()


@cache
def code_state() -> str:
    """Returns the version of Ferry with a digest of its code, which a tag of an image does not tell apart."""
    root = Path(package_file).parent
    found = hashlib.sha256()
    roots = {root, Path(__file__).parent}  # in an editable installation the pipelines lie elsewhere
    for folder in sorted(roots):
        for path in sorted(folder.rglob("*")):
            if path.suffix in _CODE:
                found.update(path.name.encode() + path.read_bytes())
    return f"{__version__}-{found.hexdigest()[:16]}"


def _objects(place: str) -> Iterator[str]:
    from ..faces.addresses import S3Source
    from ..faces.object_store import ObjectStore

    source, count = S3Source.parse(place), 0
    for item in ObjectStore().list(source.bucket, source.prefix):
        if item.key == source.prefix or item.key.startswith((source.below, f"{source.prefix}.")):  # a sidecar
            count += 1
            yield f"{item.key} {item.size} {item.etag}"
    if not count:
        raise expected("source", "a prefix with objects", place, "Check bucket and prefix.")


def _files(path: Path) -> Iterator[str]:
    if not path.exists():
        raise expected("source", "an existing path", str(path), "Check the path, and that pods see it.")
    beside = [path, *sorted(path.parent.glob(f"{path.name}.*"))] if path.is_file() else []  # a sidecar
    for file in beside or sorted(entry for entry in path.rglob("*") if entry.is_file()):
        about = os.stat(file)
        yield f"{file.relative_to(path.parent)} {about.st_size} {about.st_mtime_ns}"
