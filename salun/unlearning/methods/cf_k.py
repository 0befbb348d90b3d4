from salun.unlearning import Momentum, NonNegativeFloat, PositiveFloat, PositiveInt, Schedule, Task, method
from salun.unlearning.freezing import last_layers, training_only


@method(forgets=False)
def cf_k(
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
    """Fine-tune the last k layers on the retain images and rely on forgetting what is no longer seen.

    All layers before those keep what they know of the forget images, and a few epochs seldom wear off the rest: the
    method's own paper shows that it forgets little.

    Args:
        task: what to unlearn.
        k: layers that are trained: the last ones with weights of two or more dimensions, and all that the model
            registers after the first of them, such as normalisations. All layers where there are no more.
        lr: learning rate.
        epochs: passes over the retain set.
        batch_size: images a step.
        momentum: of SGD.
        weight_decay: L2 penalty.
        grad_clip: largest norm of the gradient; None for no limit.
        schedule: of the learning rate.

    Equation:
        L = CE(retain) over the weights of the last k layers.

    Deviations:
        The authors train as long as the base model, with warm restarts of the learning rate; defaults here are `ft`'s.
        The running statistics of frozen normalisations move, as in the authors' code.

    Source:
        Goel, Prabhu, Sanyal, Lim, Torr and Kumaraguru, "Towards Adversarial Evaluations for Inexact Machine
        Unlearning", 2022, https://arxiv.org/abs/2201.06640, CF-k.
    """
    with training_only(task.model, last_layers(task.model, k).values()):
        task.fit(
            lambda epoch: task.retain.batches(batch_size, task.generator),
            epochs=epochs,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            grad_clip=grad_clip,
            schedule=schedule,
        )
