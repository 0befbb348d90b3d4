"""The random-forest membership attack on losses."""

from itertools import product

import numpy as np
import torch.nn.functional as F
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score

from salun.metrics import Evaluation, Value, metric
from salun.training import Outputs

TREES = (20, 50, 100)
CRITERIA = ("gini", "entropy")
FOLDS = 3


def losses(outputs: Outputs) -> np.ndarray:
    """Compute the cross-entropy of each image.

    Args:
        outputs: logits (N, C) and labels (N,).

    Returns:
        (N,) float32, in nats.
    """
    return F.cross_entropy(outputs.logits, outputs.labels, reduction="none").numpy()


def forests() -> list[RandomForestClassifier]:
    """List the attacks that are tried: 20, 50 and 100 trees, each with both criteria.

    Returns:
        Six untrained forests, seeded.
    """
    return [
        RandomForestClassifier(n_estimators=trees, criterion=criterion, random_state=0)
        for trees, criterion in product(TREES, CRITERIA)
    ]


def score(forest: RandomForestClassifier, forget: np.ndarray, test: np.ndarray) -> tuple[float, float]:
    """Ask a trained forest of the forget set.

    Args:
        forest: predicts 1 for member.
        forget: (N,) losses of the forget set.
        test: (M,) losses of the test set.

    Returns:
        The share of the forget set called non-member, and the area under the ROC curve of forget
        (positive) against test by the predicted probability of member.
    """
    asked = np.concatenate([forget, test])[:, None]
    truth = np.concatenate([np.ones(len(forget)), np.zeros(len(test))])
    called = float(1 - forest.predict(forget[:, None]).mean())
    return called, float(roc_auc_score(truth, forest.predict_proba(asked)[:, 1]))


def balanced(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take as many members as non-members, evenly spaced over each set.

    Args:
        members: (N,) losses.
        others: (M,) losses.

    Returns:
        (2K, 1) losses and (2K,) labels, 1 for member, with K = min(N, M).
    """
    count = min(len(members), len(others))
    taken = [values[np.linspace(0, len(values) - 1, count).astype(int)] for values in (members, others)]
    return np.concatenate(taken)[:, None], np.repeat([1, 0], count)


@metric("forest_acc", "forest_auc")
def loss_forest(evaluation: Evaluation) -> tuple[Value, Value]:
    """Loss-forest MIA: share of forget images called non-member, and AUC of forget against test.

    A forest on each image's loss learns to tell retain images (1) from as many validation images
    (0). Of six forests the one with the best accuracy in 3-fold cross-validation on those is asked;
    the forget set has no say.

    Args:
        evaluation: a model's outputs.

    Returns:
        forest_acc in [0, 1], good when it equals the retrained model's; forest_auc in [0, 1], good
        at 0.5. None where forget or test set is empty, or retain or validation set all but empty.

    Source:
        The SalUn DeepDive project's `compute_basic_mia`, which feeds batch means, leaves the classes
        unbalanced, and keeps the forest that scores best on the forget set (`seed_loss_forest`).
    """
    known_least = min(len(evaluation.retain.labels), len(evaluation.validation.labels))
    if known_least < FOLDS or not len(evaluation.forget.labels) or not len(evaluation.test.labels):
        return None, None
    known, truth = balanced(losses(evaluation.retain), losses(evaluation.validation))
    best = max(forests(), key=lambda forest: cross_val_score(forest, known, truth, cv=FOLDS).mean())
    return score(best.fit(known, truth), losses(evaluation.forget), losses(evaluation.test))


@metric("seed_forest_acc", "seed_forest_auc", default=False)
def seed_form(evaluation: Evaluation) -> tuple[Value, Value]:
    """Loss-forest MIA as the seed system chooses it: the forest that flatters the forget set most.

    Args:
        evaluation: a model's outputs.

    Returns:
        acc and auc in [0, 1], for comparison with figures found so. None where a set is empty.

    Source:
        `seed_loss_forest`, on per-image losses.
    """
    sets = (evaluation.retain, evaluation.forget, evaluation.validation, evaluation.test)
    if not all(len(outputs.labels) for outputs in sets):
        return None, None
    return seed_loss_forest(*map(losses, sets))


def seed_loss_forest(
    retain: np.ndarray, forget: np.ndarray, validation: np.ndarray, test: np.ndarray
) -> tuple[float, float]:
    """Attack as the seed system does, choosing the forest on the target: for comparison only.

    Args:
        retain: (N,) losses of the retain set.
        forget: (K,) losses of the forget set.
        validation: (M,) losses of the validation set.
        test: (L,) losses of the test set.

    Returns:
        acc and auc of the forest with the largest acc, in [0, 1]; both 0 where none exceeds 0.

    Source:
        The SalUn DeepDive project, `metrics.py`, `compute_basic_mia`.
    """
    known = np.concatenate([retain, validation])[:, None]
    truth = np.concatenate([np.ones(len(retain)), np.zeros(len(validation))])
    best = (0.0, 0.0)
    for forest in forests():
        found = score(forest.fit(known, truth), forget, test)
        if found[0] > best[0]:
            best = found
    return best
