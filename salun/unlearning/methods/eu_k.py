from typing import Annotated

from salun.unlearning import Around, PositiveInt, Task, TrainingConfig, method
from salun.unlearning.freezing import last_layers, training_only
from salun.unlearning.layers import reset_layers


@method(training=TrainingConfig())
def eu_k(task: Task, *, k: Annotated[PositiveInt, Around(10)] = 1) -> None:
    """Re-initialise the last k layers and train them on the retain images; all before them stays as it is.

    Args:
        task: what to unlearn.
        k: layers that are re-initialised and trained: the last ones with weights of two or more dimensions, and all
            that the model registers after the first of them, such as normalisations. All layers where there are
            no more.
        lr: learning rate.
        epochs: passes over the retain set.

    Equation:
        theta_last = theta_0, fresh; then L = CE(retain) over the weights of the last k layers.

    Deviations:
        The authors train as long as the base model, with warm restarts of the learning rate; defaults here are `ft`'s.
        Their code re-initialises convolutions and linear layers only; here the normalisations after the first of them
        too, running statistics included, which have seen the forget images as well. The running statistics of frozen
        normalisations move, as in the authors' code.

    Source:
        Goel, Prabhu, Sanyal, Lim, Torr and Kumaraguru, "Towards Adversarial Evaluations for Inexact Machine
        Unlearning", 2022, https://arxiv.org/abs/2201.06640, EU-k.
    """
    layers = last_layers(task.model, k)
    reset_layers(layers, task.fresh())
    with training_only(task.model, layers.values()):
        task.fit(lambda epoch: task.batches(task.retain))
