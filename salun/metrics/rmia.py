"""The robust membership inference attack: likelihood ratios of an image against those of many other images."""

import numpy as np
from numpy.typing import NDArray

from salun.metrics import Evaluation, Value, metric
from salun.metrics.matching import check_same_images, unseen
from salun.metrics.scores import area, true_confidence

_Floats = NDArray[np.float64]
_Reals = NDArray[np.floating]

_GAMMA = 1.0
_OFFLINE = 0.3
_SMALLEST = 1e-30


def _likelihood_ratios(target: _Reals, references: _Reals, a: float = _OFFLINE) -> _Floats:
    """Compute p(x | model) / p(x), with p(x) from models that were not trained on x."""
    average = ((1 + a) * np.asarray(references, dtype=np.float64).mean(0) + (1 - a)) / 2
    return np.asarray(np.asarray(target, dtype=np.float64) / np.maximum(average, _SMALLEST))


def rmia_scores(
    target_conf: _Reals,
    reference_conf: _Reals,
    population_target: _Reals,
    population_reference: _Reals,
    gamma: float = _GAMMA,
    a: float = _OFFLINE,
) -> _Floats:
    """Score images by the share of a population whose likelihood ratio they exceed.

    Args:
        target_conf: (N,) probabilities of the true class by the model that is attacked.
        reference_conf: (M, N) by reference models that were not trained on these images.
        population_target: (Z,) probabilities of other images, trained on by none of the models.
        population_reference: (M, Z) by the reference models.
        gamma: how many times the population's ratio an image's must be; at least 1.
        a: of the offline correction, in [0, 1].

    Returns:
        (N,) in [0, 1], higher for members.

    Source:
        Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML 2024, arXiv
        2312.03262, equations 1 to 4, offline; a = 0.3 is what the authors' code takes
        (privacytrustlab/ml_privacy_meter, `modules/mia/attacks/rmia.py`), where gamma is 1 as well.
    """
    ratios = _likelihood_ratios(target_conf, reference_conf, a)
    others = np.sort(_likelihood_ratios(population_target, population_reference, a))
    return np.searchsorted(others, ratios / gamma, side="right") / len(others)


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

    Returns:
        In [0, 1]; good at 0.5. None where a set is empty or there is no retrained model.

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
    return area(*(rmia_scores(*images, *z) for images in (forget, other)))
