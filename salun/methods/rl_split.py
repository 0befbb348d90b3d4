from collections.abc import Iterator

from salun.data.images import Batch
from salun.unlearning import Labels, Momentum, NonNegativeFloat, PositiveFloat, PositiveInt, Schedule, Task, method


@method()
def rl_split(
    task: Task,
    *,
    lr: PositiveFloat = 0.013,
    epochs: PositiveInt = 10,
    batch_size: PositiveInt = 256,
    momentum: Momentum = 0.9,
    weight_decay: NonNegativeFloat = 5e-4,
    grad_clip: PositiveFloat | None = None,
    schedule: Schedule = "constant",
    labels: Labels = "any",
) -> None:
    """Random labels in two phases: each epoch all forget batches, relabelled, then all retain batches.

    Each forget batch gets fresh labels. With the saliency mask this is SalUn as published for
    CIFAR-10 and SVHN.

    Args:
        task: what to unlearn.
        lr: learning rate.
        epochs: passes over forget and retain set.
        batch_size: images a step.
        momentum: of SGD.
        weight_decay: L2 penalty.
        grad_clip: largest norm of the gradient; None for no limit.
        schedule: of the learning rate.
        labels: which labels a forget image may get: "any", "other" than its own, or of the
            "remaining" classes.

    Source:
        Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency", ICLR
        2024, arXiv 2310.12508, equation 5, in the order of its code.
    """

    def stream(epoch: int) -> Iterator[Batch]:
        relabelled = task.forget.relabel(task.random_labels(labels))
        yield from relabelled.batches(batch_size, task.generator)
        yield from task.retain.batches(batch_size, task.generator)

    task.fit(
        stream,
        epochs=epochs,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
        schedule=schedule,
    )
