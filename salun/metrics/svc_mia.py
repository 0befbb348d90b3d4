"""The SVC membership attack of the SalUn protocol."""

import numpy as np
from sklearn.svm import SVC

from salun.metrics import Evaluation, Value, metric
from salun.training import Outputs


def true_confidence(outputs: Outputs) -> np.ndarray:
    """Compute the probability that a model gives to the true class.

    Args:
        outputs: logits (N, C) and labels (N,).

    Returns:
        (N, 1) float32 in [0, 1].
    """
    probabilities = outputs.logits.softmax(1)
    return probabilities.gather(1, outputs.labels[:, None]).numpy()


def called_non_member(members: np.ndarray, non_members: np.ndarray, target: np.ndarray) -> float:
    """Train the attack on known members and non-members, and ask it of the target.

    Args:
        members: (N, D) features of images that were trained on.
        non_members: (M, D) features of images that were not.
        target: (K, D) features of the forget set.

    Returns:
        The share of the target that is called non-member, in [0, 1].
    """
    attack = SVC(C=3, kernel="rbf", gamma="auto")
    known = np.concatenate([np.ones(len(members)), np.zeros(len(non_members))])
    attack.fit(np.concatenate([members, non_members]), known)
    return float(1 - attack.predict(target).mean())


@metric("MIA")
def svc_confidence(evaluation: Evaluation) -> Value:
    """MIA efficacy: share of forget images that an SVC on the true class's probability calls non-member.

    Members are the first images of the retain set, as many as the test set holds; non-members are
    the test set. Where the retain set is smaller, the first test images are taken, as many.

    Args:
        evaluation: a model's outputs.

    Returns:
        A fraction in [0, 1]; good when it equals the retrained model's. None where a set is empty.

    Source:
        Fan et al., "SalUn", ICLR 2024, appendix C.3, with the settings of its code
        (`evaluation/SVC_MIA.py`): C = 3, RBF kernel, gamma 1 / number of features.
    """
    members, non_members = true_confidence(evaluation.retain), true_confidence(evaluation.test)
    count = min(len(members), len(non_members))
    if not count or not len(evaluation.forget.labels):
        return None
    return called_non_member(members[:count], non_members[:count], true_confidence(evaluation.forget))
