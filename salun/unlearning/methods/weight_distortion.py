from salun.unlearning import PositiveFloat, Task, TrainingConfig, method
from salun.unlearning.gradients import trainable
from salun.unlearning.noise import add_noise, noise_source


@method(training=TrainingConfig(lr=1e-5, epochs=100, batch_size=128, optimizer="adam", weight_decay=0.0))
def weight_distortion(task: Task, *, std: PositiveFloat = 0.02) -> None:
    """Add Gaussian noise to all weights, then fine-tune on the retain images.

    The noise takes the model away from the base model in weight space, so that relearning does not find the way back.

    Args:
        task: what to unlearn.
        epochs: passes over the retain set.
        std: standard deviation of the noise.
        optimizer: "sgd", "adam" or "adamw".
        momentum: of SGD; the first beta of Adam.

    Equation:
        theta <- theta + e, e ~ N(0, std^2 I); then L = CE(retain).

    Deviations:
        The code takes as many steps as 100 epochs over all training images have; here it is epochs of the retain set.
        It calls for a smaller learning rate than other fine-tuning, as its base model was trained by Adam at 1e-4.

    Source:
        Siddiqui, Weller, Krueger, Dziugaite, Mozer and Triantafillou, "From Dormant to Deleted: Tamper-Resistant
        Unlearning Through Weight-Space Regularization", 2025, https://arxiv.org/abs/2505.22310, Weight Distortion;
        settings of its code.
    """
    add_noise(task, trainable(task.model).values(), std, noise_source(task))
    task.fit(lambda epoch: task.batches(task.retain))
