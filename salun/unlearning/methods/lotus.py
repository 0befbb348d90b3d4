from collections.abc import Iterator
from math import exp

import torch
import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.errors import SalunError
from salun.training.evaluate import accuracy, predict
from salun.unlearning import NonNegativeFloat, Share, Step, Task, TrainingConfig, method

_ENOUGH = 0.01
_LARGEST_EXPONENT = 700.0


@method(training=TrainingConfig(lr=1e-4, batch_size=128, optimizer="adamw"))
def lotus(
    task: Task, *, alpha: NonNegativeFloat = 8.0, retain_share: Share = 0.3, target_accuracy: Share | None = None
) -> None:
    """Learn from the base model's own predictions, softened on forget images until they are as unsure as unseen ones.

    Args:
        task: what to unlearn.
        epochs: passes over the mix of forget and retain images, at most.
        alpha: how fast the temperature rises with the forget accuracy; the authors take 8 for random images of
            CIFAR-10, 2 for those of other data, and 32 for classes.
        retain_share: share of the retain set that is in the mix, drawn once.
        target_accuracy: on the forget images, below which, by more than 0.01, no epoch begins; None for 0 where whole
            classes are forgotten, else for the base model's accuracy on validation images.
        optimizer: "sgd", "adam" or "adamw".
        momentum: of SGD; the first beta of Adam.

    Equation:
        L = -mean of sum over classes of q log p, q = softmax((z_base + g) / T) for forget images and the one-hot
        argmax(z_base + g) for retain images, g standard Gumbel noise drawn anew each step,
        T = exp(alpha * (accuracy on forget - target accuracy)), set before each epoch.

    Deviations:
        None from the code: the paper lets the temperature of retain images go to zero, where its code takes the same
        argmax with noise. The code begins no epoch once the forget accuracy is 0.01 or more below the target.

    Source:
        Spartalis, Semertzidis, Gavves and Daras, "LoTUS: Large-Scale Machine Unlearning with a Taste of Uncertainty",
        CVPR 2025, https://arxiv.org/abs/2503.18314; settings of the authors' commands for ResNet-18 on CIFAR-10.
    """
    target = _accuracy_of_unseen(task) if target_accuracy is None else target_accuracy
    teacher, generator = task.frozen(), task.generator
    drawn = torch.randperm(len(task.retain), generator=generator, device=generator.device)
    mixed = task.forget.join(task.retain.take(drawn[: int(retain_share * len(drawn))]))
    temperature = 1.0

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        noise = torch.empty(logits.shape, device=generator.device).exponential_(generator=generator).log()
        known = task.logits(batch.x, teacher) - noise.to(logits.device)
        sampled = torch.zeros_like(known).scatter_(1, known.argmax(1, keepdim=True), 1)
        forgets = batch.at < len(task.forget)
        return F.cross_entropy(logits, torch.where(forgets[:, None], F.softmax(known / temperature, 1), sampled))

    def stream(epoch: int) -> Iterator[Step]:
        nonlocal temperature
        if len(task.forget) > task.passes.left:
            return
        excess = accuracy(predict(task.model, task.forget)) - target
        if excess <= -_ENOUGH:
            return
        temperature = exp(min(alpha * excess, _LARGEST_EXPONENT))
        yield from (Step(batch, cost=3) for batch in task.batches(mixed))

    task.fit(stream, loss=loss)


def _accuracy_of_unseen(task: Task) -> float:
    """Tell the accuracy on the forget images of a model that never saw them."""
    if task.forgotten:
        return 0.0
    if not len(task.validation):
        raise SalunError("method 'lotus': target_accuracy: there are no validation images; give them, or a number")
    return accuracy(predict(task.model, task.validation))
