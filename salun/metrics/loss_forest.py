"""The random-forest membership attack on losses."""

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from salun.metrics import Evaluation, Value, metric
from salun.metrics.scores import evenly_spaced, losses
from salun.training.evaluate import Outputs

if TYPE_CHECKING:  # scikit-learn takes long to import, so that it is imported only where it is used
    from sklearn.ensemble import RandomForestClassifier

_TREES = (20, 50, 100)
_CRITERIA = ("gini", "entropy")
_FOLDS = 3
_NEEDED = ("retain", "forget", "validation", "test")


def _forests() -> list["RandomForestClassifier"]:
    """List the attacks that are tried: 20, 50 and 100 trees, each with both criteria."""
    from sklearn.ensemble import RandomForestClassifier

    return [
        RandomForestClassifier(n_estimators=trees, criterion=criterion, random_state=0)
        for trees, criterion in product(_TREES, _CRITERIA)
    ]


def _score(forest: "RandomForestClassifier", forget: np.ndarray, test: np.ndarray) -> tuple[float, float]:
    """Ask a trained forest of the forget set."""
    from sklearn.metrics import roc_auc_score

    asked = np.concatenate([forget, test])[:, None]
    truth = np.concatenate([np.ones(len(forget)), np.zeros(len(test))])
    called = float(1 - forest.predict(forget[:, None]).mean())
    return called, float(roc_auc_score(truth, forest.predict_proba(asked)[:, 1]))


def _balanced(members: Outputs, others: Outputs) -> tuple[np.ndarray, np.ndarray]:
    """Take as many members as non-members, evenly spaced over each set: (2K, 1) losses and (2K,) labels."""
    count = min(len(members.labels), len(others.labels))
    taken = [losses(evenly_spaced(part, count)) for part in (members, others)]
    return np.concatenate(taken)[:, None], np.repeat([1, 0], count)


@metric("forest_acc", "forest_auc", cost="attack", ideal=("equals retrained", "0.5"), needs=_NEEDED)
def loss_forest(evaluation: Evaluation) -> tuple[Value, Value]:
    """Loss-forest MIA: share of forget images called non-member, and AUC of forget against test.

    A forest on each image's loss learns to tell retain images (1) from as many validation images
    (0). Of six forests the one with the best accuracy in 3-fold cross-validation on those is asked;
    the forget set has no say.

    Formula:
        forest_acc = 1 - mean(prediction on forget); forest_auc = area under the ROC curve of forget (positive)
        against test by the predicted probability of member.

    Cannot see:
        An image's own difficulty. Class-wise, forget and test hold different classes, and the AUC tells those apart.

    Returns:
        forest_acc in [0, 1], good when it equals the retrained model's; forest_auc in [0, 1], good at 0.5.

    Source:
        The SalUn DeepDive project's `compute_basic_mia`, which feeds batch means, leaves the classes
        unbalanced, and keeps the forest that scores best on the forget set (`forest_acc_original`).
    """
    from sklearn.model_selection import cross_val_score

    known, truth = _balanced(evaluation.retain, evaluation.validation)
    forget, test = losses(evaluation.forget), losses(evaluation.test)
    if len(truth) < 2 * _FOLDS or not _are_finite(known, forget, test):
        return None, None
    best = max(_forests(), key=lambda forest: cross_val_score(forest, known, truth, cv=_FOLDS).mean())
    return _score(best.fit(known, truth), forget, test)


def _are_finite(*parts: np.ndarray) -> bool:
    """Tell whether all values are numbers."""
    return all(bool(np.isfinite(part).all()) for part in parts)


@metric(
    "forest_acc_original", "forest_auc_original", cost="attack", ideal=("equals retrained", "0.5"), needs=_NEEDED,
    original=True,
)  # fmt: skip
def loss_forest_original(evaluation: Evaluation) -> tuple[Value, Value]:
    """Loss-forest MIA as the seed system chooses it: the forest that flatters the forget set most.

    Formula:
        Of six forests, trained on all retain (1) and validation (0) losses, the pair of the one with the
        largest acc.

    Cannot see:
        That the best of six on the target is too good by chance; use forest_acc.

    Source:
        The SalUn DeepDive project, `metrics.py`, `compute_basic_mia`, on per-image losses.
    """
    parts = [losses(evaluation.sets[name]) for name in _NEEDED]
    return _original_loss_forest(*parts) if _are_finite(*parts) else (None, None)


def _original_loss_forest(
    retain: np.ndarray, forget: np.ndarray, validation: np.ndarray, test: np.ndarray
) -> tuple[float, float]:
    """Attack as the seed system does, choosing the forest on the target."""
    known = np.concatenate([retain, validation])[:, None]
    truth = np.concatenate([np.ones(len(retain)), np.zeros(len(validation))])
    best = (0.0, 0.0)
    for forest in _forests():
        found = _score(forest.fit(known, truth), forget, test)
        if found[0] > best[0]:
            best = found
    return best
