from dataclasses import replace

import numpy as np
import pytest
import torch
from outputs import CLASS_WISE, SIZES, holds, model, of_losses, outputs

from salun.metrics import Evaluation, evaluate
from salun.training.evaluate import Outputs


def value(subject: Evaluation) -> float | None:
    return evaluate(subject, ("simple_MIA",))["simple_MIA"]


def attack(members: np.ndarray, others: np.ndarray) -> float | None:
    return value(replace(model(), forget=of_losses(members), test=of_losses(others)))


def test_shuffled_membership_has_a_half() -> None:
    found = []
    for seed in range(20):
        pool = outputs(600, labels=seed)
        order = torch.from_numpy(np.random.default_rng(seed).permutation(600))
        forget, test = (Outputs(pool.logits[rows], pool.labels[rows]) for rows in (order[:300], order[300:]))
        found.append(value(replace(model(), forget=forget, test=test)))
    assert holds(found, 0.5)


def test_perfect_separation_has_1() -> None:
    assert value(replace(model(), forget=outputs(60, sure=60.0))) > 0.8
    assert attack(np.full(40, 0.1), np.full(90, 9.0)) == 1


def test_equal_losses_have_a_half() -> None:
    assert attack(np.ones(50), np.ones(50)) == 0.5


def test_kinds_count_alike_whatever_their_number() -> None:
    chance = np.random.default_rng(0)
    few, many = (chance.exponential(size=count) for count in (60, 6000))
    # The larger kind alone would give 0.99.
    assert attack(few, many) < 0.7


def test_class_wise_the_unseen_images_are_of_the_forgotten_classes() -> None:
    class_wise = model(sizes=CLASS_WISE)
    assert value(class_wise) == value(replace(model(), forget=class_wise.forget, test=class_wise.forgotten_test))
    assert value(class_wise) == value(replace(class_wise, test=outputs(80, sure=50.0)))


@pytest.mark.parametrize("few", ["forget", "test"])
def test_few_images_have_no_value(few: str) -> None:
    assert value(model(sizes=SIZES | {few: 10})) is not None
    assert value(model(sizes=SIZES | {few: 9})) is None
