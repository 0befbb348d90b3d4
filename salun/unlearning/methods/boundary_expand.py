import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salun.data.images import Batch
from salun.models.features import features_seen
from salun.training.evaluate import evaluating
from salun.unlearning import Task, TrainingConfig, method


@method(training=TrainingConfig(lr=1e-5, batch_size=64, weight_decay=0.0))
def boundary_expand(task: Task, *, freeze_norms: bool = False) -> None:
    """Move the forget images into an extra class, then take the extra class away.

    It sees forget images alone: of one class, they take batch normalisation's statistics along, which costs the other
    classes accuracy before the weights have learned; `freeze_norms` prevents that.

    Args:
        task: what to unlearn.
        epochs: passes over the forget set.
        weight_decay: L2 penalty, of the extra class's weights too.
        grad_clip: largest norm of the gradient, the extra class's counted in; None for no limit.
        freeze_norms: whether batch normalisation uses its running statistics and leaves them as they are.

    Equation:
        L = CE([f(x), w h(x) + b], K) over the forget set, for K classes, features h and an extra class w, b
        that is dropped after training. w starts with Xavier's normal distribution of a head of K + 1 classes, b at 0.

    Deviations:
        The extra class stands beside the model, not in its head: the same function, but no mask holds it, and
        weights that a mask holds keep their place. The copy of the method in SalUn's code starts w as a fresh
        torch layer and never takes the extra class away. `freeze_norms` is no option of either.

    Source:
        Chen, Gao, Liu, Peng and Wang, "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the
        Decision Boundary", CVPR 2023, https://arxiv.org/abs/2303.11570, Boundary Expanding.
    """
    with features_seen(task.model) as features:
        with evaluating(task.model), torch.no_grad():
            task.model(next(task.forget.batches(1)).x)
        extra = _extra_class(features().shape[1], task)

        def loss(logits: Tensor, batch: Batch) -> Tensor:
            widened = torch.cat([logits, extra(features())], 1)
            return F.cross_entropy(widened, torch.full_like(batch.y, logits.shape[1]))

        task.fit(
            lambda epoch: task.batches(task.forget),
            loss=loss,
            extra_parameters=extra.parameters(),
            freeze_norms=freeze_norms,
        )


def _extra_class(width: int, task: Task) -> nn.Linear:
    """Make the row of one more class."""
    deviation = (2 / (width + task.classes + 1)) ** 0.5
    drawn = torch.randn(1, width, generator=task.generator, device=task.generator.device)
    extra = nn.Linear(width, 1, device=task.forget.device)
    with torch.no_grad():
        extra.weight.copy_(deviation * drawn)
        extra.bias.zero_()
    return extra
