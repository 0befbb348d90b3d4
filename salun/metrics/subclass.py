"""Where a part of a class is forgotten: accuracy on that part, on the rest of its class, and on the other classes."""

import torch
from torch import Tensor

from salun.metrics import Evaluation, Value, metric
from salun.training.evaluate import Outputs, accuracy


@metric("subclass", needs=("forget", "test", "forgotten_test"), derived=True)
def subclass_accuracy(evaluation: Evaluation) -> Value:
    """Accuracy on the training images of the forgotten subclass.

    Formula:
        The share of forget images that are classified right: 1 - UA. None where test images of no sibling are there.

    Cannot see:
        What test images of the subclass show: a class that generalises to it from its siblings.

    Source:
        Chundawat et al., "Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks using an Incompetent
        Teacher", AAAI 2023, https://arxiv.org/abs/2205.08096: forget set accuracy on subclasses of CIFAR-20.
    """
    return accuracy(evaluation.forget) if bool(_siblings(evaluation).any()) else None


@metric("subclass_test", needs=("test", "forgotten_test"), derived=True)
def subclass_test_accuracy(evaluation: Evaluation) -> Value:
    """Accuracy on the test images of the forgotten subclass.

    Formula:
        The share of its test images that are classified right: TUA. None where test images of no sibling are there.

    Cannot see:
        Whether the model tells the subclass from its siblings; their label is the same.

    Source:
        As for `subclass`.
    """
    return accuracy(evaluation.forgotten_test) if bool(_siblings(evaluation).any()) else None


@metric("siblings", needs=("test", "forgotten_test"))
def sibling_accuracy(evaluation: Evaluation) -> Value:
    """Accuracy on the test images of the siblings: the other subclasses of the classes that the forgotten one is of.

    Formula:
        The share classified right of those test images to be kept whose label a test image of the subclass has.

    Cannot see:
        Which sibling suffers: their mean may hide one that went with the forgotten subclass.

    Source:
        This project.
    """
    return accuracy(_part(evaluation.test, _siblings(evaluation)))


@metric("others", needs=("test", "forgotten_test"))
def other_accuracy(evaluation: Evaluation) -> Value:
    """Accuracy on the test images of the classes of which nothing is forgotten.

    Formula:
        The share classified right of those test images whose label no test image of the subclass has. None where no
        test images of siblings are there.

    Cannot see:
        Images of the siblings, which are in TA beside these.

    Source:
        This project.
    """
    siblings = _siblings(evaluation)
    return accuracy(_part(evaluation.test, ~siblings)) if bool(siblings.any()) else None


def _siblings(evaluation: Evaluation) -> Tensor:
    """Tell which test images to be kept share their label with a forgotten test image: (N,) bool."""
    return torch.isin(evaluation.test.labels, evaluation.forgotten_test.labels)


def _part(outputs: Outputs, chosen: Tensor) -> Outputs:
    """Take some images of a set."""
    return Outputs(outputs.logits[chosen], outputs.labels[chosen])
