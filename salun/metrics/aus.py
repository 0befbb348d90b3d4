"""The adaptive unlearning score of DUCK: accuracy kept, over accuracy that should have gone."""

from salun.metrics import Evaluation, Value, metric
from salun.training.evaluate import accuracy


def _adaptive_score(before: float, after: float, excess: float) -> float:
    """Weigh what the test accuracy lost against what the forget accuracy has too much; in [0, 2]."""
    return (1 - (before - after)) / (1 + abs(excess))


@metric("AUS", unit="", direction="higher", ideal="1", against=("base",), needs=("forget", "test"), derived=True)
def adaptive_unlearning_score(evaluation: Evaluation) -> Value:
    """Adaptive unlearning score: test accuracy that was kept, over forget accuracy that should have gone.

    Formula:
        AUS = (1 - (t0 - t)) / (1 + d), with t0 and t the test accuracies of base and unlearned model; d = |u|, the
        accuracy on the test images of the forgotten classes, where classes are forgotten; otherwise d = |f - t|,
        with f the accuracy on the forget set.

    Cannot see:
        The retrained model: forgetting is complete here where the forget accuracy is the test accuracy, or 0
        class-wise, whatever retraining gives. Two errors can make up for each other, and a model whose test
        accuracy has grown scores above 1.

    Returns:
        In [0, 2]; good when 1. None where a set is empty or there is no base model.

    Source:
        Cotogni et al., "DUCK: Distance-based Unlearning via Centroid Kinematics", arXiv 2312.02052; class-wise on
        test images, as its code does (OcraM17/DUCK, `src/main_def.py`).
    """
    assert evaluation.base
    before, after = accuracy(evaluation.base.test), accuracy(evaluation.test)
    if len(evaluation.forgotten_test.labels):
        return _adaptive_score(before, after, accuracy(evaluation.forgotten_test))
    return _adaptive_score(before, after, accuracy(evaluation.forget) - after)
