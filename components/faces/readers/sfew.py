"""SFEW 2.0: single frames of films."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..labels import canonical, labels_of, parse_label_map
from ..schema import RawFace
from .base import LayoutReader, file_loader
from .tree import subfolders, walk_images

_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_TOP = re.compile(r"(train|val|test)(?![a-z]).*", re.IGNORECASE)
_FRAME = re.compile(r"(.+?)_\d+_\d+$")


@dataclass(frozen=True)
class SfewOptions:
    """Options of the layout ``sfew``.

    Attributes:
        images: ``aligned`` (folders ``*_Aligned_Faces*``), ``frames`` (whole pictures), or ``auto``: aligned where a
            split has them.
        label_map: Own names for folders: pairs or a JSON file.
    """

    images: Literal["auto", "aligned", "frames"] = "auto"
    label_map: Any = ""


class SfewReader(LayoutReader[SfewOptions]):
    """SFEW 2.0 as unpacked: one folder per split and expression; faces of one film share a group.

    Expected tree::

        SRC/{Train,Val}/<expression>/Airheads_000519240_00000005.png
        or
        SRC/{Train,Val}_Aligned_Faces*/<expression>/*.png
        or
        SRC/{Train,Val}/{Train,Val}_Aligned_Faces*/<expression>/*.png

    ``<expression>`` is Angry, Disgust, Fear, Happy, Neutral, Sad or Surprise. The film is the file name without its
    last two numbers. The labels of Test are not public: it is read only where it has folders of expressions. Source:
    SFEW 2.0 of the EmotiW challenge (Dhall, Goecke, Lucey and Gedeon, ICCVW 2011; Dhall et al., ICMI 2015).
    """

    name = "sfew"
    summary = "Train and Val with folders of frames named Film_000519240_00000005.png"
    options_type = SfewOptions

    def detect(self, source: Path) -> bool:
        """Tells whether the first image of a class folder is named like a frame of a film."""
        if not source.is_dir():
            return False
        for tops in _tops(source).values():
            for top in tops:
                name = next((name for name in subfolders(top) if canonical(name)), None)
                first = next(walk_images(top / name), "") if name else ""
                if _FRAME.match(Path(first).stem):
                    return True
        return False

    def faces(self, source: Path, options: SfewOptions) -> Iterator[RawFace]:
        """Yields train, validation and (where it is labelled) test."""
        tops = _tops(source) if source.is_dir() else {}
        chosen = {split: _choose(folders, options.images) for split, folders in tops.items()}
        roots = {split: folder for split, folder in chosen.items() if folder is not None}
        if not roots:
            kind = "" if options.images == "auto" else f" ({options.images})"
            self.refuse(source, f"a folder that holds Train and Val with folders of expressions{kind}")
        names = [name for root in roots.values() for name in subfolders(root)]
        labels = labels_of(names, f"class folders of {source}", parse_label_map(options.label_map))
        return (
            _face(source, root / name, path, labels[name], split)
            for split, root in roots.items()
            for name in subfolders(root)
            for path in walk_images(root / name)
        )


def _face(source: Path, folder: Path, path: str, label: str, split: str) -> RawFace:
    film = _FRAME.match(Path(path).stem)
    key = f"{folder.relative_to(source).as_posix()}/{path}"
    return RawFace(key, file_loader(folder / path), label, split, group=film[1] if film else None)


def _tops(source: Path) -> dict[str, list[Path]]:
    """Returns the folders that hold class folders, by split, at most three levels below `source`."""
    found: dict[str, list[Path]] = {split: [] for split in _SPLITS.values()}
    for name in subfolders(source):
        match = _TOP.fullmatch(name)
        if match:
            found[_SPLITS[match[1].lower()]].extend(_holders(source / name, match[1].lower()))
    return {split: folders for split, folders in found.items() if folders}


def _holders(folder: Path, split: str, depth: int = 2) -> list[Path]:
    names = subfolders(folder)
    nested = [name for name in names if name.lower().startswith(split)]
    below = [top for name in nested for top in _holders(folder / name, split, depth - 1)] if depth else []
    return below or ([folder] if any(name not in nested for name in names) else [])


def _choose(folders: list[Path], images: str) -> Path | None:
    aligned = [folder for folder in folders if "aligned" in folder.name.lower()]
    frames = [folder for folder in folders if folder not in aligned]
    order = {"auto": aligned + frames, "aligned": aligned, "frames": frames}[images]
    return order[0] if order else None
