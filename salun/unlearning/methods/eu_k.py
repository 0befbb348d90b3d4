import torch
from torch import nn

from salun.unlearning import Momentum, NonNegativeFloat, PositiveFloat, PositiveInt, Schedule, Task, method
from salun.unlearning.freezing import last_layers, training_only


@method()
def eu_k(
    task: Task,
    *,
    k: PositiveInt = 1,
    lr: PositiveFloat = 0.01,
    epochs: PositiveInt = 10,
    batch_size: PositiveInt = 256,
    momentum: Momentum = 0.9,
    weight_decay: NonNegativeFloat = 5e-4,
    grad_clip: PositiveFloat | None = None,
    schedule: Schedule = "constant",
) -> None:
    """Re-initialise the last k layers and train them on the retain images; all before them stays as it is.

    Args:
        task: what to unlearn.
        k: layers that are re-initialised and trained: the last ones with weights of two or more dimensions, and all
            that the model registers after the first of them, such as normalisations. All layers where there are
            no more.
        lr: learning rate.
        epochs: passes over the retain set.
        batch_size: images a step.
        momentum: of SGD.
        weight_decay: L2 penalty.
        grad_clip: largest norm of the gradient; None for no limit.
        schedule: of the learning rate.

    Equation:
        theta_last = theta_0, fresh; then L = CE(retain) over the weights of the last k layers.

    Deviations:
        The authors train as long as the base model, with warm restarts of the learning rate; defaults here are `ft`'s.
        Their code re-initialises convolutions and linear layers only; here the normalisations after the first of them
        too, running statistics included, which have seen the forget images as well. The running statistics of frozen
        normalisations move, as in the authors' code.

    Source:
        Goel, Prabhu, Sanyal, Lim, Torr and Kumaraguru, "Towards Adversarial Evaluations for Inexact Machine
        Unlearning", 2022, https://arxiv.org/abs/2201.06640, EU-k.
    """
    layers = last_layers(task.model, k)
    _reset(layers, task.fresh())
    with training_only(task.model, layers.values()):
        task.fit(
            lambda epoch: task.retain.batches(batch_size, task.generator),
            epochs=epochs,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            grad_clip=grad_clip,
            schedule=schedule,
        )


@torch.no_grad()
def _reset(layers: dict[str, nn.Module], fresh: nn.Module) -> None:
    """Give layers the values that they have in another model."""
    others = dict(fresh.named_modules())
    for name, layer in layers.items():
        values = [*others[name].parameters(recurse=False), *others[name].buffers(recurse=False)]
        own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        for tensor, value in zip(own, values, strict=True):
            tensor.copy_(value)
