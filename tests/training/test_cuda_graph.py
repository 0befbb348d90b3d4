"""What surrounds a recorded step can be tried without CUDA; the recording itself is in `test_gpu.py`."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from salun.data.dataset import Dataset
from salun.data.images import Batch
from salun.data.sets import Sets, make_sets, prepare
from salun.data.split import ForgetRequest, make_split
from salun.models.checkpoint import Checkpoint
from salun.training import step as step_module
from salun.training.cost import PassCounter
from salun.training.cuda_graph import EAGER_STEPS, CudaGraphStep, on_device, recording_stream
from salun.training.loop import TrainingState, run_epoch
from salun.training.progress import EpochProgress, no_callback, nothing
from salun.training.step import Step, TrainStep, cross_entropy

CPU = torch.device("cpu")


def through(stepper: TrainStep, steps: Iterable[Batch | Step], pace: EpochProgress) -> tuple[int, float, float]:
    return run_epoch(TrainingState(stepper, [], None), lambda _: steps, pace)


@pytest.fixture(scope="module")
def sets(digits: Dataset) -> Sets:
    parts = make_split(digits, ForgetRequest(classes=(0,)))
    return make_sets(digits, parts, prepare(digits, parts), CPU)


class Repeated:
    """Takes the place of a recorded step: repeats it with its own copy of the batch, unseen by hooks."""

    made: ClassVar[list["Repeated"]] = []
    unseen: ClassVar[PassCounter] = PassCounter()

    def __init__(self, take: Callable[[Batch], None], batch: Batch, optimizer: torch.optim.Optimizer) -> None:
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


def trained_on(
    sets: Sets,
    trained: Checkpoint,
    recorded: bool,
    epochs: int = 2,
    grad_clip: float | None = None,
    loss: object = None,
) -> tuple[dict[str, torch.Tensor], list[tuple[int, float, float]], PassCounter]:
    model, passes = trained.restore().train(), PassCounter()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    stepper = TrainStep(model, [optimizer], cross_entropy, grad_clip, "float32", nothing, passes, False)
    stepper.recordable = recorded
    Repeated.unseen = passes
    taken, figures = sets.retain.take(torch.arange(16 * (EAGER_STEPS + 3) + 5)), []
    with passes.counting(model):
        for epoch in range(epochs):
            generator = torch.Generator().manual_seed(epoch)
            steps = (Step(batch, loss) for batch in taken.batches(16, generator))
            figures.append(through(stepper, steps, EpochProgress(epoch, epochs, 0.0, no_callback)))
    return model.state_dict(), figures, passes


@pytest.mark.parametrize("grad_clip", [None, 0.5])
def test_recorded_steps_give_what_steps_one_by_one_give(
    sets: Sets, trained: Checkpoint, repeated: list[Repeated], grad_clip: float | None
) -> None:
    plain = trained_on(sets, trained, False, grad_clip=grad_clip)
    assert not repeated
    found = trained_on(sets, trained, True, grad_clip=grad_clip)
    assert len(repeated) == 1
    assert repeated[0].replays == 3 + EAGER_STEPS + 3
    assert all(torch.equal(found[0][name], plain[0][name]) for name in plain[0])
    assert found[1] == plain[1]
    assert found[2].counts == plain[2].counts


def test_steps_with_a_loss_of_their_own_are_not_recorded(
    sets: Sets, trained: Checkpoint, repeated: list[Repeated]
) -> None:
    trained_on(sets, trained, True, loss=lambda logits, batch: 2 * cross_entropy(logits, batch))
    assert not repeated


@pytest.mark.parametrize(("size", "forgets"), [(16, True), (8, False)])
def test_a_step_is_recorded_only_after_such_steps_by_its_own_optimizer(
    sets: Sets, trained: Checkpoint, repeated: list[Repeated], size: int, forgets: bool
) -> None:
    model = trained.restore().train()
    own, other = (torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9) for _ in range(2))
    stepper = TrainStep(model, [own, other], cross_entropy, None, "float32", nothing, PassCounter(), False)
    stepper.recordable = True
    before = sets.retain.take(torch.arange(size * (EAGER_STEPS + 2)))
    through(
        stepper, (Step(batch, forgets=forgets) for batch in before.batches(size)), EpochProgress(0, 1, 0.0, no_callback)
    )
    repeated.clear()
    batches = list(sets.retain.take(torch.arange(16 * (EAGER_STEPS + 1))).batches(16))
    through(stepper, batches[:-1], EpochProgress(0, 1, 0.0, no_callback))
    assert not repeated
    assert own.state
    through(stepper, batches[-1:], EpochProgress(0, 1, 0.0, no_callback))
    assert len(repeated) == 1


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, object]]]:
    """What is asked of CUDA while a step is recorded, where there is none."""
    asked: list[tuple[str, object]] = []

    def graph(_: object, **options: Any) -> AbstractContextManager[None]:
        asked.append(("stream", options["stream"]))
        return nullcontext()

    def device(given: object) -> AbstractContextManager[None]:
        asked.append(("device", given))
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "Stream", lambda given: ("stream of", given))
    recording_stream.cache_clear()
    yield asked
    recording_stream.cache_clear()


def test_a_step_is_recorded_where_its_batch_is(noted: list[tuple[str, object]]) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    batch = Batch(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), torch.arange(2))
    CudaGraphStep(lambda _: None, batch, optimizer)
    assert noted == [("device", CPU), ("stream", ("stream of", CPU))]


@pytest.mark.usefixtures("noted")
@pytest.mark.parametrize(
    ("x", "y", "fits"),
    [
        (torch.ones(2, 1, 4, 4), torch.ones(2, dtype=torch.int64), True),
        (torch.ones(1, 1, 4, 4), torch.ones(1, dtype=torch.int64), False),
        (torch.ones(2, 1, 4, 4), torch.ones(2, 3), False),
        (torch.ones(2, 1, 4, 4), torch.ones(2), False),
    ],
)
def test_a_batch_of_another_kind_does_not_fit(x: torch.Tensor, y: torch.Tensor, fits: bool) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    batch = Batch(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), torch.arange(2))
    assert CudaGraphStep(lambda _: None, batch, optimizer).fits(Batch(x, y, torch.arange(len(x)))) is fits


def test_what_cannot_be_recorded_is_taken_step_by_step(
    sets: Sets, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def refuse(*given: object) -> None:
        tried.append(given)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(step_module, "CudaGraphStep", refuse)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    plain, found = (trained_on(sets, trained, recorded) for recorded in (False, True))
    assert len(tried) == 1
    assert all(torch.equal(found[0][name], plain[0][name]) for name in plain[0])
    assert found[2].counts == plain[2].counts


@pytest.mark.parametrize("change", ["frozen", "mode", "moved"])
def test_a_model_that_changed_is_recorded_anew(
    sets: Sets, trained: Checkpoint, repeated: list[Repeated], change: str
) -> None:
    model = trained.restore().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    stepper = TrainStep(model, [optimizer], cross_entropy, None, "float32", nothing, PassCounter(), False)
    stepper.recordable = True
    taken = sets.retain.take(torch.arange(16 * (EAGER_STEPS + 2)))
    for epoch in range(3):
        if epoch == 2 and change == "frozen":
            model.fc.weight.requires_grad_(False)
        elif epoch == 2 and change == "mode":
            model.bn1.eval()
        elif epoch == 2:
            model.fc.weight.data = model.fc.weight.data.clone()
        through(stepper, taken.batches(16), EpochProgress(epoch, 3, 0.0, no_callback))
        assert len(repeated) == (2 if epoch == 2 else 1)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("SGD", {"momentum": 0.9, "weight_decay": 5e-4}), ("Adam", {}), ("AdamW", {"weight_decay": 0.1})],
)
def test_a_rate_on_the_device_is_the_same_rate(kind: str, options: dict[str, float]) -> None:
    def stepped(lent: bool) -> tuple[torch.Tensor, dict[str, object]]:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(50))
        optimizer = getattr(torch.optim, kind)([weight], lr=0.5, fused=True, **options)
        for _ in range(3):
            weight.grad = torch.randn(50)
            if lent:
                with on_device(optimizer.param_groups, [torch.tensor(0.5)]):
                    optimizer.step()
            else:
                optimizer.step()
        return weight.detach(), {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}

    plain, own = stepped(False)
    lent, after = stepped(True)
    assert torch.allclose(plain, lent, rtol=1e-6)
    assert own == after
    assert isinstance(after["lr"], float)
