"""What a data set of faces is: the vocabulary, the records that move between rooms, and the Parquet schema on disk.

The layout on disk is plain Parquet with the metadata of Hugging Face ``datasets``, so that both that library and
pyarrow open it as it is::

    <root>/train-00000-of-00003.parquet   image: struct<bytes, path>, label: int64, key: string, group: string
    <root>/faces.json                     format version, classes, counts, digests, provenance

The unlabelled type has no ``label`` column at all. ``group`` and ``votes`` exist only where they are known.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..common.errors import expected

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
"""The seven expressions, in the one order that data, models and reports share (alphabetical)."""

CONTEMPT = "contempt"
UNKNOWN = "unknown"

FORMAT = "ferry-faces"
FORMAT_VERSION = 1
FACES_FILE = "faces.json"

_SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]*")


def anonymous_key(key: str) -> str:
    """Returns the key of a face whose label was dropped: layouts write the class into paths, so a path may tell it.

    Args:
        key: The face's key in its labelled data set.

    Returns:
        The same text for the same key, ``face-`` and 24 hexadecimal digits of its SHA-256.
    """
    return f"face-{hashlib.sha256(key.encode()).hexdigest()[:24]}"


@dataclass(frozen=True)
class RawFace:
    """One face as a reader finds it, before anything has been read or decoded.

    Readers yield these lazily and in a deterministic order. `load` is called at most once, soon after the face was
    yielded, and possibly from several threads at a time.

    Attributes:
        key: Stable identity inside the data set: the relative path, with ``#face-id`` where one picture holds several.
        load: Returns the encoded image. It may raise OSError or UserError: the face is then skipped with that reason.
        label: A name from :data:`EXPRESSIONS`, or ``"contempt"``, or ``"unknown"``; None where the layout has no label.
        split: ``"train"``, ``"test"``, ``"validation"``, or empty where the layout has none.
        group: Person or video, where known.
        box: Left, top, right, bottom in pixels of the upright picture: cropped before storing.
        pixels: uint8 [H, W] or [H, W, 3], where the data set gives raw pixels; `load` is then not called.
        votes: Soft label over :data:`EXPRESSIONS` that sums to 1, where annotators voted.
    """

    key: str
    load: Callable[[], bytes]
    label: str | None = None
    split: str = ""
    group: str | None = None
    box: tuple[int, int, int, int] | None = None
    pixels: np.ndarray | None = None
    votes: tuple[float, ...] | None = None


class Reader(Protocol):
    """What knows one public layout of a data set.

    Attributes:
        name: The layout's name: folder, fer2013, ferplus, rafdb, expw, afe, affectnet, sfew, manifest, flat, faces.
        labelled: Whether the layout gives labels. It is read after the first face was yielded, so that a reader may
            decide it while it reads.
    """

    name: str
    labelled: bool

    def detect(self, source: Path) -> bool:
        """Tells whether `source` looks like this layout."""
        ...

    def read(self, source: Path, options: Mapping[str, Any]) -> Iterator[RawFace]:
        """Yields the faces below `source`, lazily and in a deterministic order."""
        ...


@dataclass(frozen=True)
class FaceRecord:
    """One face as it is stored.

    Attributes:
        image: Encoded 8-bit image, JPEG or PNG.
        key: Identity inside the data set.
        label: Index into the classes; None in the unlabelled type.
        group: Person or video, where known.
        path: The ``path`` that Hugging Face ``datasets`` keeps beside the bytes; the key where empty.
        votes: Soft label over the classes, float32, where known.
    """

    image: bytes
    key: str
    label: int | None = None
    group: str | None = None
    path: str = ""
    votes: tuple[float, ...] | None = None


@dataclass(frozen=True)
class SplitInfo:
    """One split of a Faces folder.

    Attributes:
        count: Number of faces; zero is allowed (an empty holdout).
        digest: SHA-256 over all keys and image hashes in order; labelled and unlabelled copies share it.
        per_class: Faces per class name in the order of the classes; None in the unlabelled type.
        files: Names of the shards, in order.
    """

    count: int
    digest: str
    per_class: Mapping[str, int] | None
    files: tuple[str, ...]


@dataclass(frozen=True)
class FacesInfo:
    """What ``faces.json`` says about a folder.

    Attributes:
        root: The folder.
        classes: Class names in label order; None in the unlabelled type.
        splits: The splits by name.
        provenance: Where the faces come from: free text and numbers of whoever wrote them.
    """

    root: Path
    classes: tuple[str, ...] | None
    splits: Mapping[str, SplitInfo]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Faces over all splits."""
        return sum(split.count for split in self.splits.values())

    def as_json(self) -> dict[str, Any]:
        """Returns what is stored in ``faces.json``."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "classes": None if self.classes is None else list(self.classes),
            "splits": {
                name: {
                    "count": split.count,
                    "digest": split.digest,
                    "per_class": None if split.per_class is None else dict(split.per_class),
                    "files": list(split.files),
                }
                for name, split in self.splits.items()
            },
            "provenance": dict(self.provenance),
        }


def table_schema(classes: Sequence[str] | None, group: bool = False, votes: bool = False) -> pa.Schema:
    """Returns the Arrow schema of the shards, with the metadata that Hugging Face ``datasets`` reads.

    Args:
        classes: Class names in label order; None leaves the label column out.
        group: Whether there is a ``group`` column.
        votes: Whether there is a ``votes`` column, list<float32> over the classes.
    """
    import pyarrow as pa  # only here: class names and records are wanted far more often than a schema

    text = {"dtype": "string", "_type": "Value"}
    fields = [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if classes is not None:
        fields.append(("label", pa.int64()))
        features["label"] = {"names": list(classes), "_type": "ClassLabel"}
    fields.append(("key", pa.string()))
    features["key"] = text
    if group:
        fields.append(("group", pa.string()))
        features["group"] = text
    if votes:
        # "Sequence" is the one spelling that every version of `datasets` since 2.19 understands.
        fields.append(("votes", pa.list_(pa.float32())))
        features["votes"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def check_split_name(split: str) -> str:
    """Returns `split`, or raises UserError where it cannot be the start of a file name and a ``datasets`` split."""
    if not _SPLIT_NAME.fullmatch(split):
        raise expected("split", "a word of lower-case letters, digits and _", split, "Call it for example 'train'.")
    return split


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Returns `classes` as a tuple, or raises UserError where they are empty, doubled or not text."""
    names = tuple(classes)
    if not names or any(not isinstance(name, str) or not name for name in names) or len(set(names)) != len(names):
        raise expected("classes", "different, non-empty names", names, "Name every class once, in label order.")
    return names
