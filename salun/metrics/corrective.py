"""Whether unlearning undid a corruption: success of its trigger, and accuracy on the corrupted training images."""

from salun.metrics import Evaluation, Value, metric
from salun.training.evaluate import accuracy


@metric("ASR", needs=("triggered",))
def attack_success_rate(evaluation: Evaluation) -> Value:
    """Attack success rate: share of test images of other classes that are taken for the target once they are triggered.

    Formula:
        ASR = the share of test images x with y(x) != t for which argmax f(x + trigger) = t, t the trigger's target.

    Cannot see:
        Images that the trigger leads to a third class, which are as wrong; and whether clean ones suffer (TA).

    Source:
        Gu et al., "BadNets", IEEE Access 2019, https://arxiv.org/abs/1708.06733; the corruption is that of Goel et al.,
        "Corrective Machine Unlearning", TMLR 2024, https://arxiv.org/abs/2402.14015, section 4.
    """
    assert evaluation.triggered is not None
    return accuracy(evaluation.triggered)


@metric("CA_found", needs=("found",))
def corrected_accuracy_found(evaluation: Evaluation) -> Value:
    """Accuracy on the corrupted training images that were found, against their true labels.

    Formula:
        The share of forget images whose largest logit is their true class's, not that of the label that was learnt.

    Cannot see:
        Which of two wrong answers is given, the corrupted label or a third class (UA counts the former).

    Source:
        Goel et al., "Corrective Machine Unlearning", TMLR 2024, https://arxiv.org/abs/2402.14015, section 4, whose
        corrected accuracy this is on training images.
    """
    assert evaluation.found is not None
    return accuracy(evaluation.found)


@metric("CA_undiscovered", needs=("undiscovered",))
def corrected_accuracy_undiscovered(evaluation: Evaluation) -> Value:
    """Accuracy on the corrupted training images that were not found, against their true labels.

    Formula:
        The share of corrupted retain images whose largest logit is their true class's. None where all were found.

    Cannot see:
        Which of two wrong answers is given, the corrupted label or a third class.

    Source:
        Goel et al., "Corrective Machine Unlearning", TMLR 2024, https://arxiv.org/abs/2402.14015, section 4: a method
        that only forgets what it is given leaves these as they were learnt.
    """
    assert evaluation.undiscovered is not None
    return accuracy(evaluation.undiscovered)
