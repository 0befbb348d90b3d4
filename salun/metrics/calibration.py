"""Expected calibration error: how far confidence is from accuracy."""

from salun.metrics import Evaluation, Value, metric
from salun.training.evaluate import Outputs

_BINS = 15


def _expected_calibration_error(outputs: Outputs) -> Value:
    """Compute the expected calibration error of the largest probability."""
    # The package takes seconds to import.
    from torchmetrics.functional.classification import multiclass_calibration_error

    probabilities = outputs.logits.softmax(1)
    classes = probabilities.shape[1]
    if classes < 2 or not probabilities.isfinite().all():
        return None
    return float(multiclass_calibration_error(probabilities, outputs.labels, classes, n_bins=_BINS, norm="l1"))


@metric("ECE", unit="", direction="lower", ideal="0", needs=("test",))
def calibration_on_test(evaluation: Evaluation) -> Value:
    """Expected calibration error on the test set: mean distance of confidence from accuracy.

    Formula:
        ECE = sum over 15 equal bins b of the largest probability of (n_b / n) |accuracy_b - mean confidence_b|.

    Cannot see:
        Errors in opposite directions within a bin, and the other classes' probabilities. A model that predicts the
        classes' frequencies everywhere is calibrated and useless.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3; computed by torchmetrics.
    """
    return _expected_calibration_error(evaluation.test)


@metric("ECE_forget", unit="", needs=("forget",))
def calibration_on_forget(evaluation: Evaluation) -> Value:
    """Expected calibration error on the forget set.

    Formula:
        As ECE, on the forget set.

    Cannot see:
        Which way the confidence is off: a forgotten class that is still sure of itself and one that is uniform
        may have the same value.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3; computed by torchmetrics.
    """
    return _expected_calibration_error(evaluation.forget)
