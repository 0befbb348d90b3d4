"""Every method, the mask, training and evaluation on a device whose tensors do not mix with the processor's."""

from collections.abc import Mapping

import pytest
import torch
from elsewhere import ELSEWHERE, Elsewhere, elsewhere, moved
from problems import first_of, make_task, weights_of
from test_every_method import quick

from salun.data.sets import Sets
from salun.device import placed, seed_globally
from salun.models.checkpoint import Checkpoint
from salun.training.evaluate import Outputs, predict
from salun.training.recipe import Recipe
from salun.unlearning import METHODS, load_methods, unlearn
from salun.unlearning.mask import saliency

load_methods()
RECIPE = Recipe(epochs=1, lr=0.01, batch_size=16)
pytestmark = pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter")


def unlearned(
    trained: Checkpoint, sets: Sets, name: str, device: torch.device, keep: float | None = None
) -> tuple[dict[str, torch.Tensor], Outputs]:
    """What a method makes of a model on a device."""
    seed_globally(0)
    task = make_task(trained, first_of(sets, 48), recipe=RECIPE)
    if device == ELSEWHERE:
        fresh = task.fresh
        task.model, task.fresh = placed(task.model, device), lambda: placed(fresh(), device)
        task.forget, task.retain, task.validation = map(moved, (task.forget, task.retain, task.validation))
    mask = None if keep is None else saliency(task.model, task.forget, keep)
    unlearn(task, name, quick(name), mask)
    found = predict(task.model, task.validation)
    return {key: value.detach().cpu() for key, value in weights_of(task).items()}, found


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_computes_there_what_it_computes_here(name: str, sets: Sets, trained: Checkpoint) -> None:
    here, seen = unlearned(trained, sets, name, torch.device("cpu"))
    with elsewhere() as device:
        there, shown = unlearned(trained, sets, name, device)
    # Sums are added up in another order there, which negmerge, scar and task_arithmetic multiply.
    assert distance(here, there) < 0.1 * distance(here, trained.restore().state_dict()) + 1e-6
    assert (seen.logits.softmax(1) - shown.logits.softmax(1)).abs().mean() < 0.01


def distance(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    return sum(float((one[key].double() - other[key].double()).square().sum()) for key in one) ** 0.5


def test_so_does_the_mask(sets: Sets, trained: Checkpoint) -> None:
    here, _ = unlearned(trained, sets, "rl", torch.device("cpu"), 0.3)
    with elsewhere() as device:
        there, _ = unlearned(trained, sets, "rl", device, 0.3)
    assert distance(here, there) < 0.001 * distance(here, trained.restore().state_dict())


def test_what_the_device_would_refuse_is_refused() -> None:
    with elsewhere() as device:
        x = torch.ones(3, device=device)
        assert isinstance(x, Elsewhere)
        assert x.cpu().tolist() == (x * 1.0).tolist() == [1, 1, 1]
        with pytest.raises(RuntimeError, match="tensors of the processor"):
            x + torch.ones(3)
        with pytest.raises(TypeError, match="float64"):
            x.double()
