"""The largest values of many arrays together."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_Array = NDArray[Any]

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

_SAMPLE = 2**16

_BLOCK = 2**16  # as many as stay in a processor's cache

_TIES = 2**20


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
        for some in equal.split(_TIES):  # numbering all of them at once would take as much memory as the scores
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
    narrowed = _narrow(values, count) if len(values) > _SAMPLE else (values.detach().numpy(), count)
    if narrowed is None:
        return largest_by_bits(values, count)
    few, rank = narrowed
    return values.new_tensor(np.partition(few, len(few) - rank)[len(few) - rank])


def _narrow(values: Tensor, count: int) -> tuple[_Array, int] | None:
    """Narrow the search for the count-th largest value down to few, by where it is in a sample."""
    array = values.detach().numpy()
    sample = np.random.default_rng(0).choice(array, _SAMPLE)
    drawn = np.concatenate([[np.inf], np.sort(sample)[::-1], [-np.inf]]).astype(array.dtype)
    share = count / len(array)
    place, margin = share * _SAMPLE, 1 + 5 * math.sqrt(_SAMPLE * share * (1 - share))
    high, low = drawn[max(int(place - margin), 0)], drawn[min(int(place + margin) + 1, _SAMPLE + 1)]
    before, between = 0, []
    for start in range(0, len(array), _BLOCK):
        part = array[start : start + _BLOCK]
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
