"""The likelihood-ratio attack on unlearning, with a distribution of margins for each image and kind of model."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from salun.metrics import Runs, Value, metric
from salun.metrics.matching import enough, on_forget
from salun.metrics.scores import area, margins

_Floats = NDArray[np.float64]

_FEWEST = 3
_FEWEST_FOR_OWN_VARIANCE = 64
_SMALLEST_VARIANCE = 1e-6


def _gaussian(values: _Floats, shared: bool) -> tuple[_Floats, _Floats]:
    """Fit a Gaussian to each image's margins."""
    variance = values.var(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    if shared:
        variance = np.full_like(variance, variance.mean())
    return values.mean(0), np.maximum(variance, _SMALLEST_VARIANCE)


def _gaussian_scores(unlearned: _Floats, retrained: _Floats, target: _Floats) -> _Floats:
    """Compute (N,) log likelihood ratios of an unlearned model against a retrained one."""
    shared = min(len(unlearned), len(retrained)) < _FEWEST_FOR_OWN_VARIANCE
    logs = []
    for known in (unlearned, retrained):
        mean, variance = _gaussian(known, shared)
        logs.append(-((target - mean) ** 2) / (2 * variance) - np.log(variance) / 2)
    return np.asarray(logs[0] - logs[1])


def kernel_scores(unlearned: _Floats, retrained: _Floats, target: _Floats) -> _Floats:
    """Score a model's images by kernel densities, which take no shape of an image's margins for granted.

    Args:
        unlearned: (K, N) margins in unlearned models.
        retrained: (L, N) in the models that they are compared with.
        target: (N,) in the model that is asked.

    Returns:
        (N,) log likelihood ratios, with a Gaussian kernel of bandwidth 1 about each margin.

    Source:
        RULI: Naderloui et al., "Rectifying Privacy and Efficacy Measurements in Machine Unlearning: A New Inference
        Attack Perspective", USENIX Security 2025, arXiv 2506.13009, code datasec-lab/Ruli.
    """
    logs = [logsumexp(-((target - known) ** 2) / 2, axis=0) - np.log(len(known)) for known in (unlearned, retrained)]
    return np.asarray(logs[0] - logs[1])


def left_out_scores(
    unlearned: _Floats, retrained: _Floats, score: Callable[[_Floats, _Floats, _Floats], _Floats] = _gaussian_scores
) -> tuple[_Floats, _Floats]:
    """Score every model's images with distributions from the other models.

    With each model that is asked, one of the other kind is left out as well: else both would know their own
    kind a little less well, and the attack would look better or worse than it is by that alone.

    Args:
        unlearned: (K, N) margins in the unlearned models.
        retrained: (L, N) in the retrained models.
        score: gives the log likelihood ratios of a model's margins.

    Returns:
        (K, N) scores of the unlearned, (L, N) of the retrained models.
    """

    def asked(own: _Floats, index: int) -> _Floats:
        after, never = (np.delete(kind, index % len(kind), axis=0) for kind in (unlearned, retrained))
        return score(after, never, own[index])

    first, second = (np.stack([asked(kind, i) for i in range(len(kind))]) for kind in (unlearned, retrained))
    return first, second


@metric("ULiRA_auc", ideal="0.5", cost="many models")
def likelihood_ratio_attack(runs: Runs) -> Value:
    """U-LiRA: area under the ROC curve of an attack that knows each image's margin in many models of either kind.

    Formula:
        Margin = z_y - ln sum over c != y of exp z_c. Score = ln N(margin; unlearned) - ln N(margin; retrained), with
        a Gaussian for each forget image and kind of model, fitted to the other models; below 64 models the images
        share one variance a kind. ULiRA_auc = area under the ROC curve of the scores of all forget images, in the
        unlearned models against the retrained ones, each left out in turn with one of the other kind.

    Cannot see:
        A rate of false positives that matters for one person: the area averages over all. With few models, and one
        forget set for all, it is a lower bound of what an attacker can do; salun-audit draws many splits.

    Source:
        Hayes et al., "Inexact Unlearning Needs More Careful Evaluations to Avoid a False Sense of Privacy", arXiv
        2403.01218.
    """
    if not enough(runs.unlearned, runs.retrained, _FEWEST):
        return None
    known = [on_forget(kind, margins) for kind in (runs.unlearned, runs.retrained)]
    if not all(np.isfinite(kind).all() for kind in known):
        return None
    return area(*(scores.ravel() for scores in left_out_scores(known[0], known[1])))
