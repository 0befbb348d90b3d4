from collections.abc import Iterator
from typing import Annotated

import torch
from torch import Tensor

from salun.data.images import Batch
from salun.unlearning import PositiveFloat, Range, Share, Step, Task, TrainingConfig, method
from salun.unlearning.losses import distillation


@method(training=TrainingConfig(lr=1e-4, epochs=1, optimizer="adam", weight_decay=0.0))
def bad_teacher(
    task: Task, *, retain_share: Annotated[Share, Range(0.1, 1.0)] = 0.3, temperature: PositiveFloat = 1.0
) -> None:
    """Learn forget images from an untrained teacher and retain images from the base model, in one shuffled mix.

    Args:
        task: what to unlearn.
        epochs: passes over the mix.
        retain_share: share of the retain set that is in the mix, drawn once.
        temperature: of both teachers' and the model's predictions.
        optimizer: "sgd", "adam" or "adamw".
        momentum: of SGD; the first beta of Adam.

    Equation:
        L = mean over images and classes of KL's terms p_t * (ln p_t - ln p), all at temperature T; t is the untrained
        teacher for forget images, the base model for retain images.

    Deviations:
        The paper's equation sums over classes; its code, whose values this has, averages over them too, so that the
        loss is 1/classes of the usual one. Adam takes the same steps either way; under SGD, multiply the learning
        rate by the number of classes.

    Source:
        Chundawat, Tarun, Mandal and Kankanhalli, "Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks
        Using an Incompetent Teacher", AAAI 2023, https://arxiv.org/abs/2205.08096, section "Proposed Method".
    """
    competent, incompetent = task.frozen(), task.random_teacher()
    generator = task.generator
    drawn = torch.randperm(len(task.retain), generator=generator, device=generator.device)
    mixed = task.forget.join(task.retain.take(drawn[: int(retain_share * len(drawn))]))

    def stream(epoch: int) -> Iterator[Step]:
        return (Step(batch, cost=4) for batch in task.batches(mixed))

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        forgets = batch.at < len(task.forget)
        known, unknown = (task.logits(batch.x, teacher) for teacher in (competent, incompetent))
        teacher = torch.where(forgets[:, None], unknown, known)
        return distillation(logits, teacher, temperature) / (temperature**2 * logits.shape[1])

    task.fit(stream, loss=loss)
