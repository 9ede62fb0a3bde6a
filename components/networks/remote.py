"""Source models in an object store: where a cluster takes them from, and how they get there."""

from __future__ import annotations

from itertools import islice
from pathlib import Path, PurePosixPath

from ..common.errors import expected
from ..faces.addresses import ObjectInfo, S3Source, is_plain_name
from ..faces.object_store import ObjectStore
from ..faces.pushing import PushReport, push_files
from .saved import INFO_FILE, is_saved_model
from .sidecar import FOLDER_FILE, read_sidecar, sidecar_path
from .sources import load_source

_MOST_FILES = 100


def fetch_model(uri: str, folder: Path | str, store: ObjectStore | None = None) -> Path:
    """Downloads a model.

    Args:
        uri: ``s3://bucket/prefix`` of a folder, or ``s3://bucket/key`` of a file, whose sidecar lies beside it.
        folder: Where to.
        store: The store; from the environment by default.

    Returns:
        The folder, or the file in it.

    Raises:
        UserError: There is nothing, more than a model, or a key or the bucket is wrong.
        RetryableError: The store cannot be reached, or a transfer failed several times.
    """
    place, folder = S3Source.parse(uri), Path(folder)
    store = store or ObjectStore()
    file = store.find(place.bucket, place.prefix)
    if file is not None:
        sidecar = store.find(place.bucket, f"{place.prefix}.json")
        for item in (file, *([sidecar] if sidecar is not None else [])):
            store.save(place.bucket, item, folder / PurePosixPath(item.key).name)
        return folder / PurePosixPath(place.prefix).name
    inside = list(islice(store.list(place.bucket, place.below), _MOST_FILES + 1))
    if not 0 < len(inside) <= _MOST_FILES:
        got = f"{uri} with {'more than a hundred' if inside else 'no'} files"
        raise expected("source", "a folder of a model, or a file of one", got, "Check bucket and prefix.")
    for item in inside:
        store.save(place.bucket, item, folder / _inside(item, place))
    return folder


def push_model(source: Path | str, target: str, trust: bool = False, store: ObjectStore | None = None) -> PushReport:
    """Uploads a source model, after it was opened once; the same call goes on after an interruption.

    Args:
        source: A folder of a Ferry model, or an ONNX or TorchScript file with its sidecar.
        target: ``s3://bucket/prefix``, where nothing else lies; a run then takes it as ``source``, or for a file
            ``s3://bucket/prefix/FILE``.
        trust: Whether a TorchScript file may be opened; it runs code.
        store: The store; from the environment by default.

    Returns:
        What was sent; its ``uri`` is what a run takes.

    Raises:
        UserError: It is no source model, something else lies under the prefix, or a key or the bucket is wrong.
        RetryableError: The store cannot be reached, or a transfer failed several times.
    """
    path = Path(source)
    load_source(path, trust)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        last = path / (INFO_FILE if is_saved_model(path) else FOLDER_FILE)
        return push_files(files, last, target, store)
    if path.suffix == ".json":
        path = read_sidecar(path)[1]
    report = push_files([path, sidecar_path(path)], sidecar_path(path), target, store)
    return PushReport(f"{report.uri}/{path.name}", report.sent, report.kept, report.size)


def _inside(item: ObjectInfo, place: S3Source) -> str:
    name = item.key[len(place.below) :]
    if not is_plain_name(name):
        raise expected("source", "a folder with plain names", item.key, "Rename the object.")
    return name
