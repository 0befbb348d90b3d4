from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from cuda_sync import host_reads
from problems import first_of, make_task
from test_every_method import RUM_FT, RUM_RL, quick

from salun.data.sets import Sets
from salun.device import seed_globally
from salun.models.checkpoint import Checkpoint
from salun.training.evaluate import predict
from salun.training.progress import Progress
from salun.training.recipe import Recipe
from salun.unlearning import METHODS, load_methods, unlearn
from salun.unlearning.mask import saliency

load_methods()
CPU = torch.device("cpu")
NAMES = sorted(METHODS)
BATCH = 8
RECIPE = Recipe(epochs=1, lr=0.1, batch_size=BATCH)
SMALL: dict[str, Any] = {
    "batch_size": BATCH,
    "forget_batch_size": BATCH,
    "methods": ["nothing", RUM_FT | {"batch_size": BATCH}, RUM_RL | {"batch_size": BATCH}],
    "retain_steps": 2,
}
# The search for adversarial images, before the first epoch, goes on with those of a batch that are not found yet: how
# many that are decides how much is computed next, and the host must know it.
SEARCHING = {"amun"}


class Reads(NamedTuple):
    """How often the host waited: between an epoch's first step and its last, for each epoch, and in all."""

    within: list[int]
    total: int


class Follower:
    """Notes the reads at each step of each epoch."""

    def __init__(self, count: Callable[[], int]) -> None:
        self.count = count
        self.epochs: list[list[int]] = [[]]

    def __call__(self, progress: Progress) -> None:
        if progress.done:
            self.epochs.append([])
        else:
            self.epochs[-1].append(self.count())

    @property
    def within(self) -> list[int]:
        return [steps[-1] - steps[0] for steps in self.epochs if len(steps) > 1]


def kth_largest(values: torch.Tensor, count: int) -> torch.Tensor:
    return values.kthvalue(len(values) - count + 1).values


Run = Callable[..., Reads]


@pytest.fixture(scope="module")
def run(sets: Sets, trained: Checkpoint) -> Run:
    def run(name: str, count: int, keep: float | None = None, grad_clip: float | None = None) -> Reads:
        seed_globally(0)
        task = make_task(trained, first_of(sets, count), recipe=RECIPE)
        settings = {key: SMALL.get(key, value) for key, value in quick(name).items()}
        settings |= {key: value for key, value in SMALL.items() if key in METHODS[name].settings}
        settings |= {} if grad_clip is None else {"grad_clip": grad_clip}
        mask = None if keep is None else saliency(task.model, task.forget, keep)
        with host_reads() as reads, pytest.MonkeyPatch.context() as patch:
            # Off the CPU, whose own way this is not, a threshold is found by what does not wait for it.
            for user in ("salun.unlearning.topk", "salun.unlearning.methods.salun_soft"):
                patch.setattr(f"{user}.largest", kth_largest)
            follower = Follower(lambda: reads.total)
            task.runtime = replace(task.runtime, callback=follower)
            unlearn(task, name, settings, mask)
        return Reads(follower.within, reads.total)

    return run


@pytest.mark.parametrize("name", NAMES)
def test_no_step_of_an_epoch_waits_for_the_device_and_more_images_cost_no_more_waiting(name: str, run: Run) -> None:
    many = run(name, 24)
    if "epochs" in METHODS[name].settings or name == "retrain":
        assert many.within
        assert not any(many.within)
    if name not in SEARCHING:
        assert run(name, 16).total == many.total


@pytest.mark.parametrize("name", ["rl", "rl_split"])
def test_neither_mask_nor_clipping_waits(name: str, run: Run) -> None:
    assert run(name, 24, 0.5, 1.0).within == [0]


def test_evaluation_waits_once(sets: Sets, trained: Checkpoint) -> None:
    model, counts = trained.restore(), []
    for batch_size in (8, 96):
        with host_reads() as reads:
            predict(model, sets.forget, batch_size)
        counts.append(reads.total)
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "read",
    [
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: torch.tensor([1, 2]),
        lambda x: x[[0, 1]],
        lambda x: torch.multinomial(x.abs(), 1),
        lambda x: torch.bincount(x.long().abs(), minlength=4),
    ],
)
def test_what_waits_is_seen(read: Callable[[torch.Tensor], Any]) -> None:
    x = torch.randn(20, generator=torch.Generator().manual_seed(0))
    with host_reads() as reads:
        y = torch.where(x > 0, x, -x)[torch.arange(10)].masked_fill(x[:10] > 1, 0)
        y[y > 1] = 0
        assert reads.total == 0
        read(x)
    assert reads.total > 0
