"""What a stage costs beside its work: from the start of its container to the start of the work, and from its end to the exit.

Run: python benchmarks/startup.py --registry ferry-test [--output benchmarks/startup.md]

The images must be there (see docs/images.md). The pipeline clup runs on a few rendered faces, every stage in a container;
the engine says when a container began and ended, the stage when its work did. The local import of `ferry` is measured too,
in new processes.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from datetime import datetime
from pathlib import Path

LINE = re.compile(r"^Container of (\S+): (\S+) to (\S+)$", re.MULTILINE)
SMALL = {"pretraining_epochs": 1, "pretraining_batch_size": 32, "pretraining_prototypes": 32, "finetuning_epochs": 1}


def seconds(stamp: str) -> float:
    """Docker writes nanoseconds."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*Z$", r"\1+00:00", stamp)).timestamp()


def run(home: Path) -> list[tuple[str, str, float, float]]:
    """Stage, kind of image, seconds before and after the work."""
    import ferry
    from ferry.pipelines.catalogue import find
    from ferry.pipelines.runner import Home, run_local

    ferry.render_faces(home / "faces", 300, "thermal", seed=2, splits={"train": 0.8, "test": 0.2})
    ferry.render_faces(home / "source", 200, "shaded", seed=1, splits={"train": 1.0})
    few = {"training_epochs": 1, "network_width": 8, "training_batch_size": 32}
    model = ferry.run("source", home=home / "home", faces=home / "source", **few).artifact("train-source", "model")
    given = {"target": str(home / "faces"), "holdout": str(home / "faces"), "source": str(model), **SMALL}
    result = run_local(find("clup"), given, Home.at(home / "home"), on="docker")
    containers = LINE.findall((result.folder / "log.txt").read_text())
    found = []
    for task in result.record.tasks:
        began = datetime.fromisoformat(task.started).timestamp()
        image, start, end = next(one for one in containers if seconds(one[1]) <= began <= seconds(one[2]))
        found.append(
            (task.name, image.rpartition("ferry-")[2], began - seconds(start), seconds(end) - began - task.seconds)
        )
    return found


def import_seconds(code: str, rounds: int = 9) -> float:
    """Median wall time of a new process that runs `code`, less that of one that runs nothing."""
    import time

    def timed(text: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", text], check=True)
        return time.perf_counter() - start

    pairs = [(timed(code), timed("pass")) for _ in range(rounds)]
    return statistics.median(one - nothing for one, nothing in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registry", required=True, help="registry and folder of the images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write the Markdown to this file")
    arguments = parser.parse_args()
    os.environ["FERRY_IMAGE_REGISTRY"] = arguments.registry
    from machine import cpu_name

    before, after = defaultdict(list), defaultdict(list)
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            for stage, image, start, end in run(Path(place)):
                before[stage, image].append(start)
                after[stage, image].append(end)
    lines = [
        "# Starting stages in containers",
        "",
        f"{cpu_name()}; {arguments.rounds} runs of clup, one container at a time, page cache warm; medians in seconds.",
        "",
        "| stage | image | container to work | end of work to exit | together |",
        "|---|---|---|---|---|",
    ]
    for stage, image in before:
        start, end = statistics.median(before[stage, image]), statistics.median(after[stage, image])
        lines.append(f"| {stage} | {image} | {start:.2f} | {end:.2f} | {start + end:.2f} |")
    lines += ["", f"`import ferry` in a new process on this machine: {import_seconds('import ferry') * 1000:.0f} ms."]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
