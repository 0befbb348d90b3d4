from collections.abc import Iterator
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from salun.data.images import Batch
from salun.models.features import features_seen
from salun.training.evaluate import accuracy, predict
from salun.unlearning import (
    Around,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Share,
    Step,
    Task,
    TrainingConfig,
    method,
)
from salun.unlearning.class_features import accuracy_sought, against_retain, class_batches, targets


@method(training=TrainingConfig(lr=1e-3, batch_size=1024, optimizer="adam", weight_decay=0.0))
def duck(
    task: Task,
    *,
    lambda_1: Annotated[NonNegativeFloat, Around(5)] = 1.0,
    lambda_2: NonNegativeFloat = 1.4,
    temperature: PositiveFloat = 2.0,
    retain_steps: PositiveInt = 41,
    target_accuracy: Share | None = None,
) -> None:
    """Pull the features of forget images to the nearest centroid of another class, while training on retain images.

    Args:
        task: what to unlearn.
        epochs: passes over the forget set, at most.
        batch_size: forget images a step, and as many retain images.
        lambda_1: weight of the pull.
        lambda_2: weight of the cross-entropy on retain images.
        temperature: divides the logits of retain images.
        retain_steps: steps on one forget batch, at most, each with another retain batch.
        target_accuracy: on the forget images, below which an epoch is the last; None for 0.01 where whole classes
            are forgotten, else for the base model's accuracy on validation images.
        optimizer: "sgd", "adam" or "adamw".
        momentum: of SGD; the first beta of Adam.

    Equation:
        L = lambda_1 * mean over forget of (1 - cos(f(x), c_j(x))) + lambda_2 * CE(retain, logits / T); c_j the mean
        feature of the retain images of class j, j(x) the nearest to x of the classes other than its own.

    Deviations:
        Centroids are of all retain images and targets of the base model in evaluation mode; the code takes centroids
        of 50 augmented batches and targets from the first epoch's training, and by their batch, so that a shuffled
        forget set mixes them up. The code ends random forgetting at the accuracy on test images, which no method sees
        here: validation images. The code's second phase, two epochs with a tenth of the pull, is not in the paper and
        left out. Settings are those of the authors' CIFAR-10 command; a retain batch comes in `retain_steps` at most
        once.

    Source:
        Cotogni, Bonato, Sabetta, Pelosin and Nicolosi, "DUCK: Distance-based Unlearning via Centroid Kinematics",
        2023, https://arxiv.org/abs/2312.02052, section "Method".
    """
    goal = accuracy_sought(task) if target_accuracy is None else target_accuracy
    centroids, present = _class_centroids(task)
    target = F.normalize(centroids, dim=1)
    nearest = targets(task, lambda features: 1 - F.normalize(features, dim=1) @ target.T, present)

    with features_seen(task.model) as features:

        def loss(logits: Tensor, batch: Batch, kept: Batch) -> Tensor:
            pull = 1 - (F.normalize(features(), dim=1) * target[nearest[batch.at]]).sum(1).mean()
            return lambda_1 * pull + lambda_2 * F.cross_entropy(task.logits(kept.x) / temperature, kept.y)

        def stream(epoch: int) -> Iterator[Step]:
            affordable = len(task.forget) <= task.passes.left
            if epoch and affordable and accuracy(predict(task.model, task.forget)) < goal:
                return
            for batch, kept in against_retain(task, retain_steps):
                yield Step(batch, partial(loss, kept=kept), extra=2 * len(kept.x))

        task.fit(stream)


def _class_centroids(task: Task) -> tuple[Tensor, Tensor]:
    """Average the features of the retain images of each class: (C, D), and (C,) whether there are any."""
    means = {}
    for label, count, batches in class_batches(task):
        means[label] = torch.stack([features.sum(0) for features in batches]).sum(0) / count
    nothing = torch.zeros_like(next(iter(means.values())))
    found = torch.stack([means.get(label, nothing) for label in range(task.classes)])
    return found, torch.tensor([label in means for label in range(task.classes)], device=found.device)
