from collections.abc import Iterator
from typing import Annotated

import torch
from torch import Tensor

from salun.data.images import Batch, Images
from salun.unlearning import Around, PositiveFloat, PositiveInt, Task, TrainingConfig, method
from salun.unlearning.adversarial import nearest_adversarial


@method(training=TrainingConfig(batch_size=128, schedule="multistep"), forgets=False)
def amun(
    task: Task,
    *,
    epsilon: Annotated[PositiveFloat, Around(10)] = 0.04,
    pgd_steps: PositiveInt = 50,
    use_forget: bool = True,
    use_retain: bool = True,
) -> None:
    """Fine-tune with the nearest adversarial example of each forget image under the class it is mistaken for.

    The forget images themselves are trained on too, under their own labels: it lowers the confidence in them to that
    of unseen images, and does not take a class away.

    Args:
        task: what to unlearn.
        epochs: passes over the training set.
        epsilon: radius of the first ball that is searched, of pixels in [0, 1] in the L2 norm; it is doubled until
            an adversarial example is found.
        pgd_steps: of projected gradient ascent in each ball, a tenth of the radius long.
        use_forget: whether the forget images are trained on, under their own labels.
        use_retain: whether the retain images are.

    Equation:
        L = mean CE over forget, retain and adversarial set together, D_A = {(x_adv, y_adv)} with x_adv the first image
        on the way of PGD-50 from x that the base model takes for another class, y_adv that class.

    Deviations:
        The authors search learning rates 1e-5 to 0.1 and a division by ten every 1, 5 or 10 epochs; "multistep" has
        divisions at a half and three quarters. The search ends where the ball holds all images, or the budget is
        spent; an image without an adversarial example by then adds none, where the code would search for ever. A
        gradient too small to be squared is scaled first. Without both sets it trains on the adversarial examples
        alone, as the code's advonly does. Adversarial examples are not augmented, as in the code.

    Source:
        Ebrahimpour-Boroojeny, Sundaram and Chandrasekaran, "Not All Wrong is Bad: Using Adversarial Examples for
        Unlearning", ICML 2025, https://arxiv.org/abs/2503.00917, algorithm 1.
    """
    size = task.training.batch_size
    attacked = nearest_adversarial(task.model, task.forget, epsilon, pgd_steps, size, lambda: task.passes.left)
    adversarial = attacked.take((attacked.labels != task.forget.labels).nonzero().flatten())
    images = task.forget.take(torch.arange(len(task.forget) * use_forget))
    if use_retain:
        images = images.join(task.retain)

    task.fit(lambda epoch: _mixed(images, adversarial, size, task.generator))


def _mixed(images: Images, adversarial: Images, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Go once through images and adversarial examples, in one shuffled mix; only the images are augmented."""
    count = len(images)
    order = torch.randperm(count + len(adversarial), generator=generator, device=generator.device)
    if not len(order):
        return
    # Which of the two sets a place is of is known on the device alone, so every place is read from both, and from the
    # other one where a set is empty.
    first, second = images if count else adversarial, adversarial if len(adversarial) else images
    for at in order.to(images.device).split(batch_size):
        x, y = _read(first, at.clamp(max=max(count - 1, 0)), generator)
        plain, classes = _read(second, (at - count).clamp_min(0), None)
        own = at < count
        yield Batch(torch.where(own.view(-1, 1, 1, 1), x, plain), torch.where(own, y, classes), at)


def _read(images: Images, at: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Read images of a set, augmented where a generator is given: model input and labels."""
    pixels = images.pixels[images.rows[at.to(images.rows.device)]]
    return images.view(pixels.to(images.device, non_blocking=True), generator), images.labels[at]
