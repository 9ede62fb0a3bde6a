"""Opens Faces folders: images, keys and groups for everybody, labels only for those who ask for a labelled set."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..common.errors import expected, unknown
from ..common.files import read_json
from .schema import FACES_FILE, FORMAT, FORMAT_VERSION, FacesInfo, SplitInfo, check_classes

_DAMAGED = "The file is damaged: import or copy the data set again."
_GROUPS_KEPT = 4
_FIRST = {"train": 0, "validation": 1, "test": 2}


class UnlabelledFaces:
    """One split of a Faces folder, without labels: this type has no attribute that could leak them.

    Opened by :func:`open_unlabelled`; images are read from the shards when they are asked for.

    Attributes:
        root: The Faces folder.
        split: Name of the split.
        digest: SHA-256 over all keys and images of the split, in order; the identity of the data in caches and lineage.
    """

    def __init__(self, info: FacesInfo, split: str) -> None:
        self.root, self.split = info.root, split
        self.digest = info.splits[split].digest
        self._shards = _Shards(info, split)

    def __len__(self) -> int:
        return self._shards.count

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r}, split={self.split!r}, faces={len(self)})"

    @cached_property
    def keys(self) -> list[str]:
        """Keys in order: stable identities inside the data set."""
        return [str(key) for key in self._shards.column("key")]

    @cached_property
    def groups(self) -> list[str] | None:
        """Person or video of each face, empty where unknown; None where no face of the folder has one."""
        if "group" not in self._shards.schema.names:
            return None
        return [group or "" for group in self._shards.column("group")]

    def image(self, index: int) -> bytes:
        """Returns the encoded image of one face.

        Raises:
            IndexError: There is no such face.
            UserError: The shard is damaged.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"face {index} of {len(self)}")
        return self._shards.image(index % len(self))

    def iter_images(self) -> Iterator[bytes]:
        """Yields all encoded images in order, in bounded memory."""
        return self._shards.images()

    def pixels(self, size: int, channels: int = 1, cache: Path | None = None) -> np.ndarray:
        """Returns all faces decoded: the largest central square, resized with antialiasing.

        Decoded once and kept in a file; later calls map that file.

        Args:
            size: Side of the square, in pixels.
            channels: 1 (luma) or 3.
            cache: Folder of the file; ``$FERRY_CACHE``, else ``~/.cache/ferry`` by default.

        Returns:
            uint8 [N, channels, size, size], a memory map in copy-on-write mode: changes never reach the file.

        Raises:
            UserError: An image or a shard is damaged, or the cache folder cannot be written.
            RetryableError: The disk is full.
        """
        from .cache import cached_pixels

        return cached_pixels(self, size, channels, cache)


class LabelledFaces(UnlabelledFaces):
    """One split of a labelled Faces folder.

    Attributes:
        classes: Class names in label order.
    """

    def __init__(self, info: FacesInfo, split: str) -> None:
        super().__init__(info, split)
        if info.classes is None:
            raise RuntimeError("open_faces checks this")
        self.classes = info.classes
        self._info = info

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels, int64 [N]: indices into `classes`."""
        column = self._shards.column("label")
        labels = np.array([-1 if label is None else label for label in column], dtype=np.int64)
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            wrong = next(label for label in column if label is None or not 0 <= label < len(self.classes))
            rule = f"an index into the {len(self.classes)} classes"
            raise expected(f"label in {self.root}", rule, wrong, "The folder is damaged: import the data set again.")
        return labels

    @cached_property
    def votes(self) -> np.ndarray | None:
        """Soft labels, float32 [N, classes], rows of NaN where a face has none; None where no face has any."""
        if "votes" not in self._shards.schema.names:
            return None
        nothing = [float("nan")] * len(self.classes)
        rows = [row or nothing for row in self._shards.column("votes")]
        return np.array(rows, dtype=np.float32).reshape(len(rows), len(self.classes))

    def without_labels(self) -> UnlabelledFaces:
        """Returns the same faces as the type that knows no labels."""
        return UnlabelledFaces(self._info, self.split)


def open_faces(root: Path | str, split: str = "") -> LabelledFaces:
    """Opens one split of a labelled Faces folder.

    Args:
        root: The folder.
        split: Name of the split; empty takes the only one, or ``"train"`` where there are several.

    Raises:
        UserError: The folder is no Faces folder, is damaged, has no such split or no labels.
    """
    info = read_info(root)
    if info.classes is None:
        fix = "This folder has no labels: import it with labels, or open it with open_unlabelled."
        raise expected("faces", "a labelled Faces folder", str(root), fix)
    return LabelledFaces(info, _pick_split(info, split))


def open_unlabelled(root: Path | str, split: str = "") -> UnlabelledFaces:
    """Opens one split of an unlabelled Faces folder; refuses one that has labels, so that they cannot leak.

    Args:
        root: The folder.
        split: Name of the split; empty takes the only one, or ``"train"`` where there are several.

    Raises:
        UserError: The folder is no Faces folder, is damaged, has no such split, or holds labels.
    """
    info = read_info(root)
    faces = UnlabelledFaces(info, _pick_split(info, split))
    if info.classes is not None or {"label", "votes"} & set(faces._shards.schema.names):
        fix = (
            "It holds labels where none may be: import it with labels='drop' (--labels drop), "
            "or make an unlabelled copy with ferry.faces.drop_labels."
        )
        raise expected("faces", "an unlabelled Faces folder", str(root), fix)
    return faces


def read_info(root: Path | str) -> FacesInfo:
    """Reads and checks ``faces.json``; the shards are not opened.

    Raises:
        UserError: The folder or the file is missing, damaged, or of another format version.
    """
    root = Path(root)
    path = root / FACES_FILE
    if not path.is_file():
        fix = "Make a Faces folder first: ferry faces import SOURCE -o FOLDER."
        what = "an existing folder" if not root.is_dir() else f"a Faces folder, which holds {FACES_FILE}"
        raise expected("faces", what, str(root), fix)
    content = read_json(path, str(path))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise expected(str(path), f"a description of faces (format {FORMAT!r})", content, "Point to a Faces folder.")
    if content.get("version") != FORMAT_VERSION:
        fix = "The folder was made by another version of Ferry: use that one, or import the data again."
        raise expected(str(path), f"of format version {FORMAT_VERSION}", content.get("version"), fix)
    try:
        classes = None if content["classes"] is None else check_classes(content["classes"])
        names = sorted(content["splits"], key=lambda name: (_FIRST.get(name, len(_FIRST)), name))
        splits = {name: _split_info(content["splits"][name], classes) for name in names}
        return FacesInfo(root, classes, splits, content.get("provenance") or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise expected(str(path), "a complete description of faces", f"{error}", _DAMAGED) from None


def require_same_classes(a: LabelledFaces | Sequence[str], b: LabelledFaces | Sequence[str], what: str) -> None:
    """Raises UserError where two class vocabularies are not the same names in the same order.

    Args:
        a: What is needed: labelled faces, or class names (of a model).
        b: What was found.
        what: The field's name in the message, for example ``"classes of the holdout"``.
    """
    needed, found = _classes_of(a), _classes_of(b)
    if needed == found:
        return
    missing = [name for name in needed if name not in found]
    surplus = [name for name in found if name not in needed]
    told = [f"missing: {', '.join(missing)}"] if missing else []
    told += [f"surplus: {', '.join(surplus)}"] if surplus else []
    told = told or ["the names are the same, but their order differs"]
    fix = f"Bring both to one vocabulary ({'; '.join(told)})."
    raise expected(what, "the classes " + ", ".join(needed), ", ".join(found), fix)


def _classes_of(owner: LabelledFaces | Sequence[str]) -> tuple[str, ...]:
    return owner.classes if isinstance(owner, LabelledFaces) else tuple(owner)


def _split_info(value: dict[str, Any], classes: tuple[str, ...] | None) -> SplitInfo:
    files = tuple(str(name) for name in value["files"])
    if any(Path(name).name != name for name in files):
        raise ValueError(f"shard names {files}")
    counts = None if classes is None else {name: int(value["per_class"][name]) for name in classes}
    return SplitInfo(int(value["count"]), str(value["digest"]), counts, files)


def _pick_split(info: FacesInfo, split: str) -> str:
    names = list(info.splits)
    if not split and len(names) == 1:
        return names[0]
    if (split or "train") in info.splits:
        return split or "train"
    if not split:
        raise expected("split", "named, since there are several and none is 'train'", names, "Name one of them.")
    raise unknown("split", split, names)


class _Shards:
    """Random and sequential access to the shards of one split."""

    def __init__(self, info: FacesInfo, split: str) -> None:
        self._info, self._split = info, info.splits[split]
        self.paths = [info.root / name for name in self._split.files]
        self._starts: list[int] = []
        self._places: list[tuple[Path, int]] = []
        self._recent: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()
        self.schema = pa.schema([])
        counts = []
        for path in self.paths:
            with _opened(path) as file:
                groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
                self._check_schema(path, file.schema_arrow)
            counts += groups
            self._places += [(path, index) for index in range(len(groups))]
        self._starts = [0, *accumulate(counts)]
        self.count = self._starts[-1]
        if self.count != self._split.count:
            rule = f"{self._split.count} faces in split {split!r}, as {FACES_FILE} says"
            raise expected(
                str(info.root), rule, self.count, "A shard was exchanged: import or copy the data set again."
            )

    def column(self, name: str) -> list[Any]:
        values: list[Any] = []
        for path in self.paths:
            with _opened(path) as file, _damage_named(path):
                values += file.read(columns=[name])[name].to_pylist()
        return values

    def image(self, index: int) -> bytes:
        place = bisect_right(self._starts, index) - 1
        with self._lock:
            group = self._recent.get(place)
            if group is None:
                path, number = self._places[place]
                with _opened(path) as file, _damage_named(path):
                    group = _image_bytes(file.read_row_group(number, columns=["image.bytes"]))
                self._recent[place] = group
                while len(self._recent) > _GROUPS_KEPT:
                    self._recent.popitem(last=False)
            else:
                self._recent.move_to_end(place)
        value: bytes = group[index - self._starts[place]].as_py()
        return value

    def images(self) -> Iterator[bytes]:
        for path in self.paths:
            with _opened(path) as file:
                for number in range(file.num_row_groups):
                    with _damage_named(path):
                        group = _image_bytes(file.read_row_group(number, columns=["image.bytes"]))
                    for value in group:
                        yield value.as_py()

    def _check_schema(self, path: Path, schema: pa.Schema) -> None:
        needed = {"image", "key"} | ({"label"} if self._info.classes is not None else set())
        missing = sorted(needed - set(schema.names))
        if missing:
            raise expected(str(path), f"a shard of faces with the columns {sorted(needed)}", schema.names, _DAMAGED)
        self.schema = schema


def _image_bytes(table: pa.Table) -> pa.ChunkedArray:
    return pc.struct_field(table["image"], "bytes")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises on damaged files into an error that names the file."""
    try:
        yield
    except PermissionError as error:
        raise expected(str(path), "readable for this user", "Permission denied", "Change its permissions.") from error
    except (pa.ArrowException, OSError) as error:
        raise expected(str(path), "a readable Parquet file", str(error), _DAMAGED) from error


def _opened(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        fix = f"It is listed in {FACES_FILE} but missing: import or copy the data set again."
        raise expected(str(path), "an existing file", "nothing", fix)
    with _damage_named(path):
        return pq.ParquetFile(path, page_checksum_verification=True)
