"""Accuracies on the forget, retain, validation and test set, and the cost in time."""

from salun.metrics import Evaluation, Value, metric
from salun.training import Outputs, accuracy


def share_right(outputs: Outputs) -> Value:
    """Compute an accuracy where there are images.

    Args:
        outputs: logits and labels.

    Returns:
        A fraction in [0, 1], or None of no images.
    """
    return accuracy(outputs) if len(outputs.labels) else None


@metric("UA")
def unlearning_accuracy(evaluation: Evaluation) -> Value:
    """Unlearning accuracy: 1 - accuracy on the forget set.

    Args:
        evaluation: a model's outputs.

    Returns:
        A fraction in [0, 1]; good when it equals the retrained model's.

    Source:
        Fan et al., "SalUn", ICLR 2024, section 5.1.
    """
    kept = share_right(evaluation.forget)
    return None if kept is None else 1 - kept


@metric("RA")
def retain_accuracy(evaluation: Evaluation) -> Value:
    """Remaining accuracy: accuracy on the retain set.

    Args:
        evaluation: a model's outputs.

    Returns:
        A fraction in [0, 1]; good when it equals the retrained model's, near 1.
    """
    return share_right(evaluation.retain)


@metric("VA")
def validation_accuracy(evaluation: Evaluation) -> Value:
    """Validation accuracy, without the forgotten classes.

    Args:
        evaluation: a model's outputs.

    Returns:
        A fraction in [0, 1]; good when it equals the retrained model's.
    """
    return share_right(evaluation.validation)


@metric("TA")
def test_accuracy(evaluation: Evaluation) -> Value:
    """Test accuracy, without the forgotten classes.

    Args:
        evaluation: a model's outputs.

    Returns:
        A fraction in [0, 1]; good when it equals the retrained model's.
    """
    return share_right(evaluation.test)


@metric("TUA")
def test_unlearning_accuracy(evaluation: Evaluation) -> Value:
    """Accuracy on the test images of the forgotten classes.

    Args:
        evaluation: a model's outputs.

    Returns:
        A fraction in [0, 1]; good when it equals the retrained model's, 0. None where no class is
        forgotten as a whole.
    """
    return share_right(evaluation.forgotten_test)


@metric("RTE", unit="s", ideal="low")
def running_time(evaluation: Evaluation) -> Value:
    """Running time: wall seconds of mask and method, without evaluation and logging.

    Args:
        evaluation: a model's outputs and cost.

    Returns:
        Seconds; good when low. None for a model that was not unlearned.
    """
    return evaluation.seconds
