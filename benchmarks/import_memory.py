"""Shows that the memory of an import does not grow with the data set, beyond 34 bytes per face.

Small PNG files are made on the fly, each with its own picture, and imported through the real code: decoding, hashing,
splitting by content, Parquet. Resident memory is read from /proc/self/status (Linux).

    python benchmarks/import_memory.py --faces 200000
    python benchmarks/import_memory.py --faces 1000000 -o benchmarks/import_memory.md
"""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
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


def measure(count: int, points: int, folder: Path) -> str:
    reader = SyntheticReader(count, points)
    report = import_faces("synthetic", folder / "faces", reader, splits="hash")
    reader.note(count)
    written = sum(path.stat().st_size for path in (folder / "faces").glob("*.parquet")) / 2**20
    first, last = reader.curve[1], reader.curve[-2]  # the last reading comes after the import has ended
    slope = (last[1] - first[1]) * 2**20 / (last[0] - first[0])
    lines = [
        "# Import: memory against the number of faces",
        "",
        f"Import of {count:,} PNG files of {SIDE}x{SIDE} px, {written:,.0f} MB of Parquet, split by content; "
        f"{report.count:,} stored, {platform.machine()}, Python {platform.python_version()}.",
        "",
        "| faces read | resident memory (MB) | CPU seconds |",
        "|---:|---:|---:|",
        *[f"| {index:,} | {resident:,.0f} | {seconds:,.0f} |" for index, resident, seconds in reader.curve],
        "",
        f"Growth while reading, after the first step: {slope:,.0f} bytes per face. The last row is the finished import; "
        f"the peak, {memory('VmHWM'):,.0f} MB, is the sorting of all hashes at its end, which finds copies.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--faces", type=int, default=200_000)
    parser.add_argument("--points", type=int, default=10, help="rows of the table")
    parser.add_argument("-o", "--output", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ferry-import-"))
    try:
        text = measure(arguments.faces, arguments.points, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
