"""The forgetting quality and the score of the NeurIPS 2023 unlearning challenge."""

import math

import numpy as np

from salun.metrics import Evaluation, Runs, Value, metric
from salun.metrics.epsilons import epsilons, points, scaled_confidence
from salun.metrics.matching import enough, on_forget
from salun.training.evaluate import accuracy

_FEWEST = 3


def _mean_accuracy(runs: tuple[Evaluation, ...], name: str) -> float:
    """Average the accuracy on a set over models."""
    return sum(accuracy(run.sets[name]) for run in runs) / len(runs)


@metric("forgetting_quality", unit="", direction="higher", ideal="1", cost="many models")
def forgetting_quality(runs: Runs) -> Value:
    """Forgetting quality of the NeurIPS 2023 challenge: how hard unlearned and retrained models are to tell apart.

    Formula:
        Confidence = ln p_y - ln sum over c != y of p_c. For each forget image epsilon = the largest value over many
        rules of one or two thresholds of max(ln(1-d-fpr) - ln fnr, ln(1-d-fnr) - ln fpr), d = 1e-5.
        F = mean over images of 2^-floor(2 epsilon), 0 from epsilon = ceil(ln(models - 1)) on.

    Cannot see:
        Little with few models: the best of 160,000 rules is far too good by chance, so that even two groups of
        retrained models score far below 1 (0.1 to 0.2 with 64 of each; below 64 the value says next to nothing).
        Compare only equal numbers of models, and with the value between two groups of retrained models.

    Source:
        google-deepmind/unlearning_evaluation, `metric.py`; Triantafillou et al., "Are we making progress in
        unlearning? Findings from the first NeurIPS unlearning competition", arXiv 2406.09073.
    """
    if not enough(runs.unlearned, runs.retrained, _FEWEST):
        return None
    known = [on_forget(kind, scaled_confidence) for kind in (runs.unlearned, runs.retrained)]
    if not all(np.isfinite(kind).all() for kind in known):
        return None
    fewest = min(len(runs.unlearned), len(runs.retrained))
    return float(points(epsilons(known[0], known[1]), fewest).mean())


@metric("neurips_score", unit="", direction="higher", ideal="1", cost="many models")
def neurips_score(runs: Runs) -> Value:
    """Score of the NeurIPS 2023 challenge: forgetting quality times what is left of retain and test accuracy.

    Formula:
        neurips_score = F (RA / RA*) (TA / TA*), with F the forgetting_quality, RA and TA the mean accuracies of the
        unlearned models on retain and test set, and RA* and TA* the retrained models'.

    Cannot see:
        What forgetting_quality cannot; and an accuracy above the retrained models' makes up for forgetting.

    Returns:
        At least 0; good when 1. None where forgetting_quality is, a set is empty, or retrained models are never
        right.

    Source:
        As forgetting_quality; the product is taken in `main.py` there.
    """
    everyone = (*runs.unlearned, *runs.retrained)
    if not all(len(run.sets[name].labels) for run in everyone for name in ("retain", "test")):
        return None
    ours, theirs = (
        [_mean_accuracy(kind, name) for name in ("retain", "test")] if kind else [0.0]
        for kind in (runs.unlearned, runs.retrained)
    )
    quality = forgetting_quality(runs)
    if quality is None or not all(theirs):
        return None
    return float(quality * math.prod(ours) / math.prod(theirs))
