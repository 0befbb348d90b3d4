"""Forgetting quality as two public tools compute it from logits, as metrics and for files that their pages read.

The notebook's and the Comparator's scores share a name and nothing else: the first looks at one model's
entropy, the second at how well thresholds tell an unlearned model from a retrained one.
"""

from dataclasses import dataclass

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

from salun.metrics import Evaluation, Value, metric

_Floats = NDArray[np.float64]
_Singles = NDArray[np.float32]
_Labels = NDArray[np.int64]

_ENTROPIES = (0.0, 2.5)
_CONFIDENCES = (-2.5, 10.0)
_BINS = 51
TEMPERATURE = 2.0
_SMALLEST = 1e-45
_DELTA = 1e-5
_EDGE = 1e-10
_ATTACKS = ("entropy_above_unlearn", "entropy_above_retrain", "confidence_above_unlearn", "confidence_above_retrain")


@dataclass(frozen=True)
class Attack:
    """Error rates and score of one attack at each of 51 thresholds."""

    threshold: _Floats  # (51,)
    fpr: _Floats  # (51,) share of negatives at or above the threshold
    fnr: _Floats  # (51,) share of positives below it
    score: _Floats  # (51,)

    def _rounded(self, decimals: int) -> "Attack":
        """Round rates and scores; thresholds keep 3 decimals."""
        rates = (np.round(values, decimals) for values in (self.fpr, self.fnr, self.score))
        return Attack(np.round(self.threshold, 3), *rates)


def softmax(logits: _Singles, temperature: float = 1.0) -> _Singles:
    """Compute probabilities in float32, as both tools do: 1 - q and what is made of it depend on its rounding.

    Args:
        logits: (N, C) float32.
        temperature: that logits are divided by.

    Returns:
        (N, C) float32.
    """
    return np.asarray((torch.from_numpy(logits) / temperature).softmax(1).numpy())


def _thresholds(limits: tuple[float, float]) -> _Floats:
    """Space thresholds evenly."""
    return np.linspace(*limits, _BINS)


def _at_least(values: NDArray[np.floating], limits: tuple[float, float]) -> _Floats:
    """Count the values at or above each threshold."""
    if not len(values):
        return np.zeros(_BINS)
    return np.asarray((values[:, None] >= _thresholds(limits)).mean(0), dtype=np.float64)


def tempered_entropy(logits: _Singles) -> _Singles:
    """Compute the entropy of the softmax at temperature 2.

    Args:
        logits: (N, C) float32.

    Returns:
        (N,) float32, nats.
    """
    return np.asarray(scipy.stats.entropy(softmax(logits, TEMPERATURE), axis=1), dtype=np.float32)


def top_confidence(logits: _Singles) -> _Singles:
    """Compute the logit of the largest probability, ln q - ln(1 - q), in float32.

    Args:
        logits: (N, C) float32.

    Returns:
        (N,) float32; about 103.28 where q rounds to 1.
    """
    top = softmax(logits).max(1)
    smallest = np.float32(_SMALLEST)
    return np.asarray(np.log(top + smallest) - np.log((np.float32(1) - top) + smallest), dtype=np.float32)


def two_decimals(values: NDArray[np.floating]) -> _Floats:
    """Round as Python rounds a float.

    Args:
        values: (N,).

    Returns:
        (N,) float64.
    """
    return np.array([round(float(value), 2) for value in values], dtype=np.float64)


def _telling_apart(positives: _Floats, negatives: _Floats, limits: tuple[float, float]) -> Attack:
    """Attack by threshold: how surely do large values, clipped to the limits, give the positives away?

    With the error rates at a threshold, epsilon = max(0, min(ln(1-d-fpr) - ln fnr, ln(1-d-fnr) - ln fpr)),
    d = 1e-5, and the score is 1 - 2^-epsilon: 1 where both rates are 0, 0 where one of them is at least 1-d.
    """
    fpr = _at_least(np.clip(negatives, *limits), limits)
    fnr = 1.0 - _at_least(np.clip(positives, *limits), limits)
    sfp, sfn = (np.clip(rates, _EDGE, 1 - _DELTA - _EDGE) for rates in (fpr, fnr))
    ways = np.log(1 - _DELTA - sfp) - np.log(sfn), np.log(1 - _DELTA - sfn) - np.log(sfp)
    quality = 2.0 ** -np.maximum(0, np.minimum(*ways))
    useless = (fpr >= 1 - _DELTA) | (fnr >= 1 - _DELTA)
    quality = np.where((fpr == 0) & (fnr == 0), 0.0, np.where(useless, 1.0, quality))
    return Attack(_thresholds(limits), fpr, fnr, 1 - quality)


def comparator_attacks(unlearned: _Singles, retrained: _Singles, decimals: int = 3) -> dict[str, Attack]:
    """Run the Comparator's four attacks on the forgotten class, on values of 2 decimals.

    Args:
        unlearned: (N, C) float32 logits of images of the forgotten class.
        retrained: (M, C) float32 logits of a model that was trained without them.
        decimals: of rates and scores.

    Returns:
        The attacks by name: "entropy_above_unlearn", "entropy_above_retrain", and so for "confidence".

    Source:
        gnueaj/Machine-Unlearning-Comparator, `backend/app/utils/attack.py`.
    """
    attacks = {}
    for name, measure, limits in (
        ("entropy", tempered_entropy, _ENTROPIES),
        ("confidence", top_confidence, _CONFIDENCES),
    ):
        after, never = (two_decimals(measure(logits)) for logits in (unlearned, retrained))
        attacks[f"{name}_above_unlearn"] = _telling_apart(after, never, limits)._rounded(decimals)
        attacks[f"{name}_above_retrain"] = _telling_apart(never, after, limits)._rounded(decimals)
    return attacks


def comparator_fqs(attacks: dict[str, Attack]) -> float:
    """Compute the Comparator's forgetting quality score: 1 less the score of the best attack.

    Args:
        attacks: of `comparator_attacks`.

    Returns:
        In [0, 1], 3 decimals; 1 where no threshold tells the models apart, 0 where one always does.
    """
    return round(1 - max(float(attack.score.max()) for attack in attacks.values()), 3)


def notebook_values(logits: _Singles) -> tuple[_Floats, _Floats]:
    """Compute the notebook's entropy and confidence of each image, at temperature 1.

    Args:
        logits: (N, C) float32.

    Returns:
        (N,) entropies -sum p ln(p + 1e-10), nats, and (N,) logits of the largest probability.
    """
    probabilities = softmax(logits)
    entropies = -(probabilities * np.log(probabilities + np.float32(1e-10))).sum(1)
    top = probabilities.max(1).astype(np.float64)
    return entropies.astype(np.float64), np.log(top + _SMALLEST) - np.log(1 - top + _SMALLEST)


def notebook_attacks(entropies: _Floats, confidences: _Floats, forgotten: NDArray[np.bool_]) -> dict[str, Attack]:
    """Compute the notebook's tables: forgotten class against the other classes, one model only.

    Args:
        entropies: (N,) of `notebook_values`.
        confidences: (N,).
        forgotten: (N,) which images are of the forgotten class.

    Returns:
        Attacks by the names of `comparator_attacks`; those of a retrained model are zeros, as there is none.

    Source:
        ryusudol/Model-Structure-Impact-on-Unlearning, `utils.py`.
    """
    above = [_at_least(entropies[kept], _ENTROPIES) for kept in (forgotten, ~forgotten)]
    below = 1 - above[0]
    entropy = Attack(_thresholds(_ENTROPIES), above[1], below, 1 - (above[1] + below) / 2)._rounded(4)
    above = [_at_least(confidences[kept], _CONFIDENCES) for kept in (forgotten, ~forgotten)]
    score = 1 - np.abs(above[0] - above[1])
    confidence = Attack(_thresholds(_CONFIDENCES), above[1], 1 - above[0], score)._rounded(3)
    zeros = np.zeros(_BINS)
    blanks = [Attack(_thresholds(limits), zeros, zeros, zeros)._rounded(3) for limits in (_ENTROPIES, _CONFIDENCES)]
    return dict(zip(_ATTACKS, (entropy, blanks[0], confidence, blanks[1]), strict=True))


def notebook_fqs(entropies: _Floats, forgotten: NDArray[np.bool_], classes: int) -> float:
    """Compute the notebook's forgetting quality score: mean entropy on the forgotten class over its maximum, ln C.

    Args:
        entropies: (N,) of `notebook_values`.
        forgotten: (N,) which images are of the forgotten class.
        classes: C, 10 in the notebook.

    Returns:
        In [0, 1], 4 decimals; 0 where no image is of that class.
    """
    if not forgotten.any():
        return 0.0
    return round(min(1.0, float(entropies[forgotten].mean() / np.log(classes))), 4)


def notebook_pa(attacks: dict[str, Attack]) -> float:
    """Compute the notebook's privacy attack score: the best entropy threshold's.

    Args:
        attacks: of `notebook_attacks`.

    Returns:
        In [0.5, 1].
    """
    return float(attacks["entropy_above_unlearn"].score.max())


@dataclass(frozen=True)
class Distributions:
    """What a model says of the images of each class; zeros for an empty class."""

    accuracy: _Floats  # (C,) share of the images of each class that are predicted right
    labels: _Floats  # (C, C) in row g the share of the images of class g that are predicted as each class
    top: _Floats  # (C, C) mean largest probability of the images of class g that are predicted as p
    mean: _Floats  # (C, C) mean probability of each class over the images of class g; NaN of an empty class


def distributions(logits: _Singles, labels: _Labels) -> Distributions:
    """Count predictions and average confidences by true class.

    Args:
        logits: (N, C) float32.
        labels: (N,) int64.

    Returns:
        Accuracies and distributions.
    """
    classes = logits.shape[1]
    probabilities = softmax(logits)
    predictions = logits.argmax(1)
    counts, tops, sums = (np.zeros((classes, classes)) for _ in range(3))
    np.add.at(counts, (labels, predictions), 1)
    np.add.at(tops, (labels, predictions), probabilities.max(1))
    np.add.at(sums, labels, probabilities)
    sizes = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(sizes, 1)
    mean = np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0)
    return Distributions(np.diag(shares).copy(), shares, tops / np.maximum(counts, 1), mean)


def retained_accuracy(accuracies: _Floats, forgotten: int) -> float:
    """Average the accuracies of the classes that were kept, each class counting alike.

    Args:
        accuracies: (C,).
        forgotten: the class that was not kept.

    Returns:
        The mean over the C - 1 others.
    """
    return float(np.delete(accuracies, forgotten).mean())


def _have_softmax(*logits: _Singles) -> bool:
    """Tell whether all predictions are probabilities, of two classes or more."""
    return all(values.shape[1] > 1 and bool(np.isfinite(softmax(values)).all()) for values in logits)


@metric("FQS", unit="", direction="higher", ideal="1", against=("retrained",), needs=("forget",), default=True)
def forgetting_quality_score(evaluation: Evaluation) -> Value:
    """Forgetting quality score: how hard the forget set's entropies and confidences are to tell from the retrained.

    Formula:
        Of each forget image the entropy of softmax(z / 2) and ln q - ln(1 - q), q = max softmax(z), to 2 decimals.
        For 51 thresholds, both values, and either model as the positive one: e = max(0, min(ln(1-d-fpr) - ln fnr,
        ln(1-d-fnr) - ln fpr)), d = 1e-5. FQS = 2^-e of the best threshold; 0 where one tells the models apart
        without error.

    Cannot see:
        Which image has which value, and which class is predicted: two models of equal confidence in different
        classes score 1. The score is of the best threshold, so few images make it too low by chance.

    Source:
        gnueaj/Machine-Unlearning-Comparator, `backend/app/utils/attack.py`.
    """
    assert evaluation.retrained
    unlearned, retrained = (model.forget.logits.numpy() for model in (evaluation, evaluation.retrained))
    if not _have_softmax(unlearned, retrained):
        return None
    return comparator_fqs(comparator_attacks(unlearned, retrained))


@metric("FQS_notebook", unit="", needs=("forget",))
def notebook_forgetting_quality(evaluation: Evaluation) -> Value:
    """Forgetting quality score of the seed notebook: mean entropy on the forget set over its maximum.

    Formula:
        FQS_notebook = min(1, mean over forget images of -sum p ln(p + 1e-10), over ln C).

    Cannot see:
        Anything without the same value of a retrained model: it looks at one model, and a doubtful model that
        forgot nothing scores as high. It shares its name with FQS and nothing else.

    Returns:
        In [0, 1], 4 decimals; good when it equals the retrained model's. None without forget images, or for one
        class.

    Source:
        ryusudol/Model-Structure-Impact-on-Unlearning, `utils.py`; there C is 10.
    """
    logits = evaluation.forget.logits.numpy()
    if not _have_softmax(logits):
        return None
    return notebook_fqs(notebook_values(logits)[0], np.ones(len(logits), dtype=np.bool_), logits.shape[1])


@metric("PA_notebook", unit="", ideal="equals retrained", needs=("forget", "retain", "forgotten_test"))
def notebook_privacy_attack(evaluation: Evaluation) -> Value:
    """Privacy attack of the seed notebook: how well one threshold on entropy tells the forgotten class from others.

    Formula:
        PA_notebook = greatest 1 - (fpr + fnr) / 2 over 51 thresholds t in [0, 2.5], with fpr the share of retain
        images and 1 - fnr the share of forget images whose entropy -sum p ln(p + 1e-10) is t or more.

    Cannot see:
        Forgetting as such: it grows as the forgotten class becomes doubtful, in a retrained model too, and does
        not see a class that is sure of itself. The notebook takes a subset of the training images, this all.

    Returns:
        In [0.5, 1], 4 decimals; good when it equals the retrained model's.

    Source:
        ryusudol/Model-Structure-Impact-on-Unlearning, `utils.py`.
    """
    sets = [outputs.logits.numpy() for outputs in (evaluation.forget, evaluation.retain)]
    if not _have_softmax(*sets):
        return None
    forgotten = np.repeat([True, False], [len(logits) for logits in sets])
    return notebook_pa(notebook_attacks(*notebook_values(np.concatenate(sets)), forgotten))
