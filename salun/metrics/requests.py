"""Of requests one after another: whether what earlier ones forgot stays forgotten, and what all took together."""

import torch

from salun.metrics import Detail, Evaluation, Value, metric
from salun.training.evaluate import Outputs, accuracy


@metric("UA_earlier")
def earlier_unlearning_accuracy(evaluation: Evaluation) -> Value:
    """Unlearning accuracy on the forget sets of all earlier requests together: low where they come back.

    Formula:
        UA_earlier = 1 - the share of images of the earlier forget sets that are classified right.

    Cannot see:
        Which of the requests comes back; UA_by_request tells that.

    Returns:
        A fraction; None of a first request, and where nothing else was asked before.

    Source:
        This project.
    """
    if not evaluation.earlier:
        return None
    parts = [(outputs.logits, outputs.labels) for outputs in evaluation.earlier]
    return 1 - accuracy(Outputs(*map(torch.cat, zip(*parts, strict=True))))


@metric("UA_by_request", unit="table")
def unlearning_accuracy_by_request(evaluation: Evaluation) -> Detail | None:
    """Unlearning accuracy on the forget set of each earlier request, by its number.

    Formula:
        For each request before this one 1 - accuracy on its forget set.

    Cannot see:
        What UA cannot.

    Returns:
        Fractions by number; None of a first request.

    Source:
        This project.
    """
    return {str(number): 1 - accuracy(outputs) for number, outputs in enumerate(evaluation.earlier, 1)} or None


@metric("RTE_total", unit="s", direction="lower", ideal="low")
def total_running_time(evaluation: Evaluation) -> Value:
    """Running time of this request and all before it: wall seconds of masks and methods.

    Formula:
        RTE_total = the sum of RTE over the requests up to this one.

    Cannot see:
        What RTE cannot.

    Returns:
        Seconds; None of a first request, whose RTE says the same.

    Source:
        This project.
    """
    if evaluation.seconds is None or not evaluation.earlier:
        return None
    return evaluation.earlier_seconds + evaluation.seconds


@metric("passes_total", unit="images", direction="lower", ideal="low")
def total_image_passes(evaluation: Evaluation) -> Value:
    """Image passes of this request and all before it.

    Formula:
        passes_total = the sum of passes over the requests up to this one.

    Cannot see:
        What passes cannot.

    Returns:
        A count; None of a first request, whose passes say the same.

    Source:
        This project.
    """
    if evaluation.passes is None or not evaluation.earlier:
        return None
    return evaluation.earlier_passes + evaluation.passes
