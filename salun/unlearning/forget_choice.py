"""Which images of a share are to be forgotten: those memorised most or least, or those hardest to forget."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salun.data.images import Images
from salun.data.split import Choice
from salun.training.evaluate import predict
from salun.training.step import steady_norms

_ROUNDS, _EPOCHS, _BATCH = 10, 2, 256
_LR = 1e-3
_HALVINGS = 60
_LEAST = 1e-30  # nats; so that a mean of losses is none by which nothing can be divided


def memorization(model: nn.Module, images: Images) -> Tensor:
    """Score images by how unsure a trained model is of them, a proxy of how far it has memorised them.

    Args:
        model: trained on the images; is left in the mode that it was in.
        images: N images.

    Returns:
        (N,) float64, -ln p(y) in nats; the higher, the more memorised.

    Source:
        Zhao and Triantafillou, "Scalability of memorization-based machine unlearning", 2024,
        https://arxiv.org/abs/2410.16516: the proxy "confidence", there a mean over the training.
    """
    outputs = predict(model, images)
    return F.cross_entropy(outputs.logits.double(), outputs.labels, reduction="none")


def choose(model: nn.Module, images: Images, choice: Choice, count: int, generator: torch.Generator) -> Tensor:
    """Choose images to forget.

    Args:
        model: the base model, on its device; is left as it is.
        images: N images that it was trained on.
        choice: "memorized" or "easy", the images of the highest or lowest `memorization`; "worst", those that are
            hardest to forget; "random".
        count: images to choose, below N.
        generator: of "worst" and "random".

    Returns:
        (count,) positions in the images, sorted.
    """
    if choice == "random":
        order = torch.randperm(len(images), generator=generator, device=generator.device)
    elif choice == "worst":
        order = _hardness(model, images, count, generator).argsort(descending=True, stable=True)
    else:
        order = memorization(model, images).argsort(descending=choice == "memorized", stable=True)
    return order[:count].sort().values.cpu()


def _hardness(model: nn.Module, images: Images, count: int, generator: torch.Generator) -> Tensor:
    """Weigh images by how hard they are to forget: (N,), each in [0, 1], `count` in sum.

    Equation:
        min over w of sum_i w_i l_i(theta(w)), 0 <= w <= 1, sum_i w_i = count; theta(w) is the model after sign-SGD on
        sum_i (1 - w_i) l_i. The sign takes theta's dependence on w out of the gradient, whose part i is then l_i.

    Deviations:
        The step of w is 1 for the mean loss of all images, where the code's is 0.01 for a loss of 1 nat: of a model
        whose losses are near 0 that replaces no image of the random start. Losses are measured in evaluation mode,
        without augmentation. Rounds (10) and images a batch (256) are the code's defaults, epochs (2) and learning
        rate of the lower level (0.001) those of its example; w is made binary at the end alone, as there.

    Source:
        Fan, Liu, Hero and Liu, "Challenging Forgets: Unveiling the Worst-Case Forget Sets in Machine Unlearning",
        ECCV 2024, https://arxiv.org/abs/2403.07362; data-wise selection of OPTML-Group/Unlearn-WorstCase.
    """
    drawn = torch.randperm(len(images), generator=generator, device=generator.device)[:count]
    weights = torch.zeros(len(images), dtype=torch.float64)  # on the CPU: not every device has it
    weights[drawn.cpu()] = 1
    for _ in range(_ROUNDS):
        trained = deepcopy(model).train()
        for _ in range(_EPOCHS):
            _descend(trained, images, 1 - weights.float().to(images.device), generator)
        losses = memorization(trained, images).clamp_min(_LEAST)
        weights = _projected(weights - losses / losses.mean(), count)
    return weights


def _descend(model: nn.Module, images: Images, weights: Tensor, generator: torch.Generator) -> None:
    """Go once through images by sign-SGD, each weighed."""
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    for batch in images.batches(_BATCH, generator):
        with steady_norms(model, len(batch.x) == 1):
            losses = F.cross_entropy(model(batch.x), batch.y, reduction="none")
        gradients = torch.autograd.grad((weights[batch.at] * losses).sum(), parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(gradient.sign(), alpha=_LR)


def _projected(weights: Tensor, total: int) -> Tensor:
    """Find the nearest point with coordinates in [0, 1] and a given sum: it is shifted, by halving, and clamped."""
    low, high = weights.min() - 1, weights.max()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if (weights - middle).clamp(0, 1).sum() > total else (low, middle)
    return (weights - (low + high) / 2).clamp(0, 1)
