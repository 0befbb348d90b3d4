from collections.abc import Iterator
from typing import Annotated

import torch
from torch import Tensor

from salun.data.images import Batch
from salun.unlearning import Around, PositiveFloat, PositiveInt, Step, Task, TrainingConfig, method


@method(training=TrainingConfig(lr=3e-4, epochs=1, batch_size=128, momentum=0.0, weight_decay=0.0))
def jit(task: Task, *, sigma: Annotated[PositiveFloat, Around(5)] = 0.5, samples: PositiveInt = 25) -> None:
    """Just in time: smooth the model's output around the forget images, until it says the same of them and of noise.

    It sees forget images alone, and no label. The authors publish settings for a VGG and a ViT: the loss is a sum
    over the batch's images, so the learning rate goes with the batch size.

    Args:
        task: what to unlearn.
        lr: learning rate, eta of the paper.
        epochs: passes over the forget set.
        sigma: standard deviation of the noise on the model's input; the authors take 0.5 to forget a class and 0.01
            for random images.
        samples: noisy copies of each image a step, N of the paper.
        momentum: of SGD.

    Equation:
        L = sum over a batch of mean over N of ||f(x) - f(x + e)|| / ||e||, e ~ N(0, sigma^2), x + e clipped to the
        batch's range; the gradient goes through f(x) alone.

    Deviations:
        The paper takes the gradient of the whole ratio; its code, which is followed, that of the clean image's output
        alone. The model stays in evaluation mode, so that both outputs are of the same function: the authors'
        networks have no BatchNorm, which in training mode would give image and noise statistics of their own and
        move its running ones to the forget images; their VGG's dropout does draw.

    Source:
        Foster, Fogarty, Schoepf, Öztireli and Brintrup, "Zero-Shot Machine Unlearning at Scale via Lipschitz
        Regularization", 2024, https://arxiv.org/abs/2402.01401.
    """

    def stream(epoch: int) -> Iterator[Step]:
        for batch in task.forget.batches(task.training.batch_size):
            task.model.eval()
            yield Step(batch, cost=2 + samples)

    def slope(logits: Tensor, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=task.generator, device=task.generator.device).to(x.device)
        other = (x + sigma * noise).clamp_(x.min(), x.max())
        with torch.no_grad():
            elsewhere = task.logits(other)
        step = torch.linalg.vector_norm((other - x).flatten(1), dim=1)
        slopes: Tensor = torch.linalg.vector_norm(logits - elsewhere, dim=1) / step.clamp_min(1e-12)
        return slopes.sum()

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        return torch.stack([slope(logits, batch.x) for _ in range(samples)]).mean()

    task.fit(stream, loss=loss)
