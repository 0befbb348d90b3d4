"""Items: steps, epochs, evaluation, what the mask's hold costs, and how much of the machine is used."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.control import as_torch_comes, evaluate, sgd, train_epoch
from benchmarks.items import Bench, item
from benchmarks.measure import Result, Side, Spread, interleaved, rates, timed
from benchmarks.problem import FREE, Ground, first, ground_for, our_epoch, our_epochs, settle, their_epoch
from salun.data.images import Batch
from salun.device import clock, seed_globally
from salun.models.architecture import TINY, Architecture
from salun.models.build import build
from salun.training.evaluate import predict
from salun.training.runtime import WeightHold
from salun.unlearning.mask import masked_updates

EVALUATED_AT_ONCE = 256
PRODUCTS = 7
SMALL_BATCH, SMALL_TIMES = 64, 20


def drawn_batch(ground: Ground, size: int) -> Batch:
    """Draw a batch as a model sees it.

    Args:
        ground: of the model.
        size: images.

    Returns:
        The batch, on the device.
    """
    device, of = ground.bench.device, ground.architecture
    seed_globally(0)
    images = torch.randn(size, of.channels, of.size, of.size).to(device)
    return Batch(images, torch.arange(size, device=device) % of.classes, torch.arange(size, device=device))


def as_ours_come(batch: Batch) -> Batch:
    """Lay a batch out as the package's own batches are.

    Args:
        batch: any.

    Returns:
        The same, with the channels last in memory.
    """
    return batch._replace(x=batch.x.contiguous(memory_format=torch.channels_last))


def our_steps(ground: Ground, batch: Batch, steps: int) -> Side:
    """Make a side that takes steps with one and the same batch.

    Args:
        ground: of the model.
        batch: on the device.
        steps: how many.

    Returns:
        The side.
    """
    model, batches = ground.ours(), [as_ours_come(batch)] * steps
    return timed(lambda: our_epochs(ground, model, lambda: batches), ground.bench.device)


def their_steps(ground: Ground, batch: Batch, steps: int) -> Side:
    """Make a side that takes the control's steps.

    Args:
        ground: of the model.
        batch: on the device.
        steps: how many.

    Returns:
        The side.
    """
    model, device = ground.theirs(), ground.bench.device
    optimizer, pairs = sgd(model), [(batch.x, batch.y)] * steps

    def run() -> None:
        with as_torch_comes(device):
            train_epoch(model, pairs, optimizer, device)

    return timed(run, device)


@item("a training step: model and optimiser alone, with one and the same batch")
def step(bench: Bench) -> list[Result]:
    """Measure images a second without any data.

    Args:
        bench: where, and how much.

    Returns:
        A line for the bench's model, and one for digits' small model.
    """
    results = []
    for ground, size, times in cases(bench):
        ours, theirs = paces(ground, size, times)
        what = f"step of {ground.architecture.model}, {ground.architecture.size} px, batch {size}"
        results.append(Result(what, "images/s", ours, theirs, note=f"ours in {ground.precision()}"))
    return results


def cases(bench: Bench) -> list[tuple[Ground, int, int]]:
    """List the models whose steps are measured.

    Args:
        bench: where, and how much.

    Returns:
        Models, images a step, and how many times as many steps are taken as of the bench's own: that, and on the
        CPU the small model of digits.
    """
    both = both_cases(bench)
    return both if bench.device.type == "cpu" and not bench.quick else both[:1]


def both_cases(bench: Bench) -> list[tuple[Ground, int, int]]:
    """List both models, on every device.

    Args:
        bench: where, and how much.

    Returns:
        As `cases` gives them.
    """
    own = (Ground(bench, "", bench.architecture), bench.scale.batch, 1)
    return [own, (Ground(bench, "", Architecture(TINY, 10, 1, 8)), SMALL_BATCH, 1 if bench.quick else SMALL_TIMES)]


def paces(ground: Ground, size: int, times: int = 1) -> tuple[Spread, Spread]:
    """Measure steps of both sides.

    Args:
        ground: of the model.
        size: images a step.
        times: how many times as many steps are taken as the scale says.

    Returns:
        Images a second of ours and of the control.
    """
    scale, batch = ground.bench.scale, drawn_batch(ground, size)
    steps, fewer = times * scale.steps, times * scale.control_steps
    sides = {"ours": our_steps(ground, batch, steps), "control": their_steps(ground, batch, fewer)}
    interleaved(sides, 1)
    found = interleaved(sides, scale.repeats)
    return rates(found["ours"], steps * size), rates(found["control"], fewer * size)


@item("a training epoch with data, crop and flip")
def epoch(bench: Bench) -> list[Result]:
    """Measure images a second of an epoch.

    Args:
        bench: where, and how much.

    Returns:
        A line.
    """
    scale, cuda = bench.scale, bench.device.type == "cuda"
    ground = ground_for(bench, scale.train)
    images, fewer = first(ground.sets.train, scale.train), first(ground.sets.train, scale.control)
    sides = {
        "ours": our_epoch(ground, images, scale.batch, scale.epochs),
        "control": their_epoch(ground, fewer, scale.batch),
    }
    our_epoch(ground, images if cuda else first(images, scale.batch), scale.batch)()
    found = interleaved(sides, scale.repeats)
    ours, theirs = rates(found["ours"], scale.epochs * len(images)), rates(found["control"], len(fewer))
    what = f"epoch of {scale.model}, {scale.size} px, batch {scale.batch}, crop + flip"
    note = f"{len(images):,} images, {scale.epochs} x, in {ground.precision()}; the control's {len(fewer):,}, float32"
    return [Result(what, "images/s", ours, theirs, bench.goal(least=10 if cuda else 2, of_ratio=True), note)]


@item("an evaluation of test, forget and retain set")
def evaluation(bench: Bench) -> list[Result]:
    """Measure images a second of an evaluation.

    Args:
        bench: where, and how much.

    Returns:
        A line.
    """
    scale, device = bench.scale, bench.device
    ground = ground_for(bench, scale.evaluated)
    images = first(ground.sets.train, scale.evaluated)
    model, plain = ground.ours(), ground.theirs()
    loader = ground.loaders(scale.batch).over(ground.pictures(images), batch=EVALUATED_AT_ONCE)

    def ours() -> None:
        settle(bench, scale.size)
        predict(model, images)

    def theirs() -> None:
        with as_torch_comes(device):
            evaluate(plain, loader, device)

    sides = {"ours": timed(ours, device), "control": timed(theirs, device)}
    ours()
    found = interleaved(sides, scale.repeats)
    pace = {name: rates(seconds, len(images)) for name, seconds in found.items()}
    what = f"evaluation of {len(images):,} images, {scale.model}"
    return [Result(what, "images/s", pace["ours"], pace["control"])]


@item("what it costs a step to hold the weights outside the mask")
def hold(bench: Bench) -> list[Result]:
    """Measure steps with and without a mask that lets half of all weights move.

    Args:
        bench: where, and how much.

    Returns:
        A line for the bench's model, and one for digits' small model.
    """
    return [hold_of(*case) for case in cases(bench)]


def hold_of(ground: Ground, size: int, times: int) -> Result:
    """Measure what a mask's hold costs.

    Args:
        ground: of the model.
        size: images a step.
        times: how many times as many steps are taken as the scale says.

    Returns:
        The line.
    """
    bench, model, batch = ground.bench, ground.ours(), as_ours_come(drawn_batch(ground, size))
    steps = times * bench.scale.steps
    mask = {name: torch.rand_like(weight) < 0.5 for name, weight in model.named_parameters()}

    def free(hold: WeightHold = FREE) -> float:
        begun = clock(bench.device)
        our_epochs(ground, model, lambda: [batch] * steps, hold=hold)
        return clock(bench.device) - begun

    def held() -> float:
        with masked_updates(model, mask) as hold:
            return free(hold)

    interleaved({"free": free, "held": held}, 1)
    found = interleaved({"free": free, "held": held}, 2 * bench.scale.repeats + 1)
    pairs = zip(found["held"].values, found["free"].values, strict=True)
    extra = Spread(tuple(100 * (slow / fast - 1) for slow, fast in pairs))
    what = f"mask's hold, {ground.architecture.model}, batch {size}"
    return Result(what, "% of a step", extra, goal=bench.goal(most=3), note=f"{len(extra.values)} pairs")


@item("a training step recorded as a CUDA graph, beside the same step as it comes", devices=("cuda",))
def graphs(bench: Bench) -> list[Result]:
    """Measure images a second with `--cuda-graphs` and without.

    Args:
        bench: where, and how much.

    Returns:
        A line for the bench's model, and one for digits' small model.
    """
    return [_beside_eager("CUDA graph", {"cuda_graphs": True}, *case) for case in both_cases(bench)]


@item("a compiled training step, beside the same step as it comes", devices=("cuda",))
def compiled(bench: Bench) -> list[Result]:
    """Measure images a second with `--compile` and without.

    Args:
        bench: where, and how much.

    Returns:
        A line for the bench's model, and one for digits' small model.
    """
    return [_beside_eager("compiled", {"compiled": True}, *case) for case in both_cases(bench)]


def _beside_eager(kind: str, flags: dict[str, bool], ground: Ground, size: int, times: int) -> Result:
    """Measure steps of ours with a flag against steps without it."""
    of, scale, device = ground.architecture, ground.bench.scale, ground.bench.device
    batches = [as_ours_come(drawn_batch(ground, size))] * (times * scale.steps)

    def side(given: dict[str, bool]) -> Side:
        model = ground.ours()
        return timed(lambda: our_epochs(ground, model, lambda: batches, 1, FREE, **given), device)

    sides = {"flagged": side(flags), "eager": side({})}
    interleaved(sides, 1)
    found = interleaved(sides, scale.repeats)
    pace = {name: rates(seconds, len(batches) * size) for name, seconds in found.items()}
    what = f"{kind} step of {of.model}, {of.size} px, batch {size}"
    return Result(what, "images/s", pace["flagged"], pace["eager"], note=f"beside eager, both in {ground.precision()}")


@item("the share of the machine's arithmetic that a training step uses")
def utilisation(bench: Bench) -> list[Result]:
    """Measure the rate of a step's products beside that of plain matrix products.

    Args:
        bench: where, and how much.

    Returns:
        Ceilings in bf16 and float32, the arithmetic of an image, and the share that our steps reach.
    """
    scale, ground = bench.scale, Ground(bench, "", bench.architecture)
    ours, theirs = paces(ground, scale.batch)
    work = flop_of_image(ground)
    precision = ground.precision()
    ceilings = {name: ceiling(bench, kind) for name, kind in (("bf16", torch.bfloat16), ("float32", torch.float32))}
    used, plain = (Spread(tuple(work / 1e12 * value for value in pace.values)) for pace in (ours, theirs))
    shares = Spread(tuple(100 * value / ceilings[precision].median for value in used.values))
    theirs_share = Spread(tuple(100 * value / ceilings["float32"].median for value in plain.values))
    product = f"matrix product, side {scale.product}"
    note = f"{work / 1e9:.2f} GFLOP an image, forward and backward; ours in {precision}, the control in float32"
    kinds = {"float32": "TF32"} if bench.device.type == "cuda" else {}
    lines = [Result(f"{product}, {kinds.get(name, name)}", "TFLOP/s", rate) for name, rate in ceilings.items()]
    lines.append(Result("products of training steps", "TFLOP/s", used, plain, note=note))
    alone = f"control {theirs_share.median:.1f} % of the float32 product"
    return [*lines, Result("model FLOP utilisation", f"% of the {precision} product", shares, note=alone)]


def flop_of_image(ground: Ground) -> float:
    """Count the floating-point operations of a training step an image.

    Args:
        ground: of the model.

    Returns:
        Two for every product of forward and backward pass.
    """
    model, batch = build(ground.architecture), drawn_batch(ground, 2)
    with FlopCounterMode(display=False) as counter:
        nn.functional.cross_entropy(model(batch.x.cpu()), batch.y.cpu()).backward()
    return float(counter.get_total_flops()) / 2


def ceiling(bench: Bench, kind: torch.dtype) -> Spread:
    """Measure how fast the device multiplies matrices.

    Args:
        bench: where, and how much.
        kind: of the numbers.

    Returns:
        TFLOP/s.
    """
    side, device = bench.scale.product, bench.device
    one, other = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    times = 10 if device.type == "cuda" else 1
    run = timed(lambda: [one @ other for _ in range(times)], device)
    run()
    return rates(interleaved({"product": run}, PRODUCTS)["product"], times * 2 * side**3 / 1e12)
