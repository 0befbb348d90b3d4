from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.unlearning import PositiveFloat, Step, Task, TrainingConfig, method


@method(training=TrainingConfig(lr=4e-3, epochs=8, weight_decay=0.01))
def fcs(
    task: Task,
    *,
    uniform_lr: PositiveFloat = 5e-3,
    contrast_lr: PositiveFloat = 3e-4,
    temperature: PositiveFloat = 1.15,
) -> None:
    """Make forget images look like no class, contrast them with retain images, and strengthen these (FCS).

    Args:
        task: what to unlearn.
        lr: learning rate of the steps on retain images.
        epochs: rounds of contrast and passes over the retain set.
        weight_decay: of the steps on retain images; the others have none.
        batch_size: images a step, of each set.
        uniform_lr: learning rate of the one pass over the forget images at first.
        contrast_lr: learning rate of the contrast at first; a cosine takes it to zero.
        temperature: divides the similarities of the contrast.

    Equation:
        one pass with L = KL(uniform || p(forget)); then each epoch L = mean over i and j of -log softmax_j of
        f(x_i) f(r_j)^T / T over forget batches x beside retain batches r, whose logits f are held constant, and then
        L = CE(retain); each of the three has an optimiser of its own.

    Deviations:
        The contrast's learning rate falls once an epoch to zero, that of the entry every step to 1e-6. In the entry
        forget batches have 64 images, here all batches have the same size.

    Source:
        Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari and Haddadi, "Deep Unlearn: Benchmarking Machine Unlearning for Image
        Classification", 2024, https://arxiv.org/abs/2410.01276, FCS, the first entry of the NeurIPS 2023 unlearning
        competition; settings of its code.
    """
    quiet = replace(task.training, weight_decay=0.0, schedule="constant")
    with task.part() as first:
        first.training = quiet
        first.fit(lambda epoch: task.batches(task.forget), lr=uniform_lr, epochs=1, loss=_from_uniform)

    def contrast(logits: Tensor, batch: Batch, kept: Batch) -> Tensor:
        with torch.no_grad():
            others = task.logits(kept.x)
        return -F.log_softmax(logits @ others.T / temperature, 1).mean()

    def stream(epoch: int) -> Iterator[Batch | Step]:
        for batch, kept in zip(task.batches(task.forget), task.batches(task.retain), strict=False):
            yield Step(batch, partial(contrast, kept=kept), forgets=True, extra=len(kept.x))
        yield from task.batches(task.retain)

    task.fit(stream, forgetting=replace(quiet, lr=contrast_lr, schedule="cosine"))


def _from_uniform(logits: Tensor, batch: Batch) -> Tensor:
    """Compute how far equal probabilities are from the model's: KL(uniform || p), a mean over images."""
    wanted = torch.full_like(logits, 1 / logits.shape[1])
    return F.kl_div(F.log_softmax(logits, 1), wanted, reduction="batchmean")
