from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from salun.data.images import Batch
from salun.unlearning import PositiveFloat, Step, Task, TrainingConfig, method


@method(training=TrainingConfig(lr=1e-5, momentum=0.0, weight_decay=0.0), keeps=False)
def mu_mis(task: Task, *, delta: PositiveFloat = 1.0) -> None:
    """Make the logit of a forget image's class as insensitive to the image as that of another class.

    What a training image contributed shows in how sensitive the model is to it. It needs no retain image; nothing
    bounds the loss or holds the rest, so keep it short.

    Args:
        task: what to unlearn.
        epochs: passes over the forget set, at most.
        delta: no epoch begins once the sensitivity of other classes' logits, above its least so far, is more than so
            many times what it was at first.
        momentum: of SGD.

    Equation:
        L = mean over forget images of ||grad_x z_y(x)||^2 - ||grad_x z_c(x)||^2, z the logits and c a class other than
        y, drawn anew for each image each step.

    Deviations:
        The authors choose learning rate and delta for each task; their values could not be looked up, and the defaults
        are this file's. Sensitivities are compared before each epoch, over the whole forget set. The model stays in
        evaluation mode, so that each image's gradient is of that image alone, and the running statistics of batch
        normalisation stay. An image counts with one forward and two backward passes, the second-order pass is not
        counted.

    Source:
        Cheng, Huang, Zhou, He, Yang, Wu and Huang, "Remaining-data-free Machine Unlearning by Suppressing Sample
        Contribution", ICLR 2026, https://arxiv.org/abs/2402.15109, equation 3 and algorithm 1.
    """
    norms: list[float] = []

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        own, other = (_sensitivity(logits, batch.x, y, True) for y in (batch.y, _other_classes(task, batch.y)))
        return (own.square() - other.square()).mean()

    def stream(epoch: int) -> Iterator[Step]:
        if 2 * len(task.forget) <= task.passes.left:
            norms.append(_mean_sensitivity(task))
        if len(norms) > 1 and norms[-1] > min(norms[:-1]) and norms[-1] > delta * norms[0]:
            return
        for batch in task.batches(task.forget):
            task.model.eval()
            yield Step(batch._replace(x=batch.x.requires_grad_()), cost=3)

    # Fused attention has no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        task.fit(stream, loss=loss)


def _sensitivity(logits: Tensor, x: Tensor, classes: Tensor, differentiable: bool = False) -> Tensor:
    """Compute the norm of the gradient by each image of the logit of a class: (B,)."""
    chosen = logits.gather(1, classes[:, None]).sum()
    (found,) = torch.autograd.grad(chosen, x, create_graph=differentiable, retain_graph=differentiable)
    norms: Tensor = torch.linalg.vector_norm(found.flatten(1), dim=1)
    return norms


def _other_classes(task: Task, labels: Tensor) -> Tensor:
    """Draw a class other than its own for each image."""
    generator = task.generator
    steps = torch.randint(1, task.classes, labels.shape, generator=generator, device=generator.device)
    return (labels + steps.to(labels.device)) % task.classes


def _mean_sensitivity(task: Task) -> float:
    """Average over the forget images how sensitive another class's logit is to them."""
    task.model.eval()
    found = []
    for batch in task.forget.batches(task.training.batch_size):
        x = batch.x.requires_grad_()
        found.append(_sensitivity(task.logits(x), x, _other_classes(task, batch.y)))
    return float(torch.cat(found).mean())
