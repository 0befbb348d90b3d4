import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from problems import same_weights
from torch import nn

from salun.data.images import Batch, Images
from salun.data.sets import Sets
from salun.models.checkpoint import Checkpoint
from salun.training.cost import PassCounter
from salun.training.evaluate import accuracy, predict
from salun.training.loop import fit
from salun.training.optim import make_schedule
from salun.training.progress import Epoch, Progress
from salun.training.recipe import TrainingConfig
from salun.training.runtime import Runtime
from salun.training.step import Loss, Step, cross_entropy
from salun.unlearning.mask import masked_updates

RUNS = ["masked", "nomask", "masked_2epochs_lrdrop", "masked_concat", "nomask_concat"]


@pytest.mark.parametrize("name", RUNS)
def test_random_label_steps_equal_the_official_ones(name: str) -> None:
    case = reference.settings("rl")
    run, data = case["runs"][name], reference.arrays("rl_data")
    sequence, final = reference.arrays(f"rl_{name}_sequence"), reference.tensors(f"rl_{name}_final")
    model = reference.SmallNetwork(reference.tensors("rl_initial"))
    losses = []

    def stream(epoch: int) -> list[Batch]:
        steps = range(epoch * run["steps_per_epoch"], (epoch + 1) * run["steps_per_epoch"])
        rows = [(sequence[f"step{i}_index"], sequence[f"step{i}_label"]) for i in steps]
        return [Batch(data["inputs"][index], label, index) for index, label in rows]

    def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        value = cross_entropy(logits, batch)
        losses.append(float(value.detach()))
        return value

    drops = run["milestones"][0] < run["epochs"]
    config = TrainingConfig(
        **{name: run[name] for name in ("lr", "epochs")},
        **{name: case[name] for name in ("momentum", "weight_decay")},
        schedule="multistep" if drops else "constant",
    )
    mask = reference.tensors("rl_mask") if run["mask"] is not None else {}
    with masked_updates(model, {key: chosen != 0 for key, chosen in mask.items()}) as hold:
        fit(model, stream, config, Runtime(hold=hold), loss=loss)
    assert losses == pytest.approx([float(sequence[f"step{i}_loss"]) for i in range(run["steps"])], abs=1e-5)
    for key, tensor in model.state_dict().items():
        assert torch.allclose(tensor.double(), final[key].double(), rtol=0, atol=1e-5), key


PLAIN = Runtime()


def train(model: nn.Module, images: Images, size: int = 32, runtime: Runtime = PLAIN, **given: Any) -> list[Epoch]:
    """Train on images in order, for one epoch at a rate of 0.01 unless told otherwise."""
    loss = given.pop("loss", cross_entropy)
    config = TrainingConfig(**{"epochs": 1, "lr": 0.01, **given})
    return fit(model, lambda epoch: images.batches(size), config, runtime, loss=loss)[0]


def small(sets: Sets) -> object:
    taken = sets.retain.take(torch.arange(0, 192))
    return lambda epoch: taken.batches(64, torch.Generator().manual_seed(epoch))


def test_curve_and_progress_tell_what_happened(sets: Sets, trained: Checkpoint) -> None:
    seen: list[Progress] = []
    config = TrainingConfig(epochs=2, lr=0.001, schedule="cosine")
    curve, _ = fit(trained.restore(), small(sets), config, Runtime(callback=seen.append))
    assert [point.epoch for point in curve] == [1, 2]
    assert [point.lr for point in curve] == pytest.approx([0.001, 0.0005])
    assert [step.images for step in seen] == [64, 128, 192, 192] * 2
    assert [isinstance(step.done, Epoch) for step in seen] == [False, False, False, True] * 2
    assert curve[0].accuracy > 0.9
    assert curve[0].loss < 0.5


def test_loss_is_the_mean_over_images_not_batches(sets: Sets, trained: Checkpoint) -> None:
    taken = sets.retain.take(torch.arange(70))
    model = trained.restore().train()
    with torch.no_grad():
        expected = sum(float(nn.functional.cross_entropy(model(b.x), b.y)) * len(b.x) for b in taken.batches(64)) / 70
    curve = train(trained.restore(), taken, 64, lr=1e-12, momentum=0, weight_decay=0)
    assert curve[0].loss == pytest.approx(expected, rel=1e-4)


def test_best_epoch_on_validation_is_kept_of_equal_ones_the_later(sets: Sets) -> None:
    values = iter([0.2, 0.9, 0.9, 0.1])
    states = []
    model = Cramped(64)

    def validate() -> float:
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return next(values)

    curve, _ = fit(model, small(sets), TrainingConfig(epochs=4, lr=0.01), Runtime(), validate=validate)
    assert [point.validation for point in curve] == [0.2, 0.9, 0.9, 0.1]
    assert all(torch.equal(tensor, states[2][name]) for name, tensor in model.state_dict().items())


def test_patience_ends_training(sets: Sets) -> None:
    values = iter([0.5, 0.6, 0.6, 0.5, 0.9])
    config = TrainingConfig(epochs=5, lr=0.01)
    curve, _ = fit(Cramped(64), small(sets), config, Runtime(), validate=lambda: next(values), patience=2)
    assert len(curve) == 4


@pytest.mark.parametrize(
    ("name", "epochs", "expected"),
    [
        ("constant", 4, [1, 1, 1, 1]),
        ("multistep", 1, [1]),
        ("multistep", 4, [1, 1, 0.1, 0.01]),
        ("multistep", 182, [1] * 91 + [0.1] * 45 + [0.01] * 46),
        ("cosine", 4, [(1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]),
    ],
)
def test_schedules(name: str, epochs: int, expected: list[float]) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, rates = make_schedule(optimizer, name, epochs), []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(expected)


def test_plateau_lowers_the_rate_when_validation_stalls(sets: Sets) -> None:
    config = TrainingConfig(epochs=8, lr=0.01, schedule="plateau")
    curve, _ = fit(Cramped(64), small(sets), config, Runtime(), validate=lambda: 0.5)
    assert [point.lr for point in curve] == pytest.approx([0.01] * 7 + [0.001])


@pytest.mark.parametrize(
    ("name", "lr", "precision"),
    [("sgd", 0.05, "float32"), ("sgd", 0.05, "bf16"), ("adam", 0.002, "float32"), ("adamw", 0.002, "float32")],
)
def test_every_optimizer_and_precision_trains(sets: Sets, name: str, lr: float, precision: Any) -> None:
    model, config = Cramped(64), TrainingConfig(epochs=2, lr=lr, optimizer=name)
    curve, optimizer = fit(model, small(sets), config, Runtime(precision=precision))
    assert curve[-1].loss < curve[0].loss
    assert type(optimizer).__name__.lower() == name
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_frozen_weights_stay(sets: Sets, trained: Checkpoint) -> None:
    model = trained.restore()
    model.fc.weight.requires_grad_(False)
    train(model, sets.forget.take(torch.arange(32)), lr=0.1, weight_decay=0.1)
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, trained.weights[name])}
    assert moved
    assert "fc.weight" not in moved


def test_weights_beside_the_model_are_trained_too(sets: Sets, trained: Checkpoint) -> None:
    scale = nn.Parameter(torch.ones(()))
    taken = sets.forget.take(torch.arange(32))

    def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return cross_entropy(logits * scale, batch)

    config = TrainingConfig(epochs=1, lr=0.1)
    fit(trained.restore(), lambda _: taken.batches(32), config, Runtime(), loss=loss, extra_parameters=[scale])
    assert scale.item() != 1.0


def test_a_step_may_have_a_loss_of_its_own(sets: Sets, trained: Checkpoint) -> None:
    seen: list[str] = []

    def of(name: str) -> Loss:
        def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
            seen.append(name)
            return cross_entropy(logits, batch)

        return loss

    taken = sets.forget.take(torch.arange(64))

    def stream(epoch: int) -> Iterator[Batch | Step]:
        first, second = taken.batches(32)
        yield Step(first, of("own"))
        yield second

    fit(trained.restore(), stream, TrainingConfig(epochs=2, lr=0.01), Runtime(), loss=of("shared"))
    assert seen == ["own", "shared"] * 2


def test_steps_that_forget_have_an_optimiser_of_their_own(sets: Sets, trained: Checkpoint) -> None:
    taken = sets.forget.take(torch.arange(64))
    batches = list(taken.batches(32))

    def after(forgets: tuple[bool, bool], second: TrainingConfig | None) -> dict[str, torch.Tensor]:
        model = trained.restore()
        steps = [Step(batch, forgets=flag) for batch, flag in zip(batches, forgets, strict=True)]
        fit(model, lambda epoch: steps, TrainingConfig(0.01, 1, weight_decay=0), Runtime(), forgetting=second)
        return dict(model.named_parameters())

    def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(weight, other[name]) for name, weight in one.items())

    alike = TrainingConfig(0.01, weight_decay=0.0)
    shared = after((False, False), None)
    assert equal(after((True, False), None), shared)
    assert equal(after((True, True), alike), shared)
    assert not equal(after((True, False), alike), shared)
    adam, forgetful = TrainingConfig(0.1, optimizer="adamw", weight_decay=0.05), replace(alike, momentum=0.0)
    assert not equal(after((True, False), adam), after((True, False), forgetful))


@pytest.mark.parametrize(("budget", "steps"), [(1, 0), (2, 1), (63, 1), (64, 1), (66, 2), (200, 4)])
def test_training_stays_within_the_budget(sets: Sets, trained: Checkpoint, budget: int, steps: int) -> None:
    passes, model, seen = PassCounter(budget=budget), trained.restore(), []
    with passes.counting(model):
        train(model, sets.forget.take(torch.arange(64)), 32, Runtime(callback=seen.append, passes=passes), epochs=9)
    assert sum(step.done is None for step in seen) == steps
    assert passes.total == budget - budget % 2


def test_nothing_is_asked_for_once_the_budget_is_spent(sets: Sets, trained: Checkpoint) -> None:
    passes, model, begun = PassCounter(budget=100), trained.restore(), []
    taken = sets.forget.take(torch.arange(32))

    def stream(epoch: int) -> Iterator[Batch]:
        begun.append(epoch)
        return taken.batches(32)

    with passes.counting(model):
        curve, _ = fit(model, stream, TrainingConfig(epochs=9, lr=0.01), Runtime(passes=passes))
    assert begun == [0, 1]
    assert [point.epoch for point in curve] == [1, 2]


@pytest.mark.parametrize(
    ("cost", "extra", "left", "images"),
    [(2, 0, 19, 9), (2, 0, 20, 10), (4, 0, 39, 9), (2, 5, 19, 7), (2, 5, 25, 10), (2, 18, 19, 0), (3, 0, -1, 0),
     (2, 0, 10, 5)],
)  # fmt: skip
def test_a_step_is_cut_to_what_is_left(sets: Sets, cost: int, extra: int, left: int, images: int) -> None:
    (batch,) = sets.forget.take(torch.arange(10)).batches(10)
    step = Step(batch, cost=cost, extra=extra).within(left)
    assert (step.images if step else 0) == images
    if step:
        assert torch.equal(step.batch.x, batch.x[step.batch.at])
        assert step.batch.at.unique().tolist() == step.batch.at.tolist()
        assert images != 5 or step.batch.at.tolist() == [0, 2, 4, 6, 8]  # of a sorted batch all sorts are left


def test_an_epoch_whose_loss_is_no_number_is_the_last(sets: Sets, trained: Checkpoint) -> None:
    curve = train(trained.restore(), sets.forget.take(torch.arange(64)), epochs=9, lr=1e30)
    assert len(curve) < 9
    assert not math.isfinite(curve[-1].loss)


def test_gradient_is_clipped(sets: Sets, trained: Checkpoint) -> None:
    model, taken = trained.restore(), sets.forget.take(torch.arange(64))
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    wrong = taken.relabel((taken.labels + 1) % 10)
    train(model, wrong, 64, lr=1.0, momentum=0, weight_decay=0, grad_clip=0.01)
    after = nn.utils.parameters_to_vector(model.parameters()).detach()
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("count", [1, 65])
def test_a_batch_of_one_image_trains(sets: Sets, trained: Checkpoint, count: int) -> None:
    model = trained.restore()
    assert math.isfinite(train(model, sets.retain.take(torch.arange(count)), 64)[0].loss)
    assert all(layer.training for layer in model.modules())


def test_predict_is_plain_evaluation_in_order(sets: Sets, trained: Checkpoint) -> None:
    model = trained.restore().train()
    outputs = predict(model, sets.test, batch_size=100)
    assert model.training
    assert outputs.logits.dtype == torch.float32
    whole = predict(model, sets.test)
    assert torch.allclose(outputs.logits, whole.logits, atol=1e-5)
    assert torch.equal(outputs.labels, sets.test.labels)
    assert accuracy(outputs) > 0.9
    assert same_weights(model, trained)
    none = predict(model, sets.test.take(torch.empty(0, dtype=torch.int64)))
    assert len(none.labels) == len(none.logits) == 0


def test_no_algorithm_is_searched_for_the_last_batch_of_a_size_of_its_own(
    sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    searched: dict[int, bool] = {}

    class Noting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            searched[len(x)] = torch.backends.cudnn.benchmark
            return x.flatten(1)[:, :10]

    predict(Noting(), sets.test.take(torch.arange(70)), batch_size=32)
    assert searched == {32: True, 6: False}
    assert torch.backends.cudnn.benchmark


@pytest.mark.parametrize(("classes", "exact"), [(100, True), (101, False)])
def test_logits_of_many_classes_are_rounded_to_what_float16_holds(classes: int, exact: bool) -> None:
    logits = torch.randn(50, classes, generator=torch.Generator().manual_seed(0)) * 20
    logits[0, 1], logits[1, 0], logits[2, 0], logits[3, 0] = -1e6, math.nan, math.inf, -math.inf
    found = predict(_Table(logits), Images.from_tensors(torch.arange(50.0).view(50, 1, 1, 1), [0] * 50)).logits
    assert torch.equal(found[4:], logits[4:]) == exact
    assert torch.equal(found.isfinite().all(1), logits.isfinite().all(1))
    assert torch.equal(found[4:].argmax(1), logits[4:].argmax(1))
    assert torch.equal(found.half().float()[4:], found[4:]) != exact
    assert torch.allclose(found[4:].softmax(1), logits[4:].softmax(1), atol=1e-3)


class _Table(nn.Module):
    """Gives the row of a table that an image's only pixel names."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits[x.flatten().long()]


def test_a_model_that_takes_no_empty_batch_predicts_on_no_images(sets: Sets, trained: Checkpoint) -> None:
    class Picky(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert len(x)
            return x.flatten(1)[:, :10]

    none = sets.test.take(torch.empty(0, dtype=torch.int64))
    assert predict(Picky(), none).logits.shape == (0, 10)


class Cramped(nn.Module):
    """A model on a device that has room for few images at once; without batch normalisation."""

    def __init__(self, room: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
        self.room = room

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("no room")
        return self.inner(x)


@pytest.mark.parametrize(("room", "parts"), [(64, 1), (20, 4), (1, 64)])
def test_batches_without_room_go_in_parts(room: int, parts: int, sets: Sets, caplog: pytest.LogCaptureFixture) -> None:
    images = sets.train.take(torch.arange(200))
    weights, curves, counts = [], [], []
    for model, passes in ((Cramped(1000), PassCounter()), (Cramped(room), PassCounter())):
        with passes.counting(model):
            curve = train(model, images, 64, Runtime(passes=passes), epochs=2, lr=0.1)
        weights.append(torch.cat([weight.flatten() for weight in model.parameters()]))
        curves.append([(point.loss, point.accuracy) for point in curve])
        counts.append(passes.counts)
    assert passes.micro_batches == parts
    assert ("out of memory" in caplog.text) == (parts > 1)
    assert torch.allclose(*weights, rtol=1e-4, atol=1e-6)
    assert np.allclose(*curves, rtol=1e-4)
    assert counts[0] == counts[1]


def test_what_cannot_be_split_raises(sets: Sets) -> None:
    images = sets.train.take(torch.arange(64))
    for room, loss in ((0, cross_entropy), (32, lambda logits, batch: logits.square().max())):
        with pytest.raises(torch.OutOfMemoryError):
            train(Cramped(room), images, 64, loss=loss)


def test_predictions_take_fewer_images_at_once_where_there_is_no_room(sets: Sets) -> None:
    wide, cramped = (predict(Cramped(room), sets.test) for room in (10_000, 7))
    assert torch.allclose(wide.logits, cramped.logits, atol=1e-6)
    assert torch.equal(wide.indices, cramped.indices)
    with pytest.raises(torch.OutOfMemoryError):
        predict(Cramped(0), sets.test)
