from typing import Annotated

from salun.unlearning import Around, PositiveInt, Task, TrainingConfig, method
from salun.unlearning.freezing import last_layers, training_only


@method(training=TrainingConfig(), forgets=False)
def cf_k(task: Task, *, k: Annotated[PositiveInt, Around(10)] = 1) -> None:
    """Fine-tune the last k layers on the retain images and rely on forgetting what is no longer seen.

    All layers before those keep what they know of the forget images, and a few epochs seldom wear off the rest: the
    method's own paper shows that it forgets little.

    Args:
        task: what to unlearn.
        k: layers that are trained: the last ones with weights of two or more dimensions, and all that the model
            registers after the first of them, such as normalisations. All layers where there are no more.
        lr: learning rate.
        epochs: passes over the retain set.

    Equation:
        L = CE(retain) over the weights of the last k layers.

    Deviations:
        The authors train as long as the base model, with warm restarts of the learning rate; defaults here are `ft`'s.
        The running statistics of frozen normalisations move, as in the authors' code.

    Source:
        Goel, Prabhu, Sanyal, Lim, Torr and Kumaraguru, "Towards Adversarial Evaluations for Inexact Machine
        Unlearning", 2022, https://arxiv.org/abs/2201.06640, CF-k.
    """
    with training_only(task.model, last_layers(task.model, k).values()):
        task.fit(lambda epoch: task.batches(task.retain))
