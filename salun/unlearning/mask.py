"""The saliency mask, and the context that holds every other weight still."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salun.data.images import Batch, Images
from salun.device import Precision, autocast
from salun.errors import SalunError
from salun.io.tensors import read_tensors, write_tensors
from salun.training.evaluate import evaluating
from salun.training.runtime import WeightHold
from salun.unlearning.topk import select

Mask = dict[str, Tensor]


class _Saliency(dict[str, Tensor]):
    """A mask that is short where it is printed, and a plain dictionary where it is copied or saved."""

    def __repr__(self) -> str:
        free = sum(int(chosen.sum()) for chosen in self.values())
        weights = sum(chosen.numel() for chosen in self.values())
        return f"Mask({free:,} of {weights:,} weights may move, in {len(self)} tensors)"

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), None, None, iter(self.items())  # what torch.load knows without running code


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
Score = Literal["sum", "mean_abs", "random", "inverted"]
_SCORES: tuple[str, ...] = get_args(Score)


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
        SalunError: keep is outside [0, 1], the score is unknown, "random" has no generator, or the gradients are no
            numbers.

    Source:
        Fan et al., "SalUn", ICLR 2024, arXiv 2310.12508, equation 3, with the threshold taken as a
        quantile as its code does.
    """
    if not isinstance(keep, Real) or not 0 <= keep <= 1:
        raise SalunError(f"mask: keep={keep!r}: must be a fraction from 0 to 1")
    if score not in _SCORES:
        raise SalunError(f"mask: score={score!r}: accepted: {', '.join(_SCORES)}")
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if score == "random":
        if generator is None:
            raise SalunError("mask: score='random' needs a generator")
        scores = [torch.rand(w.shape, generator=generator, device=generator.device) for w in weights.values()]
    else:
        batches = islice(forget.batches(batch_size), max_batches)
        scores = _gradient_scores(model, batches, score == "mean_abs", precision)
        if not bool(torch.stack([values.isfinite().all() for values in scores]).all()):
            raise SalunError("mask: the model's gradients are no numbers; are its weights?")
    if score == "inverted":
        scores = [values.neg_() for values in scores]
    chosen = select(scores, int(keep * sum(map(torch.numel, scores))))
    return _Saliency({name: picked.to(weights[name].device) for name, picked in zip(weights, chosen, strict=True)})


def _gradient_scores(model: nn.Module, batches: Iterable[Batch], absolute: bool, precision: Precision) -> list[Tensor]:
    """Gather the gradients of the forget set's batches."""
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


@contextmanager
def masked_updates(model: nn.Module, mask: Mask) -> Iterator[WeightHold]:
    """Let only the weights of a mask move.

    theta = mask * (theta0 + delta) + (1 - mask) * theta0: a training that is given the hold puts the
    held weights back after every step, whatever the optimiser, and the end of the block does so once
    more, which covers edits in place. Buffers, such as BatchNorm's running statistics, are not
    weights: they move freely.

    Args:
        model: whose weights.
        mask: a boolean tensor a weight, True where it may move; weights without one are free.

    Yields:
        The hold, for `Runtime.hold`.

    Raises:
        SalunError: the mask names a weight that the model lacks, or has another shape.

    Source:
        Fan et al., "SalUn", ICLR 2024, arXiv 2310.12508, equation 4.
    """
    weights = dict(model.named_parameters())
    check_mask(mask, weights, complete=False)
    held = {name: weights[name] for name, chosen in mask.items() if not bool(chosen.all())}
    free = {name: _bits_like(weight).copy_(mask[name]) for name, weight in held.items()}
    start = {name: (1 - free[name]).mul_(_bits_of(weight)) for name, weight in held.items()}

    def restore(moved: dict[str, nn.Parameter]) -> None:
        if moved:
            bits = [_bits_of(weight) for weight in moved.values()]
            torch._foreach_mul_(bits, [free[name] for name in moved])
            torch._foreach_add_(bits, [start[name] for name in moved])

    def clear_gradients() -> None:
        moved = {name: weight.grad for name, weight in held.items() if weight.grad is not None}
        if moved:
            torch._foreach_mul_(list(map(_bits_of, moved.values())), [free[name] for name in moved])

    try:
        yield WeightHold(lambda: restore(held), clear_gradients)
    finally:
        present = model.named_parameters()
        restore({name: weight for name, weight in present if name in free and weight.shape == free[name].shape})


def _bits_of(values: Tensor) -> Tensor:
    """See floating-point numbers as integers of the same bits, with which products and sums of 0 and 1 are exact."""
    return values.detach().view(_BITS[values.element_size()])


def _bits_like(values: Tensor) -> Tensor:
    """Make room for as many integers of the same size, laid out in memory in the same way."""
    return torch.empty_like(values, dtype=_BITS[values.element_size()], requires_grad=False)


def check_mask(mask: Mask, weights: dict[str, nn.Parameter], complete: bool = True) -> None:
    """Raise a `SalunError` where a mask, which may have to be complete, does not fit a model's weights."""
    if not isinstance(mask, Mapping):
        raise SalunError(f"mask: a {type(mask).__name__}; must be a boolean tensor a weight by name, as of saliency()")
    for name, chosen in mask.items():
        if name not in weights:
            raise SalunError(f"mask: '{name}' is no weight of the model; is the mask another model's?")
        if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool:
            held = chosen.dtype if isinstance(chosen, Tensor) else f"a {type(chosen).__name__}"
            raise SalunError(f"mask: '{name}' is {held}; must be a boolean tensor, True where the weight may move")
        if chosen.shape != weights[name].shape:
            shapes = f"{tuple(chosen.shape)}, the weight {tuple(weights[name].shape)}"
            raise SalunError(f"mask: '{name}' has shape {shapes}; is the mask another model's?")
    missing = [name for name, weight in weights.items() if weight.requires_grad and name not in mask]
    if complete and missing:
        lacked = f"lacks {len(missing)} of the model's {len(weights)} weights, '{missing[0]}' first"
        raise SalunError(f"mask: {lacked}; is the mask another model's?")


def save_mask(path: Path, mask: Mask) -> None:
    """Write a mask, whole or not at all."""
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
