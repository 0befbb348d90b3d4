from collections.abc import Iterator

from salun.data.images import Batch
from salun.unlearning import Labels, Task, TrainingConfig, method


@method(training=TrainingConfig(lr=0.013))
def rl(task: Task, *, labels: Labels = "any") -> None:
    """Random labels in one go: train on one shuffled mix of relabelled forget images and retain images.

    The labels are drawn anew each epoch. With the saliency mask this is SalUn as its code runs it on
    CIFAR-100.

    Args:
        task: what to unlearn.
        epochs: passes over forget and retain set.
        labels: which labels a forget image may get: "any", "other" than its own, or of the
            "remaining" classes.

    Equation:
        L = mean over forget and retain together of CE(x, y'), y' drawn at random for forget images.

    Deviations:
        The paper's equation 5 draws a label other than the true one, as `labels` "other" does; its code draws "any".

    Source:
        Golatkar, Achille and Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020,
        https://arxiv.org/abs/1911.04933; Fan, Liu, Zhang, Wong, Wei and Liu, "SalUn: Empowering Machine Unlearning
        via Gradient-based Weight Saliency in Both Image Classification and Generation", ICLR 2024,
        https://arxiv.org/abs/2310.12508, equation 5.
    """

    def stream(epoch: int) -> Iterator[Batch]:
        relabelled = task.forget.relabel(task.random_labels(labels))
        return relabelled.join(task.retain).batches(task.training.batch_size, task.generator)

    task.fit(stream)
