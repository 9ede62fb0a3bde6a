"""Batched views against lightly's SwaVTransform: equal distributions first, then images per second.

Run: OMP_NUM_THREADS=1 python benchmarks/views.py [--rounds 15] [--output benchmarks/views.md]

Both sides make 2 large and 6 small crops with flip, jitter (hue included), grayscale and blur from decoded RGB images
and end with one float tensor per crop. The two alternate in one process on the same images; the ratio of each pair is
taken from the process's CPU time, which other programs on the machine disturb least.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from ferry.training.views import MultiCrop, ViewSpec, views
from lightly.transforms import SwaVTransform
from machine import cpu_name
from PIL import Image
from scipy.stats import ks_2samp

COLOUR = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "grayscale": 0.2}


def smooth_images(n: int, size: int, seed: int) -> torch.Tensor:
    """Coloured blobs with some texture: the statistics of a photograph matter more than its content here."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((n, 3, 6, 6), generator=generator)
    image = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    image = image + 0.08 * torch.randn(image.shape, generator=generator)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def both_sides(size: int) -> tuple[MultiCrop, SwaVTransform]:
    small = size // 2
    # blur_reference = size: the deviation is 0.1 to 2 pixels in both crops, as lightly has it.
    common = {"flip": 0.5, "jitter": 0.8, "blur": 0.5, "blur_floor": 0.0, **COLOUR}
    large_spec = ViewSpec(size, scale=(0.14, 1.0), blur_reference=size, **common)
    small_spec = ViewSpec(small, scale=(0.05, 0.14), blur_reference=small, **common)
    theirs = SwaVTransform(crop_sizes=(size, small), crop_counts=(2, 6), normalize=None)
    return MultiCrop(((large_spec, 2), (small_spec, 6))), theirs


def statistics_of(batches: list[torch.Tensor]) -> dict[str, np.ndarray]:
    """Per view: the mean and spread of every channel, the spread between channels, and the sharpness."""
    columns: dict[str, list[torch.Tensor]] = {}
    for batch in batches:
        for channel, name in enumerate(("red", "green", "blue")):
            columns.setdefault(f"{name} mean", []).append(batch[:, channel].mean(dim=(1, 2)))
            columns.setdefault(f"{name} deviation", []).append(batch[:, channel].std(dim=(1, 2)))
        columns.setdefault("colourfulness", []).append(batch.std(dim=1).mean(dim=(1, 2)))
        columns.setdefault("sharpness", []).append(batch.diff(dim=-1).abs().mean(dim=(1, 2, 3)))
    return {name: torch.cat(parts).numpy() for name, parts in columns.items()}


def run_theirs(transform: SwaVTransform, images: list[Image.Image]) -> list[torch.Tensor]:
    samples = [transform(image) for image in images]
    return [torch.stack([sample[view] for sample in samples]) for view in range(len(samples[0]))]


def equality(size: int, repeats: int) -> list[tuple[str, str, float, float]]:
    """Two-sample Kolmogorov-Smirnov tests per statistic over `repeats` passes on the same images."""
    pixels = smooth_images(64, size, seed=1)
    images = [Image.fromarray(pixel.permute(1, 2, 0).numpy()) for pixel in pixels]
    multicrop, transform = both_sides(size)
    generator = torch.Generator().manual_seed(2)
    torch.manual_seed(3)
    np.random.seed(3)
    ours: list[list[torch.Tensor]] = [[], []]
    theirs: list[list[torch.Tensor]] = [[], []]
    for _ in range(repeats):
        for view, (a, b) in enumerate(
            zip(views(pixels, multicrop, generator), run_theirs(transform, images), strict=True)
        ):
            ours[view >= 2].append(a)
            theirs[view >= 2].append(b)
    rows = []
    for kind, a, b in zip(("large", "small"), ours, theirs, strict=True):
        left, right = statistics_of(a), statistics_of(b)
        for name in left:
            test = ks_2samp(left[name], right[name])
            rows.append((kind, name, float(test.statistic), float(test.pvalue)))
    return rows


def speed(size: int, rounds: int, batch: int, peer_batch: int) -> tuple[list[float], list[float]]:
    """CPU seconds per image of each side, alternating."""
    pixels = smooth_images(batch, size, seed=4)
    images = [Image.fromarray(pixel.permute(1, 2, 0).numpy()) for pixel in pixels[:peer_batch]]
    multicrop, transform = both_sides(size)
    generator = torch.Generator().manual_seed(5)
    ours, theirs = [], []
    for round_ in range(rounds + 1):
        start = time.process_time()
        views(pixels, multicrop, generator)
        middle = time.process_time()
        run_theirs(transform, images)
        end = time.process_time()
        if round_:  # the first round warms up
            ours.append((middle - start) / batch)
            theirs.append((end - middle) / peer_batch)
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=16, help="passes over 64 images for the equality tests")
    parser.add_argument("--output", type=Path, help="also write the Markdown to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines = [
        "# Views: batched tensors against lightly's SwaVTransform",
        "",
        f"{cpu_name()}, {arguments.threads} thread, torch {torch.__version__}, Python {platform.python_version()}.",
        f"2 large and 6 small RGB crops per image, batch {arguments.batch}, medians of {arguments.rounds} alternating "
        "pairs of CPU time.",
        "",
        "| image | crops | Ferry, images/s | lightly, images/s | median ratio | smallest ratio |",
        "|---|---|---|---|---|---|",
    ]
    checks = []
    for size in (48, 96):
        checks += [(size, *row) for row in equality(size, arguments.repeats)]
        ours, theirs = speed(size, arguments.rounds, arguments.batch, peer_batch=32)
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        lines.append(
            f"| {size} | 2 x {size} + 6 x {size // 2} | {1 / statistics.median(ours):,.0f} | "
            f"{1 / statistics.median(theirs):,.0f} | {statistics.median(ratios):.1f} | {min(ratios):.1f} |"
        )
    worst = sorted(checks, key=lambda row: row[4])
    lines += [
        "",
        f"Equality: {len(checks)} Kolmogorov-Smirnov tests of per-view statistics (channel means and deviations, "
        f"colourfulness, sharpness); the smallest p-value is {worst[0][4]:.3g}, so with Bonferroni's correction "
        f"{min(1.0, worst[0][4] * len(checks)):.2g}. The five most different:",
        "",
        "| image | crop | statistic | distance | p |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {size} | {kind} | {name} | {d:.4f} | {p:.3g} |" for size, kind, name, d, p in worst[:5]]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text)
    if worst[0][4] * len(checks) < 0.001:
        raise SystemExit("The distributions differ: the speeds above do not compare equal work.")


if __name__ == "__main__":
    main()
