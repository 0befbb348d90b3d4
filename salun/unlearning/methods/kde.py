from collections.abc import Iterator
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.unlearning import PositiveFloat, PositiveInt, Step, Task, TrainingConfig, method
from salun.unlearning.layers import first_layer, head_layers, reset_layers
from salun.unlearning.losses import distillation


@method(training=TrainingConfig(lr=0.02, epochs=3, batch_size=64, schedule="cosine"))
def kde(
    task: Task,
    *,
    warmup_lr: PositiveFloat = 0.1,
    warmup_epochs: PositiveInt = 3,
    temperature: PositiveFloat = 5.0,
) -> None:
    """Re-initialise the first and the last layer, and learn retain images from the base model and their labels (KDE).

    Args:
        task: what to unlearn.
        lr: learning rate after the warm-up.
        epochs: passes over the retain set after the warm-up.
        warmup_lr: learning rate of the warm-up, which is constant.
        warmup_epochs: passes of the warm-up over the retain set.
        temperature: of the predictions of both models.

    Equation:
        theta_first and theta_last are drawn anew; warm-up: L = KL(p_base || p) at temperature T; then L = CE(retain) +
        KL(p_base || p) + H(p_base, p), both at temperature T, H the cross-entropy, neither times T^2.

    Deviations:
        The entry warms up on the validation images. Here those are what tells how a model does on images that it was
        not trained on, so the warm-up is on the retain images. The layers' weights are those of a fresh model. The
        code's learning rates are 0.001 and, of the warm-up, 0.0009, which leave a model of a few thousand images
        damaged.

    Source:
        Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari and Haddadi, "Deep Unlearn: Benchmarking Machine Unlearning for Image
        Classification", 2024, https://arxiv.org/abs/2410.01276, KDE, the sixth entry of the NeurIPS 2023 unlearning
        competition; other settings of its code.
    """
    teacher = task.frozen()
    reset_layers(first_layer(task.model) | head_layers(task.model), (task.untrained or task.fresh)())

    def divergence(logits: Tensor, known: Tensor) -> Tensor:
        return distillation(logits, known, temperature) / temperature**2

    def warmup(logits: Tensor, batch: Batch) -> Tensor:
        return divergence(logits, task.logits(batch.x, teacher))

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        known = task.logits(batch.x, teacher)
        soft = F.cross_entropy(logits / temperature, F.softmax(known / temperature, 1))
        return F.cross_entropy(logits, batch.y) + divergence(logits, known) + soft

    def stream(epoch: int) -> Iterator[Step]:
        return (Step(batch, cost=3) for batch in task.batches(task.retain))

    with task.part() as first:
        first.training = replace(task.training, schedule="constant")
        first.fit(stream, lr=warmup_lr, epochs=warmup_epochs, loss=warmup)
    task.fit(stream, loss=loss)
