import pytest
import torch
from plain_training import reference_task
from reference import arrays, raw_images, settings, tensors

from salun.unlearning import Task, unlearn

CASE = settings("iu_wfisher")


@pytest.fixture
def task() -> Task:
    data = arrays("iu_wfisher")
    forget = raw_images(data["forget_inputs"], data["forget_labels"])
    retain = raw_images(data["retain_inputs"], data["retain_labels"])
    return reference_task(tensors("iu_wfisher_initial"), forget, retain)


@pytest.mark.parametrize("run", CASE["runs"])
def test_is_the_reference_code_with_and_without_mask(run: str, task: Task) -> None:
    asked = CASE["runs"][run]
    mask = {name: chosen != 0 for name, chosen in tensors("iu_wfisher_mask").items()} if asked["masked"] else None
    unlearn(task, "iu", {"alpha": asked["alpha"], "n": CASE["N"], "batch_size": CASE["batch_size"]}, mask)
    found, expected = task.model.state_dict(), tensors(f"iu_wfisher_final_{run}")
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, atol=1e-5, rtol=0, msg=name)


def test_the_step_is_the_reference_codes(task: Task) -> None:
    before = torch.cat([weight.detach().flatten().clone() for weight in task.model.parameters()])
    unlearn(task, "iu", {"alpha": 1.0, "n": CASE["N"]})
    after = torch.cat([weight.detach().flatten() for weight in task.model.parameters()])
    torch.testing.assert_close(after - before, arrays("iu_wfisher")["perturb"], atol=1e-5, rtol=0)


def test_a_recursion_that_counts_for_nothing_leaves_plain_ascent(task: Task) -> None:
    before = [weight.detach().clone() for weight in task.model.parameters()]
    unlearn(task, "iu", {"alpha": 1.0, "n": 10**15})
    v, moved = arrays("iu_wfisher")["v"], [new - old for new, old in zip(task.model.parameters(), before, strict=True)]
    torch.testing.assert_close(torch.cat([step.flatten() for step in moved]), v, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 5, 10**4])
def test_the_recursion_looks_at_n_plus_two_images(n: int, task: Task) -> None:
    unlearn(task, "iu", {"n": n})
    assert task.passes.forward == len(task.forget) + len(task.retain) + min(n + 2, len(task.retain))
