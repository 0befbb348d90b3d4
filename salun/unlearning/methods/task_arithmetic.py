from salun.unlearning import PositiveFloat, Task, TrainingConfig, method
from salun.unlearning.task_vectors import subtract, task_vector


@method(
    training=TrainingConfig(
        lr=1e-5, batch_size=128, optimizer="adamw", weight_decay=0.1, grad_clip=1.0, schedule="cosine"
    )
)
def task_arithmetic(task: Task, *, scale: PositiveFloat = 1.0) -> None:
    """Fine-tune on the forget images and go from the base model as far the other way.

    It needs no retain image.

    Args:
        task: what to unlearn.
        epochs: passes over the forget set.
        scale: how far to go, in units of what fine-tuning changed; the authors search from 0.05 to 1 on validation
            images.
        optimizer: "sgd", "adam" or "adamw".
        momentum: of SGD; the first beta of Adam.

    Equation:
        w <- w - scale * (w_ft - w), w_ft from w by training on CE(forget).

    Deviations:
        The authors take `scale` from validation images, the one of least accuracy on the task to forget that keeps 95 %
        of the control accuracy; here it is a setting. They edit CLIP, whose classes are texts and stay; here all
        weights move, the last layer's too, and the running statistics of batch normalisation stay. Settings are
        those for CLIP without the warm-up, and epochs in the place of 2,000 steps; for a classifier that was trained
        from scratch on few images, the rate is to be searched upwards.

    Source:
        Ilharco, Ribeiro, Wortsman, Gururangan, Schmidt, Hajishirzi and Farhadi, "Editing Models with Task
        Arithmetic", ICLR 2023, https://arxiv.org/abs/2212.04089, section 3.
    """
    subtract(task, task_vector(task), scale)
