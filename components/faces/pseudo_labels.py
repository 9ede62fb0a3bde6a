"""The PseudoLabels artifact: one Parquet table and one JSON, read by the fine-tuning and by people.

On disk: ``labels.parquet`` with one row per image and the columns of :class:`Columns` behind ``key``, and
``labelling.json`` with the class names, the switches, the summary and the digest of the table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..common.errors import expected
from ..common.files import atomic_folder, digest_of, digest_of_file, read_json, write_json

FORMAT_VERSION = 1
TABLE_FILE = "labels.parquet"
INFO_FILE = "labelling.json"

_TYPES: dict[str, Any] = {
    "label": np.int64,
    "score": np.float32,
    "cluster": np.int64,
    "purity": np.float32,
    "confidence": np.float32,
    "distance": np.float32,
    "kept": np.bool_,
    "teacher": np.int64,
}


@dataclass(frozen=True)
class Columns:
    """What is known of every image, ``[N]`` each, all in one order.

    Attributes:
        label: int64 pseudo-label.
        score: float32, what ranked the image within its pseudo-class.
        cluster: int64 cluster on the source features.
        purity: float32, share of the cluster's most frequent source label, without smoothing.
        confidence: float32, the teacher's largest probability.
        distance: float32, distance to the cluster's centroid on ``[z; 1] / ||[z; 1]||``.
        kept: bool, whether the image is trained on.
        teacher: int64, the teacher's own label.
    """

    label: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]
    cluster: npt.NDArray[np.int64]
    purity: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    distance: npt.NDArray[np.float32]
    kept: npt.NDArray[np.bool_]
    teacher: npt.NDArray[np.int64]

    def take(self, rows: npt.NDArray[np.int64]) -> Columns:
        """Returns the columns at `rows`, in that order."""
        return Columns(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class PseudoLabels:
    """Pseudo-labels of a set of images, found by key and never by position.

    Attributes:
        keys: Key of every image, unique.
        columns: What is known of every image.
        classes: Class names in the order of the labels.
        summary: Numbers for the log and the report; JSON-like, without NaN. It describes the whole table.
        config: The switches that made the labels, as a mapping.
    """

    keys: tuple[str, ...]
    columns: Columns
    classes: tuple[str, ...]
    summary: dict[str, Any]
    config: dict[str, Any]

    def __post_init__(self) -> None:
        _check_table(self.keys, self.columns, self.classes)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over keys, labels and which are kept: what a training on these labels depends on."""
        return digest_of([list(self.keys), self.columns.label, self.columns.kept])

    def align(self, keys: Sequence[str]) -> PseudoLabels:
        """Returns the same labels in the order of `keys`, which may leave images out.

        A data set and its labels meet here and nowhere else, so that row i of the result belongs to ``keys[i]``
        whatever order either side was written in.

        Args:
            keys: Keys in the wanted order, for example those of the faces to train on.

        Returns:
            Labels with ``result.keys == tuple(keys)``; classes, summary and switches as they are.

        Raises:
            UserError: A key has no label; the message counts such keys and names the first ones.
        """
        position = {key: row for row, key in enumerate(self.keys)}
        missing = [key for key in keys if key not in position]
        if missing:
            got = f"{len(missing)} of {len(keys)} keys without one, first {', '.join(map(repr, missing[:3]))}"
            fix = "The labels were made for other images; run the labelling on this data set."
            raise expected("keys", "keys that all have a pseudo-label", got, fix)
        rows = np.fromiter((position[key] for key in keys), np.int64, len(keys))
        return PseudoLabels(tuple(keys), self.columns.take(rows), self.classes, self.summary, self.config)

    def save(self, folder: Path | str) -> None:
        """Writes the table and its description; the folder is whole or as before.

        Raises:
            RetryableError: The disk is full.
            UserError: The folder cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        arrays = {"key": pa.array(self.keys, pa.string())}
        arrays |= {name: pa.array(getattr(self.columns, name)) for name in _TYPES}
        # the vocabulary travels with the integers, also for those who read the table alone
        table = pa.table(arrays).replace_schema_metadata({"classes": json.dumps(self.classes)})
        with atomic_folder(folder) as new:
            pq.write_table(table, new / TABLE_FILE)
            info = {
                "format_version": FORMAT_VERSION,
                "rows": len(self),
                "classes": self.classes,
                "config": self.config,
                "summary": self.summary,
                "table_sha256": digest_of_file(new / TABLE_FILE),
            }
            write_json(new / INFO_FILE, info)

    @classmethod
    def load(cls, folder: Path | str) -> PseudoLabels:
        """Reads and checks a folder that :meth:`save` wrote.

        Raises:
            UserError: A file is missing, damaged, of another version, or the two do not belong together.
        """
        folder = Path(folder)
        info = read_json(folder / INFO_FILE, "pseudo-labels")
        if not isinstance(info, Mapping) or info.get("format_version") != FORMAT_VERSION:
            got = info.get("format_version") if isinstance(info, Mapping) else type(info).__name__
            fix = "Make the labels again with this version of Ferry."
            raise expected(f"{folder / INFO_FILE}: format_version", f"{FORMAT_VERSION}", got, fix)
        absent = [name for name in ("classes", "summary", "config", "table_sha256") if name not in info]
        if absent:
            raise expected(str(folder / INFO_FILE), "complete", f"no {', '.join(absent)}", "Make the labels again.")
        path = folder / TABLE_FILE
        if not path.is_file():
            raise expected(str(path), "an existing file", "no such file", "Make the labels again.")
        if digest_of_file(path) != info["table_sha256"]:
            fix = "It is damaged or was exchanged; make the labels again."
            raise expected(str(path), f"the table that {INFO_FILE} describes", "another SHA-256", fix)
        keys, columns = _read_table(path)
        return cls(keys, columns, tuple(info["classes"]), dict(info["summary"]), dict(info["config"]))


def _read_table(path: Path) -> tuple[tuple[str, ...], Columns]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise expected(str(path), "a Parquet table", str(error), "It is damaged; make the labels again.") from error
    absent = [name for name in ("key", *_TYPES) if name not in table.column_names]
    holes = [name for name in table.column_names if table.column(name).null_count]
    if absent or holes:
        got = f"no column {', '.join(absent)}" if absent else f"empty cells in {', '.join(holes)}"
        raise expected(str(path), "complete", got, "Make the labels again.")
    keys = tuple(table.column("key").to_pylist())
    return keys, Columns(**{name: table.column(name).to_numpy() for name in _TYPES})


def _check_table(keys: tuple[str, ...], columns: Columns, classes: tuple[str, ...]) -> None:
    fix = "Make the labels again; do not edit the table by hand."
    for name, kind in _TYPES.items():
        values = getattr(columns, name)
        if values.shape != (len(keys),) or values.dtype != kind:
            rule = f"{np.dtype(kind).name} [{len(keys)}]"
            raise expected(f"columns.{name}", rule, f"{values.dtype.name} {list(values.shape)}", fix)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise expected(f"columns.{name}", "finite", f"{int((~np.isfinite(values)).sum())} values that are not", fix)
    for name in ("label", "teacher"):
        values = getattr(columns, name)
        if len(values) and not (values.min() >= 0 and values.max() < len(classes)):
            got = f"values from {values.min()} to {values.max()}"
            raise expected(f"columns.{name}", f"in the range 0 to {len(classes) - 1}", got, fix)
    if len(columns.cluster) and columns.cluster.min() < 0:
        raise expected("columns.cluster", "0 or more", int(columns.cluster.min()), fix)
    if len(set(keys)) != len(keys):
        raise expected("keys", "unique", f"{len(keys) - len(set(keys))} repeated ones", "Give every image its own key.")
