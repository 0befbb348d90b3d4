import torch
from torch import nn

from salun.unlearning import Momentum, NonNegativeFloat, PositiveFloat, PositiveInt, Schedule, Task, method


@method(alias="not")
def negate(
    task: Task,
    *,
    lr: PositiveFloat = 0.01,
    epochs: PositiveInt = 10,
    batch_size: PositiveInt = 256,
    momentum: Momentum = 0.9,
    weight_decay: NonNegativeFloat = 5e-4,
    grad_clip: PositiveFloat | None = None,
    schedule: Schedule = "constant",
) -> None:
    """Turn the sign of the first layer's weights, which breaks what follows, and fine-tune on the retain images (NoT).

    In JSON its name may also be "not", which no function can have.

    Args:
        task: what to unlearn.
        lr: learning rate.
        epochs: passes over the retain set.
        batch_size: images a step.
        momentum: of SGD.
        weight_decay: L2 penalty.
        grad_clip: largest norm of the gradient; None for no limit.
        schedule: of the learning rate.

    Equation:
        theta_1 <- -theta_1 for the first layer's weights; then L = CE(retain).

    Deviations:
        The paper fine-tunes by federated averaging over clients; here in one place, with `ft`'s settings. Only the
        weights change their sign, not a bias beside them.

    Source:
        Khalil, Brunswic, Lamghari, Li, Beitollahi and Chen, "NoT: Federated Unlearning via Weight Negation",
        CVPR 2025, https://arxiv.org/abs/2503.05657.
    """
    with torch.no_grad():
        _first_weight(task.model).neg_()
    task.fit(
        lambda epoch: task.retain.batches(batch_size, task.generator),
        epochs=epochs,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
        schedule=schedule,
    )


def _first_weight(model: nn.Module) -> nn.Parameter:
    """Find the weights of a model's first layer: of a transformer, the patch embedding."""
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    layer = next(convolutions, None)
    return next(weight for weight in (layer or model).parameters() if weight.ndim > 1)
