"""Accuracies on the forget, retain, validation and test set, and the cost in time."""

import torch

from salun.metrics import Evaluation, Value, metric
from salun.metrics.matching import together
from salun.training.evaluate import Outputs, accuracy


@metric("UA", needs=("forget",), default=True)
def unlearning_accuracy(evaluation: Evaluation) -> Value:
    """Unlearning accuracy: 1 - accuracy on the forget set.

    Formula:
        UA = 1 - a_f, with a_f the share of forget images whose largest logit is the true class's.

    Cannot see:
        Confidence: a model may predict as before and only less surely, or still tell the forget images apart.

    Source:
        Fan et al., "SalUn", ICLR 2024, section 5.1.
    """
    return 1 - accuracy(evaluation.forget)


@metric("RA", needs=("retain",), default=True)
def retain_accuracy(evaluation: Evaluation) -> Value:
    """Remaining accuracy: accuracy on the retain set.

    Formula:
        RA = a_r, the share of retain images that are classified right.

    Cannot see:
        Harm to images that were not trained on; that is TA's.

    Source:
        Fan et al., "SalUn", ICLR 2024, section 5.1.
    """
    return accuracy(evaluation.retain)


@metric("VA", needs=("validation",), default=True)
def validation_accuracy(evaluation: Evaluation) -> Value:
    """Validation accuracy, without the forgotten classes.

    Formula:
        VA = the share of validation images of the remaining classes that are classified right.

    Cannot see:
        What it was used to choose: settings searched on the validation set look better on it than they are.

    Source:
        The validation split of Fan et al., "SalUn", ICLR 2024, appendix C.
    """
    return accuracy(evaluation.validation)


@metric("TA", needs=("test",), default=True)
def test_accuracy(evaluation: Evaluation) -> Value:
    """Test accuracy, without the forgotten classes.

    Formula:
        TA = a_t, the share of test images of the remaining classes that are classified right.

    Cannot see:
        Which images are wrong: two models of one accuracy may disagree on many (see `disagreement`).

    Source:
        Fan et al., "SalUn", ICLR 2024, section 5.1.
    """
    return accuracy(evaluation.test)


@metric("TUA", needs=("forgotten_test",), default=True, derived=True)
def test_unlearning_accuracy(evaluation: Evaluation) -> Value:
    """Accuracy on the test images of the forgotten classes.

    Formula:
        TUA = the share of test images of the forgotten classes that are classified right.

    Cannot see:
        Whether the class is still apart in the model's features, where a new head would find it.

    Source:
        The SalUn DeepDive project and the notebook of the seed documents.
    """
    return accuracy(evaluation.forgotten_test)


@metric("TRA", needs=("test", "forgotten_test"), derived=True)
def test_remaining_accuracy(evaluation: Evaluation) -> Value:
    """Accuracy on the test images of the remaining classes, where classes are forgotten: TA under its other name.

    Formula:
        TRA = a_t.

    Cannot see:
        What TA cannot.

    Source:
        The notebook of the seed documents.
    """
    return accuracy(evaluation.test)


@metric("corrected_accuracy", needs=("forget",), gone=True, derived=True)
def corrected_accuracy(evaluation: Evaluation) -> Value:
    """Corrected accuracy: accuracy on rightly labelled test images of the classes that the forget images bear.

    Formula:
        corrected_accuracy = the share of test images that are classified right, among those whose class occurs among
        the labels of the forget set.

    Cannot see:
        A backdoor: test images bear no trigger, so manipulations that need one do not show. It says something only
        where labels of forget images were wrong: else it is TUA where whole classes are forgotten, and TA where the
        forget images are of all classes.

    Returns:
        None where there are no such test images.

    Source:
        Acc_corr of Goel et al., "Corrective Machine Unlearning", TMLR 2024, arXiv 2402.14015, section 3, for the
        interclass confusion there: the affected domain is the classes whose labels were confused.
    """
    test = together(evaluation.test, evaluation.forgotten_test)
    affected = torch.isin(test.labels, evaluation.forget.labels)
    return accuracy(Outputs(test.logits[affected], test.labels[affected])) if bool(affected.any()) else None


@metric("RTE", unit="s", direction="lower", ideal="low", default=True)
def running_time(evaluation: Evaluation) -> Value:
    """Running time: wall seconds of mask and method, without evaluation and logging.

    Formula:
        RTE = seconds of the mask + seconds of the method.

    Cannot see:
        The machine, which the record names, and what else it was doing.

    Source:
        Fan et al., "SalUn", ICLR 2024, section 5.1.
    """
    return evaluation.seconds


@metric("passes", unit="images", direction="lower", ideal="low", default=True)
def image_passes(evaluation: Evaluation) -> Value:
    """Image passes: images that went forward or backward through a model for mask and method, teachers included.

    Formula:
        passes = images forward + images backward, each counted as often as it went.

    Cannot see:
        What a pass costs: a backward pass takes about twice a forward pass, a second-order one more, and a pass
        through a layer is not counted. The seconds of work without images are in RTE alone.

    Returns:
        A count; methods are compared at equal compute where theirs are equal. None for a model that was not unlearned.

    Source:
        This project.
    """
    return evaluation.passes
