import torch
from torch import nn

from salun.unlearning import Task, TrainingConfig, method


@method(training=TrainingConfig(lr=0.05, epochs=3, batch_size=64, schedule="cosine"))
def ct(task: Task) -> None:
    """Transpose the kernels of all convolutions, height for width, and fine-tune on the retain images.

    A transformer has one convolution, the patch embedding, whose patches it then reads mirrored. Kernels of one pixel
    are their own transpose.

    Args:
        task: what to unlearn.
        epochs: passes over the retain set.

    Equation:
        W[o, i, h, w] <- W[o, i, w, h] in every convolution; then L = CE(retain).

    Deviations:
        Kernels that are not square stay as they are: transposed they would not fit their padding. The code's learning
        rate is 0.001, which leaves a model of a few thousand images damaged.

    Source:
        Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari and Haddadi, "Deep Unlearn: Benchmarking Machine Unlearning for Image
        Classification", 2024, https://arxiv.org/abs/2410.01276, CT, the fifth entry of the NeurIPS 2023 unlearning
        competition; other settings of its code.
    """
    with torch.no_grad():
        for module in task.model.modules():
            if isinstance(module, nn.Conv2d) and module.weight.shape[2] == module.weight.shape[3]:
                module.weight.copy_(module.weight.transpose(2, 3).clone())
    task.fit(lambda epoch: task.batches(task.retain))
