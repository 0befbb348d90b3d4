"""The saliency mask, and the context that holds every other weight still."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from salun.data.images import Batch, Images
from salun.device import Precision, autocast
from salun.errors import SalunError
from salun.models import read_tensors, write_tensors
from salun.training import evaluating

Array = NDArray[Any]
Mask = dict[str, Tensor]
Score = Literal["sum", "mean_abs", "random", "inverted"]
SCORES: tuple[str, ...] = get_args(Score)
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
SAMPLE = 2**16
BLOCK = 2**16  # as many as stay in a processor's cache
TIES = 2**20


def saliency(
    model: nn.Module,
    forget: Images,
    keep: float = 0.5,
    score: Score = "sum",
    *,
    batch_size: int = 256,
    max_batches: int | None = None,
    generator: torch.Generator | None = None,
    precision: Precision = "float32",
) -> Mask:
    """Find the weights that matter most to the forget set.

    All weights are ranked together, BatchNorm's and biases included, and exactly int(keep * n) of
    them may move; of equal scores the earlier weight is taken. The model is read in evaluation mode
    and the images come in order, plain.

    Args:
        model: the base model; its weights and mode are left as they are, its gradients are cleared.
        forget: the forget set.
        keep: fraction of the weights that may move, in [0, 1].
        score: "sum", the absolute value of the summed batch gradients of the loss (the official
            code); "mean_abs", the mean of their absolute values (the notebook's); "inverted", the
            least salient by "sum"; "random", by chance. The last two are controls.
        batch_size: images a gradient. The gradient is of the batch mean, and every batch counts the
            same, whatever its size.
        max_batches: batches at most; None for all.
        generator: draws the "random" mask.
        precision: of the forward passes; weights, loss and scores are float32.

    Returns:
        A boolean tensor for each trainable weight, True where it may move.

    Raises:
        SalunError: keep is outside [0, 1], the score is unknown, or "random" has no generator.

    Source:
        Fan et al., "SalUn", ICLR 2024, arXiv 2310.12508, equation 3, with the threshold taken as a
        quantile as its code does.
    """
    if not 0 <= keep <= 1:
        raise SalunError(f"mask: keep={keep}: must be a fraction from 0 to 1")
    if score not in SCORES:
        raise SalunError(f"mask: score={score!r}: accepted: {', '.join(SCORES)}")
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if score == "random":
        if generator is None:
            raise SalunError("mask: score='random' needs a generator")
        scores = [torch.rand(w.shape, generator=generator, device=generator.device) for w in weights.values()]
    else:
        batches = islice(forget.batches(batch_size), max_batches)
        scores = gradient_scores(model, batches, score == "mean_abs", precision)
    if score == "inverted":
        scores = [values.neg_() for values in scores]
    chosen = select(scores, int(keep * sum(map(torch.numel, scores))))
    return {name: picked.to(weights[name].device) for name, picked in zip(weights, chosen, strict=True)}


def gradient_scores(model: nn.Module, batches: Iterable[Batch], absolute: bool, precision: Precision) -> list[Tensor]:
    """Gather the gradients of the forget set's batches.

    Args:
        model: read in evaluation mode.
        batches: of the forget set.
        absolute: take absolute values before the sum over batches, not after it.
        precision: of the forward passes.

    Returns:
        A tensor of scores a trainable weight, none negative. They are the gradients' own memory.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    model.zero_grad(set_to_none=True)
    total = [torch.zeros_like(weight) for weight in weights] if absolute else None
    with evaluating(model):
        for batch in batches:
            with autocast(precision, batch.x.device):
                logits = model(batch.x)
            F.cross_entropy(logits.float(), batch.y).backward()
            if total is not None:
                for summed, weight in zip(total, weights, strict=True):
                    if weight.grad is not None:
                        summed += weight.grad.abs_()
                        weight.grad = None
    if total is None:
        total = [weight.grad.abs_() if weight.grad is not None else torch.zeros_like(weight) for weight in weights]
    model.zero_grad(set_to_none=True)
    return total


def select(scores: list[Tensor], count: int) -> list[Tensor]:
    """Mark the largest scores of all tensors together, by selection rather than by sorting.

    Args:
        scores: tensors of any shape and layout in memory, on one device; what is no number counts as the smallest.
        count: how many to mark.

    Returns:
        A boolean tensor for each, `count` entries True; of equal scores the earlier is taken.
    """
    sizes = list(map(torch.numel, scores))
    if count in (0, sum(sizes)):
        return [torch.full(values.shape, count > 0, device=values.device) for values in scores]
    flat = scores[0].new_empty(sum(sizes))
    for part, values in zip(flat.split(sizes), scores, strict=True):
        part.view(values.shape).copy_(values)
    flat.nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    threshold = largest(flat, count)
    marked = flat >= threshold
    if int(marked.count_nonzero()) > count:
        marked = flat > threshold
        equal = flat == threshold
        del flat, part
        missing = count - marked.count_nonzero()
        for some in equal.split(TIES):  # numbering all of them at once would take as much memory as the scores
            first = some.cumsum(0, dtype=torch.int32) <= missing
            missing = missing - some.count_nonzero()
            some &= first
        marked |= equal
    return [part.view(values.shape) for part, values in zip(marked.split(sizes), scores, strict=True)]


def largest(values: Tensor, count: int) -> Tensor:
    """Find the count-th largest value.

    Args:
        values: (N,) floating-point numbers.
        count: from 1 to N.

    Returns:
        The value, a tensor without dimensions on the same device, which only on the CPU is waited for.
    """
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return largest_by_bits(values, count)
    narrowed = narrow(values, count) if len(values) > SAMPLE else (values.detach().numpy(), count)
    if narrowed is None:
        return largest_by_bits(values, count)
    few, rank = narrowed
    return values.new_tensor(np.partition(few, len(few) - rank)[len(few) - rank])


def narrow(values: Tensor, count: int) -> tuple[Array, int] | None:
    """Narrow the search for the count-th largest value down to few, by where it is in a sample.

    Args:
        values: (N,) float32 or float64, on the CPU.
        count: from 1 to N.

    Returns:
        The values among which it is, and which largest of them; None where the sample misleads.
    """
    array = values.detach().numpy()
    sample = np.random.default_rng(0).choice(array, SAMPLE)
    drawn = np.concatenate([[np.inf], np.sort(sample)[::-1], [-np.inf]]).astype(array.dtype)
    share = count / len(array)
    place, margin = share * SAMPLE, 1 + 5 * math.sqrt(SAMPLE * share * (1 - share))
    high, low = drawn[max(int(place - margin), 0)], drawn[min(int(place + margin) + 1, SAMPLE + 1)]
    before, between = 0, []
    for start in range(0, len(array), BLOCK):
        part = array[start : start + BLOCK]
        from_high = part >= high
        before += int(np.count_nonzero(from_high))
        between.append(part[(part > low) & ~from_high])
    few = np.concatenate(between)
    if before < count <= before + len(few):
        return few, count - before
    for bound in (high, low):  # one value that many have
        if np.count_nonzero(array > bound) < count <= np.count_nonzero(array >= bound):
            return np.array([bound]), 1
    return None


def largest_by_bits(values: Tensor, count: int) -> Tensor:
    """Find the count-th largest value by halving what it can be, one pass a bit; nothing waits for the device.

    Floating-point numbers are ordered like the integers of the same bits, the negative ones the other way round.

    Args:
        values: (N,) floating-point numbers.
        count: from 1 to N.

    Returns:
        The value, a tensor without dimensions on the same device.
    """
    kind = BITS[values.element_size()]
    limits = torch.iinfo(kind)

    def number(bits: Tensor) -> Tensor:
        return torch.where(bits < 0, bits ^ limits.max, bits).view(values.dtype)

    found = ((values >= 0).count_nonzero() < count).to(kind) * limits.min
    for place in reversed(range(limits.bits - 1)):
        larger = found + (1 << place)
        found = torch.where((values >= number(larger)).count_nonzero() >= count, larger, found)
    # The integers below minus infinity stand for no numbers, of which none is found.
    return number(found).nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


@dataclass(frozen=True)
class Hold:
    """What holds weights still.

    Attributes:
        put_back: puts the held weights back at once, after an edit in place.
        clear_gradients: clears their gradients, so that clipping counts only weights that may move.
    """

    put_back: Callable[[], None]
    clear_gradients: Callable[[], None]


@contextmanager
def only(model: nn.Module, mask: Mask) -> Iterator[Hold]:
    """Let only the weights of a mask move.

    theta = mask * (theta0 + delta) + (1 - mask) * theta0: inside the block the held weights are put
    back after every optimiser step, whatever the optimiser, and once more at its end, which covers
    edits in place. Buffers, such as BatchNorm's running statistics, are not weights: they move freely.

    Args:
        model: whose weights.
        mask: a boolean tensor a weight, True where it may move; weights without one are free.

    Yields:
        What puts the held weights back, and clears their gradients.

    Raises:
        SalunError: the mask names a weight that the model lacks, or has another shape.

    Source:
        Fan et al., "SalUn", ICLR 2024, arXiv 2310.12508, equation 4.
    """
    weights = dict(model.named_parameters())
    check_mask(mask, weights, complete=False)
    held = {name: weights[name] for name, chosen in mask.items() if not bool(chosen.all())}
    free = {name: bits_like(weight).copy_(mask[name]) for name, weight in held.items()}
    start = {name: (1 - free[name]).mul_(bits_of(weight)) for name, weight in held.items()}

    def put_back(moved: dict[str, nn.Parameter]) -> None:
        if moved:
            bits = [bits_of(weight) for weight in moved.values()]
            torch._foreach_mul_(bits, [free[name] for name in moved])
            torch._foreach_add_(bits, [start[name] for name in moved])

    def clear_gradients() -> None:
        moved = {name: weight.grad for name, weight in held.items() if weight.grad is not None}
        if moved:
            torch._foreach_mul_(list(map(bits_of, moved.values())), [free[name] for name in moved])

    hook = register_optimizer_step_post_hook(lambda *step: put_back(held))
    try:
        yield Hold(lambda: put_back(held), clear_gradients)
    finally:
        hook.remove()
        present = model.named_parameters()
        put_back({name: weight for name, weight in present if name in free and weight.shape == free[name].shape})


def bits_of(values: Tensor) -> Tensor:
    """See floating-point numbers as integers of the same bits, with which products and sums of 0 and 1 are exact.

    Args:
        values: of 16, 32 or 64 bits each; the view shares their memory.

    Returns:
        Integers of the same shape, so that even what is no number can be put back by arithmetic.
    """
    return values.detach().view(BITS[values.element_size()])


def bits_like(values: Tensor) -> Tensor:
    """Make room for as many integers of the same size, laid out in memory in the same way.

    Args:
        values: floating-point numbers of 16, 32 or 64 bits each.

    Returns:
        Integers of the same shape.
    """
    return torch.empty_like(values, dtype=BITS[values.element_size()], requires_grad=False)


def check_mask(mask: Mask, weights: dict[str, nn.Parameter], complete: bool = True) -> None:
    """Check that a mask fits a model.

    Args:
        mask: a tensor a weight.
        weights: the model's, by name; only their names and shapes are read.
        complete: whether the mask must have every trainable weight.

    Raises:
        SalunError: a name or a shape differs, or a weight is missing.
    """
    for name, chosen in mask.items():
        if name not in weights:
            raise SalunError(f"mask: '{name}' is no weight of the model; is the mask another model's?")
        if chosen.shape != weights[name].shape:
            shapes = f"{tuple(chosen.shape)}, the weight {tuple(weights[name].shape)}"
            raise SalunError(f"mask: '{name}' has shape {shapes}; is the mask another model's?")
    missing = [name for name, weight in weights.items() if weight.requires_grad and name not in mask]
    if complete and missing:
        raise SalunError(f"mask: lacks the weight '{missing[0]}' of the model; is the mask another model's?")


def save_mask(path: Path, mask: Mask) -> None:
    """Write a mask.

    Args:
        path: the file.
        mask: a boolean tensor a weight.

    Raises:
        SalunError: the file cannot be written.
    """
    write_tensors(path, {name: chosen.cpu() for name, chosen in mask.items()})


def load_mask(path: Path) -> Mask:
    """Read a mask of ours or of the official code (0 and 1), running no code from it.

    Args:
        path: the file.

    Returns:
        A boolean tensor a weight.

    Raises:
        SalunError: the file is missing, damaged, or not a mask.
    """
    content = read_tensors(path, "mask")
    named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    if not named or not content or not all(isinstance(values, Tensor) for values in content.values()):
        raise SalunError(f"{path}: not a mask: must hold one tensor a weight")
    tensors = cast(dict[str, Tensor], content)
    for name, values in tensors.items():
        if values.is_sparse or not bool(((values == 0) | (values == 1)).all()):
            raise SalunError(f"{path}: not a mask: '{name}' holds values other than 0 and 1")
    return {name.removeprefix("module."): values != 0 for name, values in tensors.items()}
