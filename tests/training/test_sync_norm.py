import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from salun.training.sync_norm import PooledNorms


class Meeting:
    """Threads that add up what they bring, as processes do."""

    def __init__(self, size: int) -> None:
        self.brought: list[Tensor | None] = [None] * size
        self.gate = threading.Barrier(size)

    def total(self, place: int) -> Callable[[Tensor], Tensor]:
        def add(values: Tensor) -> Tensor:
            self.brought[place] = values
            self.gate.wait(20)
            added = torch.stack(self.brought).sum(0)
            self.gate.wait(20)
            return added

        return add


def normalised(layers: list[nn.Module], shares: Sequence[Tensor], gradients: Sequence[Tensor], counted: list[bool]):
    """Send each share through its own layer, all at once; gives outputs and gradients of the shares."""
    meeting, found = Meeting(len(layers)), {}

    def work(place: int) -> None:
        x = shares[place].clone().requires_grad_()
        with PooledNorms(meeting.total(place), counted[place]):
            y = layers[place](x)
        y.backward(gradients[place] * counted[place])
        found[place] = (y.detach(), x.grad)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(layers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [found[place] for place in range(len(layers))]


LAYERS = {
    "2d": (lambda: nn.BatchNorm2d(5), (5, 4, 3)),
    "plain": (lambda: nn.BatchNorm2d(5, affine=False), (5, 2, 2)),
    "cumulative": (lambda: nn.BatchNorm2d(5, momentum=None), (5, 3, 3)),
    "untracked": (lambda: nn.BatchNorm2d(5, track_running_stats=False), (5, 3, 3)),
    "1d": (lambda: nn.BatchNorm1d(5, momentum=0.3, eps=1e-3), (5,)),
    "timm's": (lambda: BatchNormAct2d(5), (5, 4, 4)),
}
SHARES = [[3, 5], [1, 7], [2, 1, 5], [8, 0], [0, 3, 0, 5]]


@pytest.mark.parametrize("sizes", SHARES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_shares_are_normalised_as_the_whole_batch_is(name: str, sizes: list[int]) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(1)
    whole = make().double()
    for weight in whole.parameters():
        nn.init.normal_(weight)
    layers = [deepcopy(whole) for _ in sizes]
    x, gradient = (torch.randn(sum(sizes), *shape, dtype=torch.float64) * 3 + 2 for _ in range(2))
    joined = x.clone().requires_grad_()
    y = whole(joined)
    y.backward(gradient)
    counted = [size > 0 for size in sizes]
    spare = torch.randn(1, *shape, dtype=torch.float64) * 100
    shares, gradients = ([part if len(part) else spare for part in values.split(sizes)] for values in (x, gradient))
    found = normalised(layers, shares, gradients, counted)
    outputs, returned = zip(*found, strict=True)
    kept = [place for place, counts in enumerate(counted) if counts]
    torch.testing.assert_close(torch.cat([outputs[place] for place in kept]), y.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.cat([returned[place] for place in kept]), joined.grad, rtol=1e-9, atol=1e-9)
    for place, counts in enumerate(counted):
        assert counts or not returned[place].any()
    for parameter, parts in zip(
        whole.parameters(), zip(*(one.parameters() for one in layers), strict=True), strict=True
    ):
        torch.testing.assert_close(sum(part.grad for part in parts), parameter.grad, rtol=1e-9, atol=1e-9)
    for layer in layers:
        for expected, own, first in zip(whole.buffers(), layer.buffers(), layers[0].buffers(), strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-9)
            assert torch.equal(own, first)


@pytest.mark.parametrize(("kind", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_variance_far_below_the_mean_is_not_lost(kind: torch.dtype, close: float) -> None:
    torch.manual_seed(0)
    layers = [nn.BatchNorm2d(3, affine=False) for _ in range(2)]
    x = (torch.randn(6, 3, 8, 8) + 300).to(kind)
    found = normalised(layers, x.split(3), torch.ones_like(x).split(3), [True, True])
    expected = nn.BatchNorm2d(3, affine=False).double()(x.double())
    y = torch.cat([output for output, _ in found])
    assert y.dtype == kind
    torch.testing.assert_close(y.double(), expected, rtol=close, atol=close * 10)


def test_evaluation_asks_nobody() -> None:
    layer, x = nn.BatchNorm2d(3).eval(), torch.randn(4, 3, 5, 5)
    with PooledNorms(lambda values: pytest.fail("asked")):
        y = layer(x)
    assert torch.equal(y, layer(x))


def test_a_model_without_batch_normalisation_is_as_ever() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()), torch.randn(4, 3, 5, 5)
    with PooledNorms(lambda values: pytest.fail("asked")):
        y = model(x)
    assert torch.equal(y, model(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("kind", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_cuda_normalises_as_ever(kind: torch.dtype, close: float) -> None:
    torch.manual_seed(0)
    layers = [nn.BatchNorm2d(8).cuda() for _ in range(2)]
    x = torch.randn(16, 8, 6, 6, device="cuda").to(kind).to(memory_format=torch.channels_last)
    gradient, found = torch.randn_like(x), []
    for layer, context in zip(layers, (nullcontext(), PooledNorms(lambda values: values)), strict=True):
        given = x.clone().requires_grad_()
        with context:
            y = layer(given)
        y.backward(gradient)
        found.append([y, given.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var])
    for expected, own in zip(*found, strict=True):
        torch.testing.assert_close(own, expected, rtol=close, atol=close)
