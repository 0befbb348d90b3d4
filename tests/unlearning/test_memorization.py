import math

import pytest
import torch

from salun.data.dataset import Dataset
from salun.data.sets import Sets, make_sets, prepare
from salun.data.split import ForgetRequest, make_split
from salun.models.checkpoint import Checkpoint
from salun.training.evaluate import predict
from salun.unlearning.memorization import cross_entropy_score, symmetric_kl

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sets(digits: Dataset) -> Sets:
    split = make_split(digits, ForgetRequest(classes=(0,)))
    return make_sets(digits, split, prepare(digits, split), CPU)


def test_doubt_is_least_where_the_true_class_is_surest(sets: Sets, trained: Checkpoint) -> None:
    model = trained.restore()
    images = sets.validation.take(torch.arange(40))
    probabilities = predict(model, images).logits.double().softmax(1)
    true = probabilities[torch.arange(40), images.labels]
    assert torch.allclose(cross_entropy_score(model, images), -true.log(), atol=1e-9)
    wrong = images.relabel((images.labels + 1) % 10)
    assert bool((cross_entropy_score(model, wrong) > cross_entropy_score(model, images)).float().mean() > 0.9)


def test_divergence_is_the_mean_of_both_directions(sets: Sets, trained: Checkpoint) -> None:
    model, other = trained.restore(), trained.restore()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(0.7)
    images = sets.validation.take(torch.arange(40))
    p, q = (predict(each, images).logits.double().softmax(1) for each in (model, other))
    for row, found in enumerate(symmetric_kl(model, other, images).tolist()):
        there = sum(a * math.log(a / b) for a, b in zip(p[row].tolist(), q[row].tolist(), strict=True))
        back = sum(b * math.log(b / a) for a, b in zip(p[row].tolist(), q[row].tolist(), strict=True))
        assert found == pytest.approx((there + back) / 2, rel=1e-3, abs=1e-6)
    assert torch.equal(symmetric_kl(model, other, images), symmetric_kl(other, model, images))
    assert not bool(symmetric_kl(model, model, images).any())
