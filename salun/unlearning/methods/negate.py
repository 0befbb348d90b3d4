import torch

from salun.unlearning import Task, TrainingConfig, method
from salun.unlearning.layers import first_layer, matrices


@method(training=TrainingConfig(), alias="not")
def negate(task: Task) -> None:
    """Turn the sign of the first layer's weights, which breaks what follows, and fine-tune on the retain images (NoT).

    In JSON its name may also be "not", which no function can have.

    Args:
        task: what to unlearn.
        epochs: passes over the retain set.

    Equation:
        theta_1 <- -theta_1 for the first layer's weights; then L = CE(retain).

    Deviations:
        The paper fine-tunes by federated averaging over clients; here in one place, with `ft`'s settings. Only the
        weights change their sign, not a bias beside them.

    Source:
        Khalil, Brunswic, Lamghari, Li, Beitollahi and Chen, "NoT: Federated Unlearning via Weight Negation",
        CVPR 2025, https://arxiv.org/abs/2503.05657.
    """
    with torch.no_grad():
        for layer in first_layer(task.model).values():
            matrices(layer)[0].neg_()
    task.fit(lambda epoch: task.batches(task.retain))
