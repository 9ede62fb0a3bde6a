"""Sinkhorn against lightly's: equal codes first, then time per call.

Run: OMP_NUM_THREADS=1 python benchmarks/sinkhorn.py [--rounds 15] [--output benchmarks/sinkhorn.md]

The two alternate in one process on the same scores (cosines of random unit vectors); the ratio of each pair is taken
from the process's CPU time, which other programs on the machine disturb least.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path

import torch
from ferry.pretraining.sinkhorn import sinkhorn
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
from machine import cpu_name

SHAPES = ((4096, 3000), (1024, 3000), (256, 1000))


def cosines(samples: int, prototypes: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(samples + prototypes)
    left = torch.nn.functional.normalize(torch.randn((samples, 128), generator=generator))
    right = torch.nn.functional.normalize(torch.randn((prototypes, 128), generator=generator))
    return left @ right.T


def measure(scores: torch.Tensor, rounds: int, calls: int) -> tuple[list[float], list[float]]:
    """CPU seconds per call of each side, alternating."""
    ours, theirs = [], []
    for round_ in range(rounds + 1):
        start = time.process_time()
        for _ in range(calls):
            sinkhorn(scores, 0.05, 3)
        middle = time.process_time()
        for _ in range(calls):
            lightly_sinkhorn(scores, 3, 0.05)
        end = time.process_time()
        if round_:  # the first round warms up
            ours.append((middle - start) / calls)
            theirs.append((end - middle) / calls)
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the Markdown to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines = [
        "# Sinkhorn: scaling vectors against lightly's scaling of the matrix",
        "",
        f"{cpu_name()}, {arguments.threads} thread, torch {torch.__version__}, Python {platform.python_version()}.",
        f"3 iterations, epsilon 0.05, float32, medians of {arguments.rounds} alternating pairs of CPU time.",
        "",
        "| samples x prototypes | Ferry, ms | lightly, ms | median ratio | smallest ratio | largest difference |",
        "|---|---|---|---|---|---|",
    ]
    for samples, prototypes in SHAPES:
        scores = cosines(samples, prototypes)
        difference = float((sinkhorn(scores, 0.05, 3) - lightly_sinkhorn(scores, 3, 0.05)).abs().max())
        if difference > 1e-6:
            raise SystemExit(f"The codes differ by {difference}: speeds would not compare equal work.")
        ours, theirs = measure(scores, arguments.rounds, calls=max(1, 4096 * 3000 // (samples * prototypes * 4)))
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        lines.append(
            f"| {samples} x {prototypes} | {1e3 * statistics.median(ours):.2f} | "
            f"{1e3 * statistics.median(theirs):.2f} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | "
            f"{difference:.1e} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
