"""Copies a labelled Faces folder without its labels."""

from __future__ import annotations

from pathlib import Path

from ..common.progress import progress
from .schema import FaceRecord, FacesInfo, anonymous_key
from .store import UnlabelledFaces, read_info
from .writer import FacesWriter, read_back


def drop_labels(source_root: Path | str, output: Path | str, *, overwrite: bool = False) -> FacesInfo:
    """Writes an unlabelled copy of a Faces folder: all splits, groups and images, no labels and no votes.

    Where the source has labels, keys become anonymous (see :func:`~ferry.faces.schema.anonymous_key`), and the order
    another one, because the source's may tell the classes.

    Args:
        source_root: A Faces folder, usually a labelled one.
        output: The folder to make.
        overwrite: Replace a Faces folder that exists at `output`.

    Returns:
        What the copy's ``faces.json`` says.

    Raises:
        UserError: `source_root` is no Faces folder or is damaged, or `output` exists.
    """
    info = read_info(source_root)
    provenance, shuffle = {**info.provenance, "labels": "dropped"}, info.classes is not None
    with (
        FacesWriter(output, classes=None, provenance=provenance, overwrite=overwrite, shuffle=shuffle) as writer,
        progress("copying faces without labels", info.count) as bar,
    ):
        for split in info.splits:
            writer.begin(split)
            faces = UnlabelledFaces(info, split)
            for index, image in enumerate(faces.iter_images()):
                group = faces.groups[index] if faces.groups else None
                key = faces.keys[index] if info.classes is None else anonymous_key(faces.keys[index])
                writer.add(split, FaceRecord(image, key, group=group or None))
                bar.advance()
    return read_back(writer)
