from collections.abc import Iterator

from salun.data.images import Batch
from salun.unlearning import Dual, Labels, Step, Task, TrainingConfig, method


@method(training=TrainingConfig(lr=0.013))
def rl_split(task: Task, *, labels: Labels = "any", dual: Dual = False) -> None:
    """Random labels in two phases: each epoch all forget batches, relabelled, then all retain batches.

    Each forget batch gets fresh labels. With the saliency mask this is SalUn as published for
    CIFAR-10 and SVHN.

    Args:
        task: what to unlearn.
        epochs: passes over forget and retain set.
        labels: which labels a forget image may get: "any", "other" than its own, or of the
            "remaining" classes.
        dual: whether AdamW, at this learning rate or at 1e-4 for true, takes the forget batches.

    Equation:
        each epoch L = CE(forget, y') over all forget batches, y' drawn at random, then L = CE(retain).

    Deviations:
        The paper's equation 5 draws a label other than the true one, as `labels` "other" does; its code, whose order
        this is, draws "any".

    Source:
        Fan, Liu, Zhang, Wong, Wei and Liu, "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency
        in Both Image Classification and Generation", ICLR 2024, https://arxiv.org/abs/2310.12508, equation 5;
        `dual` is DualOptim's, https://arxiv.org/abs/2504.15827.
    """

    def stream(epoch: int) -> Iterator[Batch | Step]:
        relabelled = task.forget.relabel(task.random_labels(labels))
        yield from (Step(batch, forgets=True) for batch in task.batches(relabelled))
        yield from task.batches(task.retain)

    task.fit(stream, dual=dual)
