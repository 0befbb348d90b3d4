from dataclasses import replace

import pytest
from outputs import model, of_accuracy

from salun.metrics import evaluate

NAMES = ("ASR", "CA_found", "CA_undiscovered")


def test_each_is_the_share_of_its_own_set() -> None:
    more = {"triggered": of_accuracy(3, 1), "found": of_accuracy(1, 4), "undiscovered": of_accuracy(1, 1)}
    found = evaluate(replace(model(), **more), NAMES)
    assert found == pytest.approx({"ASR": 0.75, "CA_found": 0.2, "CA_undiscovered": 0.5})


def test_there_is_none_of_data_that_were_not_corrupted_nor_of_an_empty_set() -> None:
    assert evaluate(model(), NAMES) == dict.fromkeys(NAMES)
    assert evaluate(replace(model(), undiscovered=of_accuracy(0, 0)), NAMES) == dict.fromkeys(NAMES)
