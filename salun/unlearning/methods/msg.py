from typing import Annotated

import torch
from torch import Tensor, nn

from salun.unlearning import Range, Share, Task, TrainingConfig, method
from salun.unlearning.gradients import Gradients, batch_gradients, scaled_gradients, zeros
from salun.unlearning.topk import select


@method(training=TrainingConfig(lr=1e-3, epochs=5, batch_size=64))
def msg(task: Task, *, share: Annotated[Share, Range(0.1, 0.9)] = 0.3, damping: Share = 0.1) -> None:
    """Re-initialise the convolution weights on which retain and forget images agree, then fine-tune (MSG).

    Agreed is a weight whose gradient is small: descent on retain images less descent on as many forget images. The
    others learn more slowly in the fine-tuning on the retain images. Of a transformer only the patch embedding is
    a convolution.

    Args:
        task: what to unlearn.
        epochs: passes over the retain set.
        batch_size: images a step, and a gradient.
        share: of each convolution's weights that is re-initialised, those of the smallest gradient.
        damping: factor on the gradient of the convolutions' other weights.

    Equation:
        g = sum over batches of grad CE(retain') - sum over batches of grad CE(forget), |retain'| = |forget|; in each
        convolution W_j ~ N(0, 2 / fan_out) for the share of j with the smallest |g_j|; then L = CE(retain), with
        damping * grad for the other j.

    Deviations:
        g is taken in evaluation mode; the code takes it as it finds the model. The code replaces the convolutions and
        so draws their biases anew, all of them; here they stay. There the learning rate rises and falls in equal steps
        over the epochs (at five: 1/3, 2/3, 1, 2/3, 1/3 of lr), which no `schedule` here does.

    Source:
        Cadet, Borovykh, Malekzadeh, Ahmadi-Abhari and Haddadi, "Deep Unlearn: Benchmarking Machine Unlearning for Image
        Classification", 2024, https://arxiv.org/abs/2410.01276, MSG, the second entry of the NeurIPS 2023 unlearning
        competition; settings of its code.
    """
    gradients = _contrast(task)
    convolutions = {
        f"{name}.weight".removeprefix("."): module.weight
        for name, module in task.model.named_modules()
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad
    }
    factors = []
    for name, weight in convolutions.items():
        (chosen,) = select([-gradients[name].abs()], round(share * weight.numel()))
        _renew(weight, chosen, task.generator)
        factors.append((weight, torch.where(chosen, 1.0, damping)))
    with scaled_gradients(factors):
        task.fit(lambda epoch: task.batches(task.retain))


def _contrast(task: Task) -> Gradients:
    """Sum the gradients of as many random retain as forget images, and take off those of the forget images."""
    order = torch.randperm(len(task.retain), generator=task.generator, device=task.generator.device)
    total = zeros(task.model)
    for images, sign in ((task.retain.take(order[: len(task.forget)]), 1), (task.forget, -1)):
        for gradients, _ in batch_gradients(task.model, images, task.training.batch_size):
            torch._foreach_add_([total[name] for name in gradients], list(gradients.values()), alpha=sign)
    return total


@torch.no_grad()
def _renew(weight: Tensor, chosen: Tensor, generator: torch.Generator) -> None:
    """Draw some weights of a convolution anew, in place."""
    empty = torch.empty(weight.shape, device=generator.device)
    fresh = nn.init.kaiming_normal_(empty, mode="fan_out", nonlinearity="relu", generator=generator)
    weight.copy_(torch.where(chosen, fresh.to(weight), weight))
