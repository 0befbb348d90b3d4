from dataclasses import replace

import numpy as np
import torch
from outputs import CLASS_WISE, model

from salun.metrics import evaluate
from salun.training.evaluate import Outputs

NAMES = ("prediction_matrix", "confidence_matrix")


def test_definitions_on_the_test_images_of_all_classes() -> None:
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]])
    test = Outputs(probabilities[:2].log(), torch.tensor([0, 0]))
    forgotten = Outputs(probabilities[2:].log(), torch.tensor([1]))
    found = evaluate(replace(model(), test=test, forgotten_test=forgotten), NAMES)
    assert found["prediction_matrix"] == [[0.5, 0.5, 0], [0, 0, 1], [None] * 3]
    np.testing.assert_allclose(found["confidence_matrix"][:2], [[0.4, 0.5, 0.1], [0.1, 0.1, 0.8]], rtol=1e-6)
    assert found["confidence_matrix"][2] == [None] * 3


def test_rows_add_up_to_1() -> None:
    for matrix in evaluate(model(sizes=CLASS_WISE), NAMES).values():
        np.testing.assert_allclose(np.sum(matrix, axis=1), 1, rtol=1e-6)
