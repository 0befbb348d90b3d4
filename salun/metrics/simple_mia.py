"""The logistic membership attack of the unlearning challenge's starting kit."""

import numpy as np

from salun.metrics import Evaluation, Value, metric
from salun.metrics.matching import unseen
from salun.metrics.scores import evenly_spaced, losses
from salun.training.evaluate import Outputs

_SPLITS = 10
# The attack is asked of a tenth of the images, which must hold one of either kind.
_FEWEST = 10


def _logistic_attack(members: Outputs, others: Outputs) -> Value:
    """Learn to tell losses of N members from those of M others: mean accuracy on the held-back tenths."""
    from sklearn.linear_model import LogisticRegression  # only now, as scikit-learn takes long to import
    from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

    count = min(len(members.labels), len(others.labels))
    if count < _FEWEST:
        return None
    known = np.concatenate([losses(evenly_spaced(part, count)) for part in (members, others)]).astype(np.float64)
    if not np.isfinite(known).all():
        return None
    splits = StratifiedShuffleSplit(n_splits=_SPLITS, random_state=0)
    truth = np.repeat([1, 0], count)
    return float(cross_val_score(LogisticRegression(), known[:, None], truth, cv=splits, scoring="accuracy").mean())


@metric("simple_MIA", direction="as retrained", ideal="0.5", cost="attack", needs=("forget",))
def simple_attack(evaluation: Evaluation) -> Value:
    """Simple MIA: accuracy of a logistic regression on losses that tells forget images from unseen ones.

    Formula:
        simple_MIA = mean over 10 stratified splits of the accuracy on the held-back tenth of a logistic regression
        on -ln p_y, forget images (1) against as many test images (0), chosen evenly. Where classes are forgotten
        the test images are those of the forgotten classes: against others the attack would tell the classes.

    Cannot see:
        An image's own difficulty, and losses that are too large and too small by turns: the attack has one
        threshold. Its steps are coarse: a tenth of the images is asked at a time.

    Source:
        unlearning-challenge/starting-kit (NeurIPS 2023), `unlearning-CIFAR10.ipynb`.
    """
    return _logistic_attack(evaluation.forget, unseen(evaluation))
