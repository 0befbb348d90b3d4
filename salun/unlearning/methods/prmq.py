from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salun.data.images import Batch
from salun.unlearning import Share, Step, Task, TrainingConfig, method
from salun.unlearning.noise import noise_source
from salun.unlearning.topk import select

_EXPONENT = -0.1


@method(training=TrainingConfig(lr=5e-4, epochs=3, batch_size=64))
def prmq(task: Task, *, share: Share = 0.99) -> None:
    """Prune, re-initialise, match the base model's entropy on retain images, and quantise (PRMQ).

    Args:
        task: what to unlearn.
        epochs: passes over the retain set.
        share: of the weights of all convolutions and linear layers together that are drawn anew, the smallest ones.

    Equation:
        w ~ U(-b, b), b = 1 / sqrt(fan_in), for the share of the smallest |w|, and 0 for biases among them; then
        L = CE(retain), class c weighted by n_c^-0.1, + mean of (H(p) - H(p_base))^2, H the entropy; last, all weights
        and buffers are rounded to half precision.

    Deviations:
        The entry stops after 3.2 epochs, here it is whole ones. Numbers beyond half precision's largest become that
        instead of infinite.

    Source:
        Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari and Haddadi, "Deep Unlearn: Benchmarking Machine Unlearning for Image
        Classification", 2024, https://arxiv.org/abs/2410.01276, PRMQ, the fourth entry of the NeurIPS 2023 unlearning
        competition; settings of its code.
    """
    teacher = task.frozen()
    _renew_smallest(task.model, share, noise_source(task))
    counts = torch.bincount(task.retain.labels, minlength=task.classes)
    weights = counts.clamp(min=1).float().pow(_EXPONENT)

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        mismatch = F.mse_loss(_entropies(logits), _entropies(task.logits(batch.x, teacher)))
        return F.cross_entropy(logits, batch.y, weight=weights) + mismatch

    def stream(epoch: int) -> Iterator[Step]:
        return (Step(batch, loss, cost=3) for batch in task.batches(task.retain))

    task.fit(stream)
    _quantise(task.model)


@torch.no_grad()
def _renew_smallest(model: nn.Module, share: float, generator: torch.Generator) -> None:
    """Draw the smallest weights of convolutions and linear layers anew, and set the smallest biases to zero."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    weights = [weight for layer in layers for weight in layer.parameters(recurse=False) if weight.requires_grad]
    smallest = select([-weight.abs() for weight in weights], round(share * sum(map(torch.numel, weights))))
    for weight, chosen in zip(weights, smallest, strict=True):
        bound = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.0
        drawn = torch.rand(weight.shape, generator=generator, device=generator.device).mul_(2).sub_(1)
        weight.copy_(torch.where(chosen, bound * drawn.to(weight), weight))


def _entropies(logits: Tensor) -> Tensor:
    """Compute the (B,) entropies of the predictions, in nats."""
    known = F.log_softmax(logits, 1)
    return -(known.exp() * known).sum(1)


@torch.no_grad()
def _quantise(model: nn.Module) -> None:
    """Round weights that may be trained, and buffers, to half precision."""
    most = torch.finfo(torch.half).max
    for values in [*(weight for weight in model.parameters() if weight.requires_grad), *model.buffers()]:
        if values.is_floating_point():
            values.copy_(values.clamp(-most, most).half())
