"""Items: how cost grows with images, classes, weights and runs, and that memory of a large folder does not."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.items import Bench, item
from benchmarks.masks import KEEP
from benchmarks.measure import Goal, Result, Side, Spread, exponent, interleaved, slope, timed
from benchmarks.problem import first, ground_for, our_epoch, settle
from benchmarks.processes import environment, said
from benchmarks.runs import DIGITS, salun_on
from salun.data.decode import MEMORY_LIMIT
from salun.experiments.run import run_once
from salun.models.architecture import TINY, Architecture
from salun.unlearning.topk import select

TIMES = (1, 4, 16)
LINEAR = 1.05
FEW_EPOCHS = 3
WEIGHTS = 700_000
FOLDER_IMAGES, FOLDER_SIDE, FOLDER_LIMIT = 8000, 64, 2**20
FOLDER_KINDS = {"": "beyond the limit", ":size=64:stream": "that is streamed"}
RETURNED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "1048576"}  # else what glibc holds of freed memory is measured
FOLDER = """
import resource, sys
from pathlib import Path
from salun.data.memmap import PixelFile
from salun.data.sets import make_sets, prepare, to_device
from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.device import pick_device, seeded

device, root = pick_device(sys.argv[2]), Path(sys.argv[1])
dataset = to_device(load(f"folder:{root}{sys.argv[3]}", root.parent), device)
assert isinstance(dataset.train.pixels, PixelFile)
parts = make_split(dataset, ForgetRequest())
images = make_sets(dataset, parts, prepare(dataset, parts), device).train
for size, generator in ((256, seeded(0, device)), (1024, None)):
    for batch in images.batches(size, generator):
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def line_of(what: str, sizes: Sequence[int], found: dict[str, Spread], goal: Goal | None) -> Result:
    """Fit how costs grow.

    Args:
        what: grows.
        sizes: in their order.
        found: seconds of each size.
        goal: for the exponent.

    Returns:
        The line: the exponents of the repetitions; in the note the medians.
    """
    seconds = [spread.median for spread in found.values()]
    each = zip(*(spread.values for spread in found.values()), strict=True)
    exponents = Spread(tuple(exponent(sizes, costs) for costs in each))
    rise, fixed = slope(sizes, seconds)
    shown = ", ".join(f"{size:,}: {value:.3g} s" for size, value in zip(sizes, seconds, strict=True))
    note = f"{shown}; fixed {max(fixed, 0):.2g} s, then {rise:.2g} s each"
    return Result(what, "exponent", exponents, goal=goal, note=note)


@item("cost growth: images, classes, weights, runs")
def growth(bench: Bench) -> list[Result]:
    """Measure how seconds grow.

    Args:
        bench: where, and how much.

    Returns:
        Exponents.
    """
    return [samples(bench), classes(bench), weights(bench), runs(bench)]


def samples(bench: Bench) -> Result:
    """Measure epochs of more and more images.

    Args:
        bench: where, and how much.

    Returns:
        The line.
    """
    sizes = [times * bench.scale.growth for times in TIMES]
    small = Architecture(TINY, 10, 3, 8) if bench.device.type != "cuda" else bench.architecture
    ground = ground_for(bench, sizes[-1], small)
    sides = {str(size): our_epoch(ground, first(ground.sets.train, size), bench.scale.batch) for size in sizes}
    interleaved(sides, 1)
    goal = bench.goal(most=LINEAR)
    return line_of("growth of an epoch with images", sizes, interleaved(sides, bench.scale.repeats), goal)


def classes(bench: Bench) -> Result:
    """Measure epochs of as many images, of more and more classes.

    Args:
        bench: where, and how much.

    Returns:
        The line.
    """
    counts, images = (2, 10, 100), max(bench.scale.growth, 2 * 100 * 10)
    sides = {}
    for count in counts:
        ground = ground_for(bench, images, Architecture(TINY, count, 3, 8))
        sides[str(count)] = our_epoch(ground, first(ground.sets.train, images), bench.scale.batch)
    interleaved(sides, 1)
    found = interleaved(sides, bench.scale.repeats)
    return line_of("growth of an epoch with classes", counts, found, bench.goal(most=LINEAR))


def weights(bench: Bench) -> Result:
    """Measure selections among more and more scores.

    Args:
        bench: where, and how much.

    Returns:
        The line.
    """
    sizes = [times * (WEIGHTS if not bench.quick else 1000) for times in TIMES]

    def side(count: int) -> Side:
        scores = [torch.rand(count // 10, device=bench.device) for _ in range(10)]

        def call() -> None:
            settle(bench, bench.scale.size)
            select(scores, int(KEEP * count))

        return timed(call, bench.device)

    sides = {str(size): side(size) for size in sizes}
    interleaved(sides, 1)
    found = interleaved(sides, bench.scale.repeats)
    return line_of("growth of a mask with weights", sizes, found, bench.goal(most=LINEAR))


def runs(bench: Bench) -> Result:
    """Measure more and more runs in turn, in one process.

    Args:
        bench: where, and how much.

    Returns:
        The line.
    """
    recipe = {"epochs": 1, "batch_size": 64, "schedule": "cosine"}
    entry = {**DIGITS, "epochs": 1 if bench.quick else FEW_EPOCHS, "recipe": recipe}
    cache, experiment, problem = salun_on(bench, entry)
    seeds = iter(range(10**6))

    def side(count: int) -> Side:
        return timed(lambda: [run_once(experiment, problem, next(seeds), cache) for _ in range(count)], bench.device)

    counts = TIMES if not bench.quick else TIMES[:2]
    repeats = 1 if bench.device.type == "cuda" else bench.scale.repeats
    sides = {str(count): side(count) for count in counts}
    sides[str(counts[0])]()
    return line_of("growth with SalUn runs", counts, interleaved(sides, repeats), bench.goal(most=LINEAR))


@item("memory of a folder of images larger than the limit", devices=("cpu",))
def folder_memory(bench: Bench) -> list[Result]:
    """Measure a process's memory as it goes through images that stay on disk, and through four times as many.

    They stay in a file of pixels, or in their own files, decoded by other processes. Images are read, counted for their
    channels' statistics, and go by in shuffled and in ordered batches.

    Args:
        bench: where, and how much.

    Returns:
        A line for either way.
    """
    count = FOLDER_IMAGES // (100 if bench.quick else 1)
    side = FOLDER_SIDE // (2 if bench.quick else 1)
    roots = {times: bench.folder / f"folder{times}" for times in (1, 4)}
    for times, root in roots.items():
        write_images(root, times * count, side)
    lines = []
    for options, kind in FOLDER_KINDS.items():
        peaks: dict[int, list[float]] = {times: [] for times in roots}
        for _ in range(bench.scale.repeats):
            for times, root in roots.items():
                peaks[times].append(peak_of_folder(bench, root, options))
        few, many = (Spread(tuple(peaks[times])) for times in roots)
        found = f"{count:,} images: {few.median:.0f} MiB, {4 * count:,}: {many.median:.0f} MiB"
        note = f"{found}; these hold {4 * count * 3 * side**2 / 2**20:.0f} MiB"
        growth = Spread((many.median / few.median,))
        what = f"memory of folder: {kind}, 4 x the images"
        lines.append(Result(what, "x", growth, goal=bench.goal(most=1.05), note=note))
    return lines


def write_images(root: Path, count: int, side: int) -> None:
    """Write a folder of noise.

    Args:
        root: is made.
        count: images in all, of two classes.
        side: in pixels.
    """
    generator = np.random.default_rng(0)
    for label in ("one", "other"):
        (root / label).mkdir(parents=True)
        for number in range(count // 2):
            pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number:06}.bmp")


def peak_of_folder(bench: Bench, root: Path, options: str) -> float:
    """Go through a folder in a process of its own.

    Args:
        bench: where.
        root: of the images.
        options: of the data set's name.

    Returns:
        MiB that the process held at most.
    """
    limits = {MEMORY_LIMIT: str(FOLDER_LIMIT // (100 if bench.quick else 1)), **RETURNED_AT_ONCE}
    process = [sys.executable, "-c", FOLDER, str(root.resolve()), str(bench.device), options]
    return float(said(process, {**environment(), **limits}, bench.folder).splitlines()[-1])
