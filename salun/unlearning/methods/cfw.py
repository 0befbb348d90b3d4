from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.unlearning import NonNegativeFloat, Task, TrainingConfig, method
from salun.unlearning.layers import first_layer, matrices
from salun.unlearning.noise import add_noise, noise_source


@method(training=TrainingConfig(lr=7e-4, epochs=4, batch_size=64, schedule="cosine"))
def cfw(task: Task, *, first_std: NonNegativeFloat = 0.6, last_std: NonNegativeFloat = 0.005) -> None:
    """Confuse the first layer with noise, and fine-tune on the retain images, classes with more of them weaker (CFW).

    Args:
        task: what to unlearn.
        epochs: passes over the retain set.
        first_std: standard deviation of the noise at first.
        last_std: standard deviation of more noise before the last epoch, where there are two or more.

    Equation:
        W_1 <- W_1 + e, e ~ N(0, std^2), for the first convolution's weights; then L = mean over a batch of w_y times
        CE(retain), w_c = n / (C n_c) with n_c of the n retain images in class c, and C classes that have any.

    Deviations:
        The entry weighs its age classes by hand, 1 for the first and 0.05 for the others; the weights here are those of
        the benchmark's code. That counts the model's predictions, here it is the labels. It confuses convolutions that
        are direct children of the model, of a ResNet the first one; here it is the first one of any model.

    Source:
        Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari and Haddadi, "Deep Unlearn: Benchmarking Machine Unlearning for Image
        Classification", 2024, https://arxiv.org/abs/2410.01276, CFW, the third entry of the NeurIPS 2023 unlearning
        competition; settings of its code.
    """
    confused = [weight for layer in first_layer(task.model).values() for weight in matrices(layer)[:1]]
    source = noise_source(task)
    counts = torch.bincount(task.retain.labels, minlength=task.classes)
    weights = len(task.retain) / ((counts > 0).sum() * counts.clamp(min=1))
    add_noise(task, confused, first_std, source)

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(logits, batch.y) * weights[batch.y].mean()

    def stream(epoch: int) -> Iterator[Batch]:
        if 0 < epoch == task.training.epochs - 1:
            add_noise(task, confused, last_std, source)
        yield from task.batches(task.retain)

    task.fit(stream, loss=loss)
