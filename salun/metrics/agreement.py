"""How far a model and the retrained model agree, image by image and as a whole."""

import numpy as np
import scipy
from torch import Tensor

from salun.metrics import Evaluation, Value, metric
from salun.metrics.matching import check_same_images, together
from salun.metrics.scores import true_confidence
from salun.training.evaluate import Outputs


def _pair(evaluation: Evaluation, *names: str) -> tuple[Outputs, Outputs]:
    """Take the outputs of a model and of the retrained model on the same images."""
    assert evaluation.retrained
    for name in names:
        check_same_images(name.replace("_", " "), evaluation.sets[name], evaluation.retrained.sets[name])
    model, retrained = (together(*(one.sets[name] for name in names)) for one in (evaluation, evaluation.retrained))
    return model, retrained


def _share_apart(model: Outputs, other: Outputs) -> Value:
    """Count the images that two models predict differently."""
    if not len(model.labels):
        return None
    return float((model.logits.argmax(1) != other.logits.argmax(1)).double().mean())


def _probability_distance(first: Tensor, second: Tensor) -> float:
    """Measure how far two models' predictions lie apart."""
    return float((first.double().softmax(1) - second.double().softmax(1)).norm(dim=1).mean())


@metric("disagreement", ideal="as between two retrained models", direction="lower", against=("retrained",))
def disagreement(evaluation: Evaluation) -> Value:
    """Share of forget images that model and retrained model predict differently.

    Formula:
        disagreement = share of forget images with argmax z != argmax z*, with z the logits of the model and z* the
        retrained model's.

    Cannot see:
        Confidence. Two retrained models differ too, by chance alone: 0 is not what retraining gives.

    Source:
        Golatkar et al., "Eternal Sunshine of the Spotless Net", CVPR 2020, compares readouts on the forget set so.
    """
    return _share_apart(*_pair(evaluation, "forget"))


@metric("disagreement_test", ideal="as between two retrained models", direction="lower", against=("retrained",))
def disagreement_on_test(evaluation: Evaluation) -> Value:
    """Share of test images, of forgotten classes too, that model and retrained model predict differently.

    Formula:
        As disagreement, on the test set and the test images of the forgotten classes.

    Cannot see:
        As disagreement; and which of the two is right.

    Source:
        As disagreement.
    """
    return _share_apart(*_pair(evaluation, "test", "forgotten_test"))


@metric("completeness", direction="higher", ideal="as between two retrained models", against=("retrained",))
def completeness(evaluation: Evaluation) -> Value:
    """Completeness: share of all held-out images that model and retrained model predict alike.

    Formula:
        completeness = share of images with argmax z = argmax z*, over validation set, test set and the test images
        of the forgotten classes.

    Cannot see:
        The forget images themselves, and confidence. Most images are easy and alike in any two models.

    Source:
        Cao and Yang, "Towards Making Systems Forget with Machine Unlearning", S&P 2015, section III.
    """
    apart = _share_apart(*_pair(evaluation, "validation", "test", "forgotten_test"))
    return None if apart is None else 1 - apart


@metric("activation_distance", unit="", direction="lower", ideal="0", against=("retrained",), needs=("forget",))
def activation_distance(evaluation: Evaluation) -> Value:
    """Mean distance of the predicted probabilities on the forget set to the retrained model's.

    Formula:
        activation_distance = mean over forget images of the Euclidean norm of p - p*, with p and p* the
        probabilities of the model and the retrained model.

    Cannot see:
        Features before the last layer. Two retrained models lie apart too.

    Returns:
        In [0, sqrt 2]; good when 0. None without a retrained model or forget images.

    Source:
        Golatkar et al., "Mixed-Privacy Forgetting in Deep Networks", CVPR 2021; with the Euclidean norm in
        Chundawat et al., "Can Bad Teaching Induce Forgetting?", AAAI 2023.
    """
    model, retrained = _pair(evaluation, "forget")
    return _probability_distance(model.logits, retrained.logits)


@metric("confidence_distance", unit="", direction="lower", ideal="0", against=("retrained",), needs=("forget",))
def confidence_distance(evaluation: Evaluation) -> Value:
    """Distance of the distribution of true-class probabilities on the forget set to the retrained model's.

    Formula:
        confidence_distance = Wasserstein-1 distance between the values p_y and p*_y of the forget images: the mean
        distance of the values of equal rank.

    Cannot see:
        Which image has which confidence; `confidence_difference` does.

    Source:
        scipy.stats.wasserstein_distance, on the feature of the MIA of Fan et al., "SalUn", ICLR 2024.
    """
    model, retrained = (true_confidence(outputs).astype(np.float64) for outputs in _pair(evaluation, "forget"))
    return float(scipy.stats.wasserstein_distance(model, retrained))


@metric("confidence_difference", unit="", direction="lower", ideal="0", against=("retrained",), needs=("forget",))
def confidence_difference(evaluation: Evaluation) -> Value:
    """Mean difference of the true class's probability on the forget set to the retrained model's, image by image.

    Formula:
        confidence_difference = mean over forget images of |p_y - p*_y|; at least confidence_distance.

    Cannot see:
        The other classes' probabilities. Two retrained models differ too, most on the hardest images.

    Source:
        The feature of the MIA of Fan et al., "SalUn", ICLR 2024, compared image by image.
    """
    model, retrained = (true_confidence(outputs).astype(np.float64) for outputs in _pair(evaluation, "forget"))
    return float(np.abs(model - retrained).mean())
