"""Images per second and core of the face renderer, by style and size, as Markdown.

Usage: python benchmarks/renderer.py [--images 2048] [--rounds 5]

Styles and sizes alternate within every round, so that a slow moment of the machine hits all of them. CPU time of this
process counts (one thread), once as the median and once as the best of the rounds; equality of two drawings is checked
first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict

import numpy as np
import torch
from ferry.faces.rendering import EXPRESSIONS, STYLES, render

SIZES = ((48, 1), (48, 3), (96, 1), (224, 1))


def measure(images: int, rounds: int) -> dict[tuple[str, int, int], list[float]]:
    labels = np.arange(images, dtype=np.int64) % len(EXPRESSIONS)
    rates: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for style in STYLES:
        if not np.array_equal(render(labels[:256], style, 0), render(labels[:256], style, 0)):
            raise SystemExit(f"{style}: two drawings of the same faces differ.")
    for _ in range(rounds):
        for size, channels in SIZES:
            count = max(128, images * 48 * 48 // (size * size * channels))
            for style in STYLES:
                began = time.process_time()
                render(labels[:count], style, 1, size, channels)
                rates[style, size, channels].append(min(count, images) / (time.process_time() - began))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rates = measure(arguments.images, arguments.rounds)
    print("Images/s on one core, median (best) of rounds:\n")
    heads = [f"{size} px {'grey' if channels == 1 else 'colour'}" for size, channels in SIZES]
    print("| style | " + " | ".join(heads) + " |\n|---|" + "---:|" * len(heads))
    for style in STYLES:
        cells = [rates[style, size, channels] for size, channels in SIZES]
        print(
            f"| {style} | " + " | ".join(f"{statistics.median(cell):,.0f} ({max(cell):,.0f})" for cell in cells) + " |"
        )


if __name__ == "__main__":
    main()
