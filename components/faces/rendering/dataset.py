"""Rendered faces as a Faces folder, and how many of each expression it holds."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...common.errors import expected, unknown
from ...common.progress import Progress, progress
from ..schema import EXPRESSIONS, FaceRecord, FacesInfo
from ..writer import write_faces
from .drawing import check_picture, draw_faces
from .parameters import sample_faces
from .streams import uniforms
from .styles import Style, get_style

BALANCES: dict[str, tuple[float, ...]] = {
    "uniform": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "fer2013": (3995.0, 436.0, 4097.0, 7215.0, 4965.0, 4830.0, 3171.0),  # its 28,709 training images
    "expw": (3671.0, 3995.0, 1088.0, 30537.0, 34883.0, 10559.0, 7060.0),  # all 91,793 faces of ExpW
}
"""Named class mixes, in the order of `EXPRESSIONS`: the balanced one and two natural ones."""

_BLOCK = 1024


def sample_labels(count: int, balance: str | Mapping[str, float] | Sequence[float], seed: int) -> np.ndarray:
    """Draws labels in exact proportions and random order.

    Args:
        count: Number of labels.
        balance: A name of `BALANCES`, weights by expression (those left out get none), or seven weights in order.
        seed: Any whole number.

    Returns:
        int64 ``[count]``. Class counts are the proportions rounded by largest remainder.

    Raises:
        UserError: The mix is unknown, has a wrong name or length, or no positive weight.
    """
    if count < 0:
        raise expected("count", "not negative", count, "Pass the number of faces to make.")
    weights = _weights(balance)
    shares = weights / weights.sum() * count
    counts = np.floor(shares).astype(np.int64)
    order = np.argsort(counts - shares, kind="stable")
    counts[order[: count - int(counts.sum())]] += 1
    labels = np.repeat(np.arange(len(EXPRESSIONS), dtype=np.int64), counts)
    return labels[np.argsort(uniforms(seed, "labels", 0, count, 4)[:, 0], kind="stable")]


def render_faces(
    output: str | Path,
    count: int,
    style: str | Style,
    seed: int,
    size: int = 48,
    *,
    splits: Mapping[str, float] | None = None,
    balance: str | Mapping[str, float] | Sequence[float] = "uniform",
    labels: bool = True,
    channels: int = 1,
    images_per_identity: int = 8,
    overwrite: bool = False,
) -> FacesInfo:
    """Writes rendered faces as a Faces folder; the same arguments give the same bytes.

    No person appears in two splits.

    Args:
        output: The folder to make.
        count: Faces over all splits.
        style: Name of a style, or one of your own.
        seed: Any whole number.
        size: Side in pixels, at least 16.
        splits: Share of each split, relative to their sum; by default 0.8 train and 0.2 test.
        balance: Class mix of every split, as in :func:`sample_labels`.
        labels: Whether to write the labelled type.
        channels: 1 for grey, 3 for colour.
        images_per_identity: How many faces show the same person.
        overwrite: Replace a Faces folder that exists at `output`.

    Returns:
        What ``faces.json`` says.

    Raises:
        UserError: An argument is out of its range, or `output` exists.
        RetryableError: The disk is full.
    """
    style = get_style(style)
    check_picture(size, channels)
    counts = _split_counts(count, splits or {"train": 0.8, "test": 0.2})
    known = {
        split: sample_labels(number, balance, seed + index) for index, (split, number) in enumerate(counts.items())
    }
    drawing = _Drawing(style, seed, size, channels, images_per_identity)
    starts = drawing.starts(counts)
    with progress(f"Rendering {style.name} faces", count) as bar:
        return write_faces(
            output,
            {split: drawing.records(split, known[split], starts[split], labels, bar) for split in counts},
            classes=EXPRESSIONS if labels else None,
            provenance={"renderer": {**asdict(drawing), "balance": _plain(balance)}},
            overwrite=overwrite,
        )


@dataclass(frozen=True)
class _Drawing:
    """How the faces of a data set are drawn."""

    style: Style
    seed: int
    size: int
    channels: int
    images_per_identity: int

    def starts(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Returns the number of each split's first face, such that no person is in two splits."""
        starts, start = {}, 0
        for split, number in counts.items():
            starts[split] = start
            start += -(-number // max(self.images_per_identity, 1)) * self.images_per_identity
        return starts

    def records(self, split: str, known: np.ndarray, start: int, labelled: bool, bar: Progress) -> Iterator[FaceRecord]:
        """Draws the faces of a split, block by block."""
        name = f"{self.style.name}-{self.seed}"
        for first in range(0, len(known), _BLOCK):
            block = known[first : first + _BLOCK]
            people = sample_faces(
                block, self.style, self.seed, start=start + first, images_per_identity=self.images_per_identity
            )
            for offset, picture in enumerate(draw_faces(people, self.size, self.channels)):
                yield FaceRecord(
                    image=_png(picture),
                    key=f"{name}/{split}/{first + offset:07d}.png",
                    label=int(block[offset]) if labelled else None,
                    group=f"{name}/{people.identities[offset]:06d}",
                )
            bar.advance(len(block))


def _plain(balance: str | Mapping[str, float] | Sequence[float]) -> str | list[float]:
    return balance if isinstance(balance, str) else [float(weight) for weight in _weights(balance)]


def _split_counts(count: int, splits: Mapping[str, float]) -> dict[str, int]:
    total = float(sum(splits.values()))
    if count < 0:
        raise expected("count", "not negative", count, "Pass the number of faces to make.")
    if not total > 0.0 or any(share < 0.0 for share in splits.values()):
        raise expected("splits", "positive shares", dict(splits), 'Pass for example {"train": 0.8, "test": 0.2}.')
    bounds = np.rint(np.cumsum([0.0, *splits.values()]) / total * count).astype(np.int64)
    return {split: int(bounds[index + 1] - bounds[index]) for index, split in enumerate(splits)}


def _weights(balance: str | Mapping[str, float] | Sequence[float]) -> np.ndarray:
    if isinstance(balance, str):
        if balance not in BALANCES:
            raise unknown("balance", balance, tuple(BALANCES))
        return np.asarray(BALANCES[balance])
    if isinstance(balance, Mapping):
        for name in balance:
            if name not in EXPRESSIONS:
                raise unknown("balance", name, EXPRESSIONS)
        balance = [balance.get(name, 0.0) for name in EXPRESSIONS]
    weights = np.asarray(balance, dtype=np.float64)
    if (
        weights.shape != (len(EXPRESSIONS),)
        or not np.isfinite(weights).all()
        or weights.min() < 0
        or weights.sum() <= 0
    ):
        rule = f"{len(EXPRESSIONS)} weights, none negative and not all 0"
        raise expected("balance", rule, list(balance), f"Pass one for each of {', '.join(EXPRESSIONS)}.")
    return weights


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
