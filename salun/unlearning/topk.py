"""The largest values of many tensors together."""

import numpy as np
import torch
from torch import Tensor

_CHUNK = 2**20


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
        part.view(values.shape).copy_(_numbers(values))
    threshold = _largest_in_place(flat, count)
    del flat
    marked = [_numbers(values) > threshold for values in scores]
    missing = count - sum(chosen.count_nonzero() for chosen in marked)
    for chosen, values in zip(marked, scores, strict=True):
        equal = (_numbers(values) == threshold).flatten()
        for some in equal.split(_CHUNK):  # numbering all of them at once would take as much memory as the scores
            first = some.cumsum(0, dtype=torch.int32) <= missing
            missing = missing - some.count_nonzero()
            some &= first
        chosen |= equal.view(values.shape)
    return marked


def _numbers(values: Tensor) -> Tensor:
    """Put the smallest value in the place of what is no number."""
    return values.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _largest_in_place(values: Tensor, count: int) -> Tensor:
    """Find the count-th largest value, and leave the values in another order."""
    if values.device.type != "cpu" or values.dtype == torch.bfloat16:
        return largest(values, count)
    place, array = len(values) - count, values.numpy()
    # Where most scores are equal, as gradients that vanish are, a partition takes twenty times as long.
    for extreme, others in ((array.min(), place), (array.max(), len(array) - 1 - place)):
        if np.count_nonzero(array == extreme) > others:
            return values.new_tensor(extreme)
    array.partition(place)
    return values[place].clone()


def largest(values: Tensor, count: int) -> Tensor:
    """Find the count-th largest value.

    Args:
        values: (N,) floating-point numbers.
        count: from 1 to N.

    Returns:
        The value, a tensor without dimensions on the same device, which only on the CPU is waited for.
    """
    place = len(values) - count
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:
        # torch.kthvalue would also copy the values' places, twice their size.
        return values.new_tensor(np.partition(values.detach().numpy(), place)[place])
    return values.kthvalue(place + 1).values
