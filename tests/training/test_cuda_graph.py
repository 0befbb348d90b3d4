"""What surrounds a recorded step can be tried without CUDA; the recording itself is in `test_gpu.py`."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from salun.data.images import Batch
from salun.data.sets import Sets
from salun.training import step as step_module
from salun.training.cost import PassCounter
from salun.training.cuda_graph import EAGER_STEPS, CudaGraphStep
from salun.training.runtime import Runtime
from salun.training.step import Step, TrainStep, cross_entropy

CPU = torch.device("cpu")


class Repeated:
    """Takes the place of a recorded step: repeats it with its own copy of the batch, unseen by hooks."""

    made: ClassVar[list["Repeated"]] = []
    unseen: ClassVar[PassCounter] = PassCounter()

    def __init__(self, take: Callable[[Batch], None], batch: Batch, optimizer: object) -> None:
        self.take, self.batch, self.replays = take, Batch(*(part.clone() for part in batch)), 0
        self.made.append(self)

    def fits(self, batch: Batch) -> bool:
        return batch.x.shape == self.batch.x.shape

    def replay(self, batch: Batch) -> None:
        self.replays += 1
        for own, given in zip(self.batch, batch, strict=True):
            own.copy_(given)
        with self.unseen.paused():
            self.take(self.batch)


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> list[Repeated]:
    monkeypatch.setattr(step_module, "CudaGraphStep", Repeated)
    monkeypatch.setattr(Repeated, "made", [])
    return Repeated.made


def small_model() -> Any:
    torch.manual_seed(0)
    layers = {"conv1": nn.Conv2d(1, 4, 3), "bn1": nn.BatchNorm2d(4), "flatten": nn.Flatten(), "fc": nn.Linear(144, 10)}
    return nn.Sequential(OrderedDict(layers))


def stepper_of(model: nn.Module, recorded: bool = True, grad_clip: float | None = None, optimizers: int = 1) -> Any:
    made = [torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True) for _ in range(optimizers)]
    stepper = TrainStep(model.train(), made, Runtime(), grad_clip=grad_clip)
    stepper.recordable = recorded
    return stepper


def take_epoch(stepper: TrainStep, steps: Iterable[Step]) -> list[float]:
    stepper.begin()
    for step in steps:
        stepper.take(step)
    return stepper.summed.tolist()


def trained_on(
    sets: Sets, recorded: bool, grad_clip: float | None = None, loss: object = None
) -> tuple[dict[str, torch.Tensor], list[list[float]], dict[str, int]]:
    model = small_model()
    stepper = stepper_of(model, recorded, grad_clip)
    Repeated.unseen = stepper.passes
    taken, figures = sets.retain.take(torch.arange(16 * (EAGER_STEPS + 3) + 5)), []
    with stepper.passes.counting(model):
        for epoch in range(2):
            batches = taken.batches(16, torch.Generator().manual_seed(epoch))
            figures.append(take_epoch(stepper, (Step(batch, loss) for batch in batches)))
    return model.state_dict(), figures, stepper.passes.counts


@pytest.mark.parametrize("grad_clip", [None, 0.5])
def test_recorded_steps_give_what_others_give(sets: Sets, repeated: list[Repeated], grad_clip: float | None) -> None:
    plain = trained_on(sets, False, grad_clip)
    assert not repeated
    found = trained_on(sets, True, grad_clip)
    assert len(repeated) == 1
    assert repeated[0].replays == 3 + EAGER_STEPS + 3
    assert all(torch.equal(found[0][name], plain[0][name]) for name in plain[0])
    assert found[1:] == plain[1:]


def test_steps_of_another_loss_are_not_recorded(sets: Sets, repeated: list[Repeated]) -> None:
    trained_on(sets, True, loss=lambda logits, batch: 2 * cross_entropy(logits, batch))
    assert not repeated


@pytest.mark.parametrize(("size", "forgets"), [(16, True), (8, False)])
def test_only_the_optimizers_own_steps_count(sets: Sets, repeated: list[Repeated], size: int, forgets: bool) -> None:
    stepper = stepper_of(small_model(), optimizers=2)
    before = sets.retain.take(torch.arange(size * (EAGER_STEPS + 2)))
    take_epoch(stepper, (Step(batch, forgets=forgets) for batch in before.batches(size)))
    repeated.clear()
    steps = [Step(batch) for batch in sets.retain.take(torch.arange(16 * (EAGER_STEPS + 1))).batches(16)]
    take_epoch(stepper, steps[:-1])
    assert not repeated
    assert stepper.optimizers[0].state
    take_epoch(stepper, steps[-1:])
    assert len(repeated) == 1


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """What is asked of CUDA while a step is recorded, where there is none."""
    asked: list[tuple[str, object]] = []

    def note(name: str, value: object) -> AbstractContextManager[None]:
        asked.append((name, value))
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", lambda _, stream, **options: note("stream", stream))
    monkeypatch.setattr(torch.cuda, "device", lambda given: note("device", given))
    monkeypatch.setattr(torch.cuda, "Stream", lambda given: ("stream of", given))
    return asked


def test_a_step_is_recorded_where_its_batch_is(noted: list[tuple[str, object]]) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    batch = Batch(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), torch.arange(2))
    step = CudaGraphStep(lambda _: None, batch, optimizer)
    assert noted == [("device", CPU), ("stream", ("stream of", CPU))]
    labels = torch.ones(2, dtype=torch.int64)
    assert step.fits(Batch(torch.ones(2, 1, 4, 4), labels, torch.arange(2)))
    for x, y in ((torch.ones(1, 1, 4, 4), labels[:1]), (batch.x, torch.ones(2, 3)), (batch.x, torch.ones(2))):
        assert not step.fits(Batch(x, y, torch.arange(len(x))))


def test_what_cannot_be_recorded_is_taken_step_by_step(sets: Sets, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def refuse(*given: object) -> None:
        tried.append(given)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(step_module, "CudaGraphStep", refuse)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    plain, found = (trained_on(sets, recorded) for recorded in (False, True))
    assert len(tried) == 1
    assert all(torch.equal(found[0][name], plain[0][name]) for name in plain[0])
    assert found[2] == plain[2]


def test_a_lack_of_memory_while_a_step_is_recorded_splits_no_later_step(
    sets: Sets, repeated: list[Repeated], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model()
    stepper = stepper_of(model)
    steps = [Step(batch) for batch in sets.retain.take(torch.arange(16 * (EAGER_STEPS + 3))).batches(16)]
    take_epoch(stepper, steps[:EAGER_STEPS])

    def without_room(*given: object) -> None:
        raise torch.OutOfMemoryError("no room")

    def recorded(self: Repeated, take: Callable[[Batch], None], batch: Batch, optimizer: object) -> None:
        hook = model.register_forward_pre_hook(without_room)
        try:
            take(batch)
        finally:
            hook.remove()

    monkeypatch.setattr(Repeated, "__init__", recorded)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    take_epoch(stepper, steps[EAGER_STEPS:])
    assert not stepper.recordable
    assert stepper.passes.micro_batches == 1


def test_steps_that_forget_are_recorded_where_one_optimizer_takes_all(sets: Sets, repeated: list[Repeated]) -> None:
    stepper = stepper_of(small_model())
    batches = sets.retain.take(torch.arange(16 * (EAGER_STEPS + 3))).batches(16)
    take_epoch(stepper, (Step(batch, forgets=True) for batch in batches))
    (step,) = repeated
    assert step.replays == 3


def move(model: Any) -> None:
    model.fc.weight.data = model.fc.weight.data.clone()


@pytest.mark.parametrize(
    "change", [lambda model: model.fc.weight.requires_grad_(False), lambda model: model.bn1.eval(), move]
)
def test_a_changed_model_is_recorded_anew(sets: Sets, repeated: list[Repeated], change: Callable[[Any], Any]) -> None:
    model = small_model()
    stepper = stepper_of(model)
    taken = sets.retain.take(torch.arange(16 * (EAGER_STEPS + 2)))
    for recorded in (1, 1, 2):
        if recorded == 2:
            change(model)
        take_epoch(stepper, map(Step, taken.batches(16)))
        assert len(repeated) == recorded
