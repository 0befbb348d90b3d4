"""The robust membership inference attack: likelihood ratios of an image against those of many other images."""

import numpy as np
from numpy.typing import NDArray

from salun.metrics import Evaluation, Value, metric
from salun.metrics.matching import check_same_images, unseen
from salun.metrics.scores import area, true_confidence

_Floats = NDArray[np.float64]
_Reals = NDArray[np.floating]

_OFFLINE = 0.3
_SMALLEST = 1e-30


def _likelihood_ratios(target: _Reals, references: _Reals) -> _Floats:
    """Compute p(x | model) / p(x), with p(x) from models that were not trained on x."""
    average = ((1 + _OFFLINE) * np.asarray(references, dtype=np.float64).mean(0) + (1 - _OFFLINE)) / 2
    return np.asarray(np.asarray(target, dtype=np.float64) / np.maximum(average, _SMALLEST))


def _scores(target: _Reals, references: _Reals, population: _Reals, population_references: _Reals) -> _Floats:
    """Score images, in [0, 1], by the share of a population whose likelihood ratio they reach."""
    others = np.sort(_likelihood_ratios(population, population_references))
    return np.searchsorted(others, _likelihood_ratios(target, references), side="right") / len(others)


@metric("RMIA_auc", ideal="0.5", cost="attack", against=("retrained",), needs=("forget",))
def robust_attack(evaluation: Evaluation) -> Value:
    """Robust membership attack: area under the ROC curve of forget images against unseen ones.

    Formula:
        LR(x) = p_y / ((1.3 p*_y + 0.7) / 2), with p_y and p*_y the true class's probability by the model and by the
        retrained model. Score(x) = share of validation images z (test images where there are none) with
        LR(x) >= LR(z). RMIA_auc = area under the ROC curve of the scores, forget images against the test images of
        the forgotten classes, or the test set where no class is forgotten.

    Cannot see:
        All of an image's difficulty: with the correction 0.3, the authors' for CIFAR-10, which is not tuned here,
        easy images keep larger ratios than hard ones, so the sets must be alike. One retrained model is one
        reference: its chance counts as difficulty. The area says little about few false positives.

    Source:
        Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML 2024, arXiv 2312.03262.
    """
    assert evaluation.retrained
    model, retrained = evaluation, evaluation.retrained
    population = "validation" if len(model.validation.labels) else "test"
    asked = [(one.forget, unseen(one), one.sets[population]) for one in (model, retrained)]
    for name, first, second in zip(("forget", "test", population), *asked, strict=True):
        check_same_images(name, first, second)
    if not all(len(outputs.labels) for outputs in asked[0]):
        return None
    ours, theirs = ([true_confidence(outputs) for outputs in sets] for sets in asked)
    if not all(np.isfinite(values).all() for values in (*ours, *theirs)):
        return None
    forget, other, z = ((first, second[None]) for first, second in zip(ours, theirs, strict=True))
    return area(*(_scores(*images, *z) for images in (forget, other)))
