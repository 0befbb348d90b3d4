"""Items: the saliency mask."""

import math
import sys

import torch

from benchmarks.control import as_torch_comes, gradients, mask_of
from benchmarks.items import Bench, item
from benchmarks.measure import Result, Spread, interleaved, timed
from benchmarks.problem import first, ground_for, settle
from benchmarks.processes import environment, said
from salun.device import forget_peak_memory, peak_memory
from salun.models.architecture import Architecture
from salun.models.build import build
from salun.unlearning.mask import saliency
from salun.unlearning.topk import select

KEEP = 0.5
MEMORY = """
import sys
from pathlib import Path
from benchmarks.control import mask_of
from benchmarks.masks import KEEP, scores_of
from salun.models.architecture import Architecture
from salun.unlearning.topk import select

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

scores = scores_of(Architecture("resnet18", 10))
total = sum(value.numel() for value in scores.values())
Path("/proc/self/clear_refs").write_text("5")
before = peak()
if sys.argv[1] == "ours":
    select(list(scores.values()), int(KEEP * total))
else:
    mask_of(scores, KEEP)
print((peak() - before) / (4 * total))
"""


def scores_of(architecture: Architecture, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Draw a score for each weight of a model.

    Args:
        architecture: of the model.
        device: where the scores are drawn.

    Returns:
        Scores by weight, none negative.
    """
    weights = build(architecture).named_parameters()
    generator = torch.Generator(device).manual_seed(0)
    return {name: torch.randn(weight.shape, generator=generator, device=device).abs_() for name, weight in weights}


@item("the saliency mask: selection among the gradients, the whole, and its memory")
def mask(bench: Bench) -> list[Result]:
    """Measure the mask.

    Args:
        bench: where, and how much.

    Returns:
        A line for the selection, one for the whole, and where that can be told one for memory.
    """
    lines = [selection(bench), whole(bench)]
    return [*lines, memory(bench)] if bench.device.type == "cuda" or sys.platform == "linux" else lines


def selection(bench: Bench) -> Result:
    """Measure what follows the gradients.

    Args:
        bench: where, and how much.

    Returns:
        The line.
    """
    scores, size = scores_of(bench.architecture, str(bench.device)), bench.scale.size
    total = sum(values.numel() for values in scores.values())

    def ours() -> None:
        settle(bench, size)
        select(list(scores.values()), int(KEEP * total))

    def theirs() -> None:
        with as_torch_comes(bench.device):
            mask_of(scores, KEEP)

    sides = {"ours": timed(ours, bench.device), "control": timed(theirs, bench.device)}
    interleaved(sides, 1)
    found = interleaved(sides, bench.scale.repeats)
    what = f"mask, selection among {total / 1e6:.1f} M scores"
    return Result(what, "s", found["ours"], found["control"], bench.goal(least=4, of_ratio=True))


def whole(bench: Bench) -> Result:
    """Measure gradients and selection.

    Args:
        bench: where, and how much.

    Returns:
        The line.
    """
    scale = bench.scale
    ground = ground_for(bench, scale.forget, share=0.5)
    images, model, plain = first(ground.sets.train, scale.forget), ground.ours(), ground.theirs()
    loader = ground.loaders(scale.batch).over(ground.pictures(images))

    def ours() -> None:
        saliency(model, images, KEEP, batch_size=scale.batch, precision=ground.precision())

    def theirs() -> None:
        with as_torch_comes(bench.device):
            mask_of(gradients(plain, loader, bench.device), KEEP)

    sides = {"ours": timed(ours, bench.device), "control": timed(theirs, bench.device)}
    ours()
    found = interleaved(sides, scale.repeats)
    what = f"mask, whole, of {len(images):,} images"
    return Result(what, "s", found["ours"], found["control"], bench.goal(least=4, of_ratio=True))


def memory(bench: Bench) -> Result:
    """Measure memory of the selection beyond weights and gradients.

    Args:
        bench: where.

    Returns:
        The line.
    """
    sides = ("ours", "control")
    if bench.device.type == "cuda":
        found = {side: on_cuda(bench, side) for side in sides}
    else:
        found = {side: in_own_process(side) for side in sides}
    ours, theirs = (Spread((found[side],)) for side in sides)
    return Result("mask, memory beyond model and gradients", "x the weights", ours, theirs, bench.goal(most=3))


def in_own_process(side: str) -> float:
    """Measure how far a process's memory rises, for a ResNet-18.

    Args:
        side: "ours" or "control".

    Returns:
        Times the weights.
    """
    return float(said([sys.executable, "-c", MEMORY, side], environment()))


def on_cuda(bench: Bench, side: str) -> float:
    """Measure the device's memory at its peak.

    Args:
        bench: where.
        side: "ours" or "control".

    Returns:
        Times the weights.
    """
    scores = scores_of(bench.architecture, str(bench.device))
    total = math.fsum(values.numel() for values in scores.values())
    forget_peak_memory(bench.device)
    before = torch.cuda.memory_allocated(bench.device)
    if side == "ours":
        select(list(scores.values()), int(KEEP * total))
    else:
        mask_of(scores, KEEP)
    return (peak_memory(bench.device) - before) / (4 * total)
