from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from features import grams
from salun.metrics.hsic import Similarity

PAIRS = ["AA", "AB", "BA", "AC", "BC"]
# Both packages compute in float32 and are up to 1e-6 from each other.
ROUNDING = 2e-6


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hsic(first: Tensor, second: Tensor) -> float:
    total = Similarity()
    total.add(grams(first), grams(second))
    return float(np.asarray(total.cross)[0, 0])


def cka(first: Tensor, second: Tensor, size: int = 1000) -> float:
    total = Similarity()
    for one, other in zip(first.split(size), second.split(size), strict=True):
        total.add(grams(one), grams(other))
    return float(total.values()[0, 0])


def by_hand(first: Tensor, second: Tensor) -> float:
    """The formula of the unbiased estimate, term by term."""
    k, l = (part.flatten(1).double() @ part.flatten(1).double().T for part in (first, second))  # noqa: E741
    k.fill_diagonal_(0)
    l.fill_diagonal_(0)
    n, one = len(k), torch.ones(len(k), dtype=torch.float64)
    terms = torch.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return float((terms - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3)))


def golden_batches(pair: str) -> Iterator[tuple[Tensor, Tensor]]:
    arrays, size = reference.arrays("cka"), reference.settings("cka")["batch_size"]
    yield from zip(*(arrays[name].split(size) for name in pair), strict=True)


@pytest.mark.parametrize("pair", PAIRS)
def test_hsic_of_each_batch_equals_torch_cka(pair: str) -> None:
    wanted = reference.arrays("cka")[f"hsic_{pair}"].numpy()
    for row, (first, second) in zip(wanted, golden_batches(pair), strict=True):
        found = [hsic(first, first), hsic(first, second), hsic(second, second)]
        # float32 there: its error grows with the products that cancel, not with the estimate.
        np.testing.assert_allclose(found, row, rtol=2e-6, atol=2e-6 * np.sqrt(row[0] * row[2]))


@pytest.mark.parametrize("pair", PAIRS)
def test_equals_the_averages_of_hsic_in_float64(pair: str) -> None:
    sums = np.zeros(3)
    for first, second in golden_batches(pair):
        sums += [by_hand(first, first), by_hand(first, second), by_hand(second, second)]
    arrays, size = reference.arrays("cka"), reference.settings("cka")["batch_size"]
    found = cka(arrays[pair[0]], arrays[pair[1]], size)
    assert found == pytest.approx(sums[1] / np.sqrt(sums[0] * sums[2]), abs=1e-12)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("package", ["torch_cka", "pytorch_cka"])
@pytest.mark.parametrize("batches", ["", "_one_batch"])
def test_equals_both_packages(pair: str, package: str, batches: str) -> None:
    arrays, settings = reference.arrays("cka"), reference.settings("cka")
    size = settings["n"] if batches else settings["batch_size"]
    found = cka(arrays[pair[0]], arrays[pair[1]], size)
    wanted = settings["pairs"][pair][package + batches]
    clamped = min(max(found, 0), 1) if package == "pytorch_cka" else found
    assert clamped == pytest.approx(wanted, abs=ROUNDING)


@pytest.mark.parametrize("shape", [(4, 5), (30, 7), (30, 3, 4, 5)])
def test_hsic_equals_its_formula(shape: Sequence[int]) -> None:
    first, second = drawn(0, *shape) + 3, drawn(1, shape[0], 6) - 2
    assert hsic(first, second) == pytest.approx(by_hand(first, second), rel=1e-9)


def test_neither_rotation_nor_scale_nor_shift_counts() -> None:
    first, second = drawn(0, 60, 12), drawn(1, 60, 9)
    second[:, :5] += first[:, :5]
    rotation = torch.linalg.qr(drawn(2, 12, 12)).Q
    wanted = cka(first, second, 20)
    assert 0.05 < wanted < 0.95
    assert cka(first, first, 20) == pytest.approx(1, abs=1e-12)
    assert cka(first, first @ torch.diag(torch.arange(12.0, dtype=torch.float64)), 60) < 0.99
    assert cka(first @ rotation * 7 + 100, second, 20) == pytest.approx(wanted, abs=1e-9)
    assert cka(second, first, 20) == pytest.approx(wanted, abs=1e-12)


def test_unrelated_features_are_near_0_in_the_mean_though_batches_are_small() -> None:
    values = [cka(drawn(seed, 64, 200), drawn(seed + 1000, 64, 200), 8) for seed in range(40)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 40**0.5
    assert min(values) < 0 < max(values)


def test_every_layer_against_every_layer() -> None:
    first, second = [drawn(seed, 20, 6) for seed in range(3)], [drawn(seed, 20, 4, 2) for seed in range(5, 7)]
    total = Similarity()
    total.add(grams(*first), grams(*second))
    wanted = [[cka(one, other) for other in second] for one in first]
    np.testing.assert_allclose(total.values(), wanted, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_features_that_are_all_alike_have_no_similarity(value: float) -> None:
    features = drawn(0, 30, 6).float()
    assert np.isnan(cka(torch.full((30, 6), value), features))
    assert np.isnan(cka(features, torch.full((30, 6), value)))


def test_nearly_constant_features_lose_no_precision() -> None:
    first, second = drawn(0, 40, 6), drawn(0, 40, 6) + drawn(1, 40, 6)
    assert cka(first * 1e-4 + 1000, second) == pytest.approx(cka(first, second), abs=1e-6)
