from salun.unlearning import Labels, Task, TrainingConfig, method


@method(training=TrainingConfig(lr=1e-4, epochs=3, optimizer="adam", weight_decay=0.0))
def amnesiac(task: Task, *, labels: Labels = "other") -> None:
    """Give each forget image one wrong label for good and train on forget and retain images, in one shuffled mix.

    Of `rl` it differs in that the labels are drawn once, and are always wrong.

    Args:
        task: what to unlearn.
        epochs: passes over forget and retain set.
        momentum: of SGD; the first beta of Adam.
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
    task.fit(lambda epoch: task.batches(mixed))
