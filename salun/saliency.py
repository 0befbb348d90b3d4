"""The saliency mask, and the context that holds every other weight still."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from salun.data.images import Images
from salun.errors import SalunError
from salun.files import replacing
from salun.models import read_tensors
from salun.training import evaluating

Mask = dict[str, Tensor]
Score = Literal["sum", "mean_abs", "random", "inverted"]
SCORES: tuple[str, ...] = get_args(Score)


def saliency(
    model: nn.Module,
    forget: Images,
    keep: float = 0.5,
    score: Score = "sum",
    *,
    batch_size: int = 256,
    max_batches: int | None = None,
    generator: torch.Generator | None = None,
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
        scores = gradient_scores(model, forget, score == "mean_abs", batch_size, max_batches)
    if score == "inverted":
        scores = [values.neg_() for values in scores]
    chosen = select(scores, int(keep * sum(map(torch.numel, scores))))
    return {name: picked.to(weights[name].device) for name, picked in zip(weights, chosen, strict=True)}


def gradient_scores(
    model: nn.Module, forget: Images, absolute: bool, batch_size: int, max_batches: int | None
) -> list[Tensor]:
    """Gather the gradients of the forget set's batches.

    Args:
        model: read in evaluation mode.
        forget: the forget set.
        absolute: take absolute values before the sum over batches, not after it.
        batch_size: images a gradient.
        max_batches: batches at most; None for all.

    Returns:
        A tensor of scores a trainable weight, none negative. They are the gradients' own memory.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    model.zero_grad(set_to_none=True)
    total = [torch.zeros_like(weight) for weight in weights] if absolute else None
    with evaluating(model):
        for batch in islice(forget.batches(batch_size), max_batches):
            F.cross_entropy(model(batch.x).float(), batch.y).backward()
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
        scores: tensors of any shape.
        count: how many to mark.

    Returns:
        A boolean tensor for each, `count` entries True; of equal scores the earlier is taken.
    """
    total = sum(map(torch.numel, scores))
    if count == 0 or count == total:
        return [torch.full(values.shape, count > 0, device=values.device) for values in scores]
    threshold = largest(torch.cat([values.flatten() for values in scores]), count)
    marked = [values > threshold for values in scores]
    missing = count - int(sum(chosen.sum() for chosen in marked))
    for chosen, values in zip(marked, scores, strict=True):
        if missing == 0:
            break
        equal = (values == threshold).flatten().nonzero().flatten()[:missing]
        chosen.view(-1)[equal] = True
        missing -= len(equal)
    return marked


def largest(values: Tensor, count: int) -> float:
    """Find the count-th largest value.

    Args:
        values: (N,); on the CPU they are reordered in place.
        count: from 1 to N.

    Returns:
        The value.
    """
    place = len(values) - count
    if values.device.type == "cuda":
        return float(values.kthvalue(place + 1).values)
    array = values.cpu().numpy()
    array.partition(place)
    return float(array[place])


@contextmanager
def only(model: nn.Module, mask: Mask) -> Iterator[Callable[[], None]]:
    """Let only the weights of a mask move.

    theta = mask * (theta0 + delta) + (1 - mask) * theta0: inside the block the held weights are put
    back after every optimiser step, whatever the optimiser, and once more at its end, which covers
    edits in place. Their gradients are cleared, so that clipping counts only weights that may move.
    Buffers, such as BatchNorm's running statistics, are not weights: they move freely.

    Args:
        model: whose weights.
        mask: a boolean tensor a weight, True where it may move; weights without one are free.

    Yields:
        A function that puts the held weights back at once, after an edit in place.

    Raises:
        SalunError: the mask names a weight that the model lacks, or has another shape.

    Source:
        Fan et al., "SalUn", ICLR 2024, arXiv 2310.12508, equation 4.
    """
    weights = dict(model.named_parameters())
    check_mask(mask, weights, complete=False)
    free = {name: chosen.to(weights[name].device) for name, chosen in mask.items()}
    start = {name: weights[name].detach().clone() for name in free}

    @torch.no_grad()
    def put_back(named: Iterable[tuple[str, nn.Parameter]]) -> None:
        for name, weight in named:
            if name in free and weight.shape == start[name].shape:
                torch.where(free[name], weight, start[name], out=weight.data)

    held = [(name, weights[name]) for name in free]
    hooks = [register_optimizer_step_post_hook(lambda *step: put_back(held))]
    hooks += [
        weight.register_post_accumulate_grad_hook(partial(clear_gradient, where=~free[name]))
        for name, weight in held
        if weight.requires_grad
    ]
    try:
        yield lambda: put_back(held)
    finally:
        for hook in hooks:
            hook.remove()
        put_back(model.named_parameters())


def clear_gradient(weight: Tensor, where: Tensor) -> None:
    """Clear a part of a weight's gradient.

    Args:
        weight: its `grad` is changed in place.
        where: boolean, True where the weight must stay.
    """
    if weight.grad is not None:
        weight.grad.masked_fill_(where, 0)


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
    with replacing(path) as temporary:
        torch.save({name: chosen.cpu() for name, chosen in mask.items()}, temporary)


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
