from salun.unlearning import Momentum, NonNegativeFloat, PositiveFloat, PositiveInt, Schedule, Task, method


@method(forgets=False)
def ft(
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
    """Fine-tune on the retain images and rely on forgetting what is no longer seen.

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
        L = CE(retain).

    Deviations:
        None from the baseline of the SalUn paper.

    Source:
        Warnecke, Pirch, Wressnegger and Rieck, "Machine Unlearning of Features and Labels", NDSS 2023,
        https://arxiv.org/abs/2108.11577; settings of Fan et al., https://arxiv.org/abs/2310.12508.
    """
    task.fit(
        lambda epoch: task.retain.batches(batch_size, task.generator),
        epochs=epochs,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
        schedule=schedule,
    )
