"""Records of faces as Arrow tables, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from .schema import FaceRecord


def as_table(records: Sequence[FaceRecord], schema: pa.Schema) -> pa.Table:
    """Returns records as a table; what the schema has no column for is left out.

    Args:
        records: The records.
        schema: From :func:`~ferry.faces.schema.table_schema`.
    """
    image = pa.StructArray.from_arrays(
        [
            pa.array([record.image for record in records], pa.binary()),
            pa.array([record.path or record.key for record in records], pa.string()),
        ],
        fields=list(schema.field("image").type),
    )
    columns: dict[str, list[Any]] = {
        "label": [record.label for record in records],
        "key": [record.key for record in records],
        "group": [record.group for record in records],
        "votes": [record.votes for record in records],
    }
    arrays = [image if field.name == "image" else pa.array(columns[field.name], field.type) for field in schema]
    return pa.table(arrays, schema=schema)


def records_of(table: pa.Table | pa.RecordBatch) -> Iterator[FaceRecord]:
    """Yields the rows of a table as records; a path that was empty has become the key."""
    for row in table.to_pylist():
        votes = row.get("votes")
        yield FaceRecord(
            image=row["image"]["bytes"],
            key=row["key"],
            label=row.get("label"),
            group=row.get("group"),
            path=row["image"]["path"],
            votes=None if votes is None else tuple(votes),
        )
