from typing import Any

import pytest
import torch
from problems import make_task, sets_of

from salun.data.dataset import Dataset
from salun.data.images import Batch, Images
from salun.data.sets import Sets, make_sets, prepare
from salun.data.split import ForgetRequest, make_split
from salun.data.transforms import Preparation
from salun.models.checkpoint import Checkpoint
from salun.training.evaluate import accuracy, predict
from salun.unlearning import Task, find_method, unlearn
from salun.unlearning.adversarial import nearest_adversarial

CPU = torch.device("cpu")
QUICK = {"batch_size": 32, "epochs": 1, "epsilon": 0.3, "pgd_steps": 10}


@pytest.fixture(scope="module")
def sets(digits: Dataset) -> Sets:
    return sets_of(digits, ForgetRequest(share=0.015))


@pytest.fixture
def task(sets: Sets, trained: Checkpoint) -> Task:
    return make_task(trained, sets, forgotten=())


def batches_of(task: Task, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[Batch]:
    found: list[Batch] = []
    monkeypatch.setattr(task, "fit", lambda stream, **rest: found.extend(stream(0)))
    find_method("amun").run(task, **QUICK, **settings)
    return found


@pytest.mark.parametrize(("use_forget", "use_retain"), [(True, True), (False, True), (True, False)])
def test_trains_on_the_sets_it_is_told_and_the_adversarial_examples(
    task: Task, monkeypatch: pytest.MonkeyPatch, use_forget: bool, use_retain: bool
) -> None:
    adversarial = nearest_adversarial(task.model, task.forget, 0.3, 10)
    split = [task.forget] * use_forget + [task.retain] * use_retain + [adversarial]
    pixels = torch.cat([part.view(part.pixels[part.rows], None) for part in split])
    labels = torch.cat([part.labels for part in split])
    batches = batches_of(task, monkeypatch, use_forget=use_forget, use_retain=use_retain)
    at = torch.cat([batch.at for batch in batches])
    assert sorted(at.tolist()) == list(range(len(labels)))
    assert at.tolist() != sorted(at.tolist())
    assert torch.equal(torch.cat([batch.y for batch in batches]), labels[at])
    assert torch.allclose(torch.cat([batch.x for batch in batches]), pixels[at], atol=1e-5)


def test_only_the_images_that_were_not_computed_are_augmented(
    digits: Dataset, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = make_split(digits, ForgetRequest(share=0.015))
    prepared = prepare(digits, split)
    cropped = Preparation(prepared.mean, prepared.std, padding=2)
    task = make_task(trained, make_sets(digits, split, cropped, CPU), forgotten=())
    adversarial = nearest_adversarial(task.model, task.forget, 0.3, 10)
    plain = torch.cat([cropped(part.pixels[part.rows]) for part in (task.forget, adversarial)])
    batches = batches_of(task, monkeypatch, use_retain=False)
    at, x = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("at", "x"))
    same = torch.tensor([torch.allclose(a, b, atol=1e-5) for a, b in zip(x, plain[at], strict=True)])
    assert bool(same[at >= len(task.forget)].all())
    assert not bool(same[at < len(task.forget)].all())


def test_it_grows_surer_of_the_adversarial_examples_and_keeps_the_rest(task: Task, sets: Sets) -> None:
    found = nearest_adversarial(task.model, task.forget, 0.3, 10)

    def confidence() -> float:
        return float(predict(task.model, found).logits.softmax(1).gather(1, found.labels[:, None]).mean())

    before = confidence()
    unlearn(task, "amun", QUICK | {"epochs": 4, "lr": 0.03, "use_forget": False})
    assert confidence() > before + 0.1
    assert accuracy(predict(task.model, sets.test)) > 0.92
    assert accuracy(predict(task.model, sets.forget)) > 0.7


def test_a_data_set_larger_than_any_memory_is_not_copied(trained: Checkpoint) -> None:
    side, count = 512, 10**6
    store = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(count, 1, side, side)

    def small(stored: torch.Tensor, draw: torch.Generator | None) -> torch.Tensor:
        return stored[..., :: side // 8, :: side // 8].float()

    every = Images(store, torch.arange(count), torch.zeros(count, dtype=torch.int64), CPU, small)
    sets = Sets(**dict.fromkeys(Sets.__dataclass_fields__, every))
    task = make_task(trained, sets, forgotten=())
    task.forget = every.take(torch.arange(2)).relabel(predict(task.model, every.take(torch.arange(2))).logits.argmax(1))
    task.passes.budget = 60
    unlearn(task, "amun", {"batch_size": 2, "epsilon": 20.0, "pgd_steps": 10})
    assert 60 - 2 * 2 < task.passes.total <= 60
