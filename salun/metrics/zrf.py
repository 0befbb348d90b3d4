"""Divergences of predictions: to a model that knows nothing, to the base model and to the retrained one."""

import math

import torch
from torch import Tensor

from salun.metrics import Evaluation, Value, metric
from salun.metrics.matching import check_same_images, unseen
from salun.metrics.scores import Variant
from salun.training.evaluate import Outputs


def _logs_of_mixture(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the logarithms of two predictions and of their mean, in float64."""
    p, q = (logits.double().log_softmax(1) for logits in (first, second))
    return p, q, torch.logaddexp(p, q) - math.log(2)


def _jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Compute (N,) divergences [KL(p || m) + KL(q || m)] / 2 in nats, with m = (p + q) / 2."""
    p, q, m = _logs_of_mixture(first, second)
    sums = [torch.where(log > -torch.inf, log.exp() * (log - m), 0.0).sum(1) for log in (p, q)]
    return torch.stack(sums).mean(0).clamp_min(0)


def _zero_retrain_forgetting(unlearned: Tensor, random: Tensor, variant: Variant = "corrected") -> float:
    """Compute 1 less the mean divergence of predictions from a random model's."""
    p, q, m = _logs_of_mixture(unlearned, random)
    terms = (m.exp() * (2 * m - p - q) / 2).sum(1)
    return float(1 - terms.mean() / (p.shape[1] if variant == "original" else 1))


def _score_of(evaluation: Evaluation, variant: Variant) -> Value:
    """Compute the zero retrain forgetting score of a model."""
    assert evaluation.random
    check_same_images("forget", evaluation.forget, evaluation.random)
    return _zero_retrain_forgetting(evaluation.forget.logits, evaluation.random.logits, variant)


@metric("ZRF", unit="", against=("random",), needs=("forget",))
def zrf(evaluation: Evaluation) -> Value:
    """Zero retrain forgetting score: likeness to a model with random weights on the forget set, image by image.

    Formula:
        ZRF = 1 - mean over forget images of [KL(m || p) + KL(m || q)] / 2, with p and q the predictions of the
        unlearned and the random model, m = (p + q) / 2, natural logarithms.

    Cannot see:
        What retraining does: a retrained model is not random on images like those it was trained on, so the
        greatest value is not the best. The divergence has no bound, and a sure model goes far below 0. Another
        random model gives another value.

    Returns:
        At most 1; good when it equals the retrained model's. None without a random model or forget images.

    Source:
        Chundawat et al., "Can Bad Teaching Induce Forgetting?", AAAI 2023, whose code averages over classes too
        (`ZRF_original`).
    """
    return _score_of(evaluation, "corrected")


@metric("ZRF_original", unit="", against=("random",), needs=("forget",), original=True)
def zrf_original(evaluation: Evaluation) -> Value:
    """Zero retrain forgetting score as its authors' code computes it: averaged over the classes too.

    Formula:
        ZRF_original = 1 - mean over forget images and classes of the terms of ZRF = 1 - (1 - ZRF) / C.

    Cannot see:
        Much at all: dividing by the number of classes puts every model near 1. Use ZRF.

    Returns:
        At most 1, for comparison with figures found so. None without a random model or forget images.

    Source:
        vikram2000b/bad-teaching-unlearning, `metrics.py`.
    """
    return _score_of(evaluation, "original")


@metric("JS", unit="nats", direction="lower", ideal="0", against=("retrained",), needs=("forget",), default=True)
def divergence_to_retrained(evaluation: Evaluation) -> Value:
    """Jensen-Shannon divergence of the predictions on the forget set to the retrained model's.

    Formula:
        JS = mean over forget images of [KL(p || m) + KL(q || m)] / 2, with p and q the predictions of the
        unlearned and the retrained model, m = (p + q) / 2, natural logarithms.

    Cannot see:
        Chance: two retrained models differ too, so a value below theirs says nothing more.

    Returns:
        In [0, ln 2] nats; good when 0. None without a retrained model or forget images.

    Source:
        Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Transactions on Information Theory, 1991; as
        a measure of unlearning in Chundawat et al., "Can Bad Teaching Induce Forgetting?", AAAI 2023.
    """
    assert evaluation.retrained
    check_same_images("forget", evaluation.forget, evaluation.retrained.forget)
    return float(_jensen_shannon(evaluation.forget.logits, evaluation.retrained.forget.logits).mean())


@metric("RF_JSD", unit="nats", against=("base",), needs=("forget",), gone=True)
def retrain_free_divergence(evaluation: Evaluation) -> Value:
    """Retrain-free Jensen-Shannon divergence: forget images in the model against unseen images in the base model.

    Formula:
        RF_JSD = mean over the classes of forget images of [KL(p || m) + KL(q || m)] / 2, m = (p + q) / 2, with p the
        mean prediction of the model over the forget images of a class and q that of the base model over the test
        images of the same class; natural logarithms. Classes without test images are left out.

    Cannot see:
        Single images, whose predictions are averaged class by class. Whether a class is gone: where whole classes
        are forgotten the base model knows their test images, so that a retrained model is near ln 2, not near 0.

    Returns:
        In [0, ln 2] nats; near 0 where a retrained model treats forget images as the base model treats unseen ones.

    Source:
        Spartalis et al., "LoTUS: Large-Scale Machine Unlearning with a Taste of Uncertainty", CVPR 2025, arXiv
        2503.18314. The authors' code takes KL(m || p) and KL(m || q) and divides by the number of classes twice.
    """
    assert evaluation.base
    means = [_class_means(outputs) for outputs in (evaluation.forget, unseen(evaluation.base))]
    shared = sorted(means[0].keys() & means[1].keys())
    if not shared:
        return None
    ours, theirs = (torch.stack([mean[label] for label in shared]).log() for mean in means)
    return float(_jensen_shannon(ours, theirs).mean())


def _class_means(outputs: Outputs) -> dict[int, Tensor]:
    """Average the predictions on the images of each class."""
    p = outputs.logits.double().softmax(1)
    return {label: p[outputs.labels == label].mean(0) for label in outputs.labels.unique().tolist()}
