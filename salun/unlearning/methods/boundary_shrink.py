from typing import Annotated

from salun.unlearning import Around, PositiveFloat, Task, TrainingConfig, method
from salun.unlearning.adversarial import fgsm


@method(training=TrainingConfig(lr=1e-5, batch_size=64, weight_decay=0.0))
def boundary_shrink(
    task: Task, *, bound: Annotated[PositiveFloat, Around(5)] = 0.1, freeze_norms: bool = False
) -> None:
    """Give each forget image the class across the nearest decision boundary, and fine-tune on that.

    The boundary is looked for by one step of the fast gradient sign method from the image, on the base model. It sees
    forget images alone: of one class, they take batch normalisation's statistics along, which costs the other classes
    accuracy before the weights have learned; `freeze_norms` prevents that.

    Args:
        task: what to unlearn.
        epochs: passes over the forget set.
        bound: length of the search step in each pixel, of pixels in [0, 1].
        freeze_norms: whether batch normalisation uses its running statistics and leaves them as they are.

    Equation:
        L = CE(f(x), y') over the forget set, y' = argmax f0(round_255(clip(x + bound * sign(grad_x CE(f0(x), y)))))
        for the base model f0.

    Deviations:
        The paper names y' the nearest incorrect class; as in its code the true class is not excluded, so an image
        that one step leads across no boundary keeps its label. The class is found once, from the image as it is;
        the code looks again in every epoch, from the image as it was cropped and flipped. Curvature
        regularisation and reweighting, the code's options, are left out; `freeze_norms` is no option of it.

    Source:
        Chen, Gao, Liu, Peng and Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the
        Decision Boundary", CVPR 2023, https://arxiv.org/abs/2303.11570, Boundary Shrink.
    """
    shrunk = task.forget.relabel(fgsm(task.model, task.forget, bound, task.training.batch_size).labels)
    task.fit(lambda epoch: task.batches(shrunk), freeze_norms=freeze_norms)
