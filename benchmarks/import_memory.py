"""Shows that the memory of an import does not grow with the data set, beyond 34 bytes per face and their sorting.

Small PNG files are made on the fly, each with its own picture, and imported through the real code: decoding, hashing,
splitting by content, Parquet; once with labels, once without, which stores the faces in another order. Each import has
a process of its own, whose memory is read from /proc/self/status (Linux).

    python benchmarks/import_memory.py --faces 200000
    python benchmarks/import_memory.py --faces 1000000 -o benchmarks/import_memory.md
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from ferry.faces import EXPRESSIONS, RawFace, import_faces
from ferry.faces.decode import encode_png

SIDE = 24


class SyntheticReader:
    """Yields faces that are made when they are loaded, and notes the memory in passing."""

    name = "synthetic"
    labelled = True

    def __init__(self, count: int, points: int) -> None:
        self.count, self.every = count, max(1, count // points)
        self.curve: list[tuple[int, float, float]] = []

    def detect(self, source: Path) -> bool:
        return False

    def read(self, source: Path, options: Mapping[str, Any]) -> Iterator[RawFace]:
        for index in range(self.count):
            if index % self.every == 0:
                self.note(index)
            load = partial(_picture, index)
            yield RawFace(f"folder {index // 1000:05d}/face {index:08d}.png", load, EXPRESSIONS[index % 7])

    def note(self, index: int) -> None:
        self.curve.append((index, memory("VmRSS"), time.process_time()))


def _picture(index: int) -> bytes:
    return encode_png(np.random.default_rng(index).integers(0, 256, (SIDE, SIDE), dtype=np.uint8))


def memory(field: str) -> float:
    """Returns a field of /proc/self/status in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


@dataclass(frozen=True)
class Measured:
    """What one import took: readings of (faces, resident MB, CPU seconds), the peak in MB, MB of Parquet, faces."""

    curve: list[tuple[int, float, float]]
    peak: float
    written: float
    stored: int

    @property
    def growth(self) -> float:
        """Bytes per face while reading, after the first step."""
        first, last = self.curve[1], self.curve[-2]  # the last reading comes after the import has ended
        return (last[1] - first[1]) * 2**20 / (last[0] - first[0])


def measure(labels: str, count: int, points: int) -> Measured:
    """Imports `count` faces; in a process of its own, whose peak is that of the import."""
    reader = SyntheticReader(count, points)
    with tempfile.TemporaryDirectory(prefix="ferry-import-") as folder:
        report = import_faces("synthetic", Path(folder) / "faces", reader, splits="hash", labels=labels)
        reader.note(count)
        written = sum(path.stat().st_size for path in Path(folder, "faces").glob("*.parquet")) / 2**20
    return Measured(reader.curve, memory("VmHWM"), written, report.count)


def table(count: int, kept: Measured, dropped: Measured) -> str:
    """Returns the Markdown of both imports."""
    rows = zip(kept.curve, dropped.curve, strict=True)
    lines = [
        "# Import: memory against the number of faces",
        "",
        f"Import of {count:,} PNG files of {SIDE}x{SIDE} px, {kept.written:,.0f} MB of Parquet, split by content; "
        f"{kept.stored:,} stored, {platform.machine()}, Python {platform.python_version()}. Where labels are dropped, the "
        "faces of a labelled layout are put into another order at the end, through files on the disk.",
        "",
        "| faces read | resident (MB), labels kept | CPU seconds | resident (MB), labels dropped | CPU seconds |",
        "|---:|---:|---:|---:|---:|",
        *[f"| {a[0]:,} | {a[1]:,.0f} | {a[2]:,.0f} | {b[1]:,.0f} | {b[2]:,.0f} |" for a, b in rows],
        f"| peak | {kept.peak:,.0f} | | {dropped.peak:,.0f} | |",
        "",
        f"Growth while reading, after the first step: {kept.growth:,.0f} and {dropped.growth:,.0f} bytes per face. The last "
        "reading is the finished import. The peak comes at the end: the sorting of all hashes, which finds copies, and "
        "the new order.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--faces", type=int, default=200_000)
    parser.add_argument("--points", type=int, default=10, help="rows of the table")
    parser.add_argument("-o", "--output", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as alone:
        runs = [alone.submit(measure, labels, arguments.faces, arguments.points) for labels in ("keep", "drop")]
        text = table(arguments.faces, *[run.result() for run in runs])
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
