"""Task vectors: what fine-tuning on the forget images adds to the weights."""

from copy import deepcopy

import torch

from salun.unlearning.gradients import Gradients, trainable
from salun.unlearning.task import Task


def task_vector(task: Task, lr: float | None = None) -> Gradients:
    """Fine-tune the model on the forget images, under their own labels, and put it back as it was.

    Args:
        task: its `training` says how; its model is left with the weights, buffers and mask that it had.
        lr: learning rate; None for that of `training`.

    Returns:
        What each weight gained, by name.

    Raises:
        Diverged: the loss of an epoch is no number; the model is left as it is then.

    Source:
        Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, https://arxiv.org/abs/2212.04089, section 2.
    """
    before = deepcopy(task.model.state_dict())
    task.fit(lambda epoch: task.batches(task.forget), lr=lr)
    vector = {name: weight.detach() - before[name] for name, weight in trainable(task.model).items()}
    task.model.load_state_dict(before)
    return vector


@torch.no_grad()
def subtract(task: Task, vector: Gradients, scale: float) -> None:
    """Take a multiple of a task vector from the weights; buffers stay."""
    for name, weight in trainable(task.model).items():
        weight.sub_(vector[name], alpha=scale)
