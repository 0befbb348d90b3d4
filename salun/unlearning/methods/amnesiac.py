from salun.unlearning import (
    Labels,
    Momentum,
    NonNegativeFloat,
    OptimizerName,
    PositiveFloat,
    PositiveInt,
    Schedule,
    Task,
    method,
)


@method()
def amnesiac(
    task: Task,
    *,
    lr: PositiveFloat = 1e-4,
    epochs: PositiveInt = 3,
    batch_size: PositiveInt = 256,
    optimizer: OptimizerName = "adam",
    momentum: Momentum = 0.9,
    weight_decay: NonNegativeFloat = 0.0,
    grad_clip: PositiveFloat | None = None,
    schedule: Schedule = "constant",
    labels: Labels = "other",
) -> None:
    """Give each forget image one wrong label for good and train on forget and retain images, in one shuffled mix.

    Of `rl` it differs in that the labels are drawn once, and are always wrong.

    Args:
        task: what to unlearn.
        lr: learning rate.
        epochs: passes over forget and retain set.
        batch_size: images a step.
        optimizer: "sgd", "adam" or "adamw".
        momentum: of SGD; the first beta of Adam.
        weight_decay: L2 penalty.
        grad_clip: largest norm of the gradient; None for no limit.
        schedule: of the learning rate.
        labels: which labels a forget image may get: "any", "other" than its own, or of the
            "remaining" classes.

    Equation:
        L = mean over forget and retain together of CE(x, y'), y' of a forget image drawn once from the classes
        other than y.

    Deviations:
        This is the paper's relabelling, which the literature calls amnesiac; the other method of the paper takes back
        the recorded updates of the batches with forget images, and needs a log of the base model's training. Learning
        rate, epochs and batch size are those of Chundawat et al., https://arxiv.org/abs/2205.08096; the authors' own
        code uses batches of 64. Where several classes are forgotten, a label may be another one of them ("other");
        "remaining" excludes that.

    Source:
        Graves, Nagisetty and Ganesh, "Amnesiac Machine Learning", AAAI 2021, https://arxiv.org/abs/2010.10981, its
        unlearning by relabelled data.
    """
    mixed = task.forget.relabel(task.random_labels(labels)).join(task.retain)
    task.fit(
        lambda epoch: mixed.batches(batch_size, task.generator),
        epochs=epochs,
        lr=lr,
        optimizer=optimizer,
        momentum=momentum,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
        schedule=schedule,
    )
