from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_training import reference_task
from reference import arrays, raw_images, settings, tensors

from salun.unlearning import Task, unlearn
from salun.unlearning.gradients import squared_gradients

CASE = settings("ssd")
FAMILY = ["ssd", "lfssd", "assd"]
State = dict[str, torch.Tensor]


@pytest.fixture
def task() -> Task:
    data = arrays("ssd")
    full = raw_images(data["full_inputs"], data["full_labels"])
    count = len(full) - len(data["forget_labels"])
    assert torch.equal(data["full_inputs"][count:], data["forget_inputs"])
    forget, retain = full.take(torch.arange(count, len(full))), full.take(torch.arange(count))
    return reference_task(tensors("ssd_initial"), forget, retain)


def changed(task: Task, name: str, asked: dict[str, object]) -> State:
    task.model.load_state_dict(tensors("ssd_initial"))
    unlearn(task, name, {"batch_size": CASE["batch_size"], **asked})
    return {key: weight.detach().clone() for key, weight in task.model.named_parameters()}


def moved(state: State) -> int:
    start = tensors("ssd_initial")
    return sum(int((weight != start[name]).sum()) for name, weight in state.items())


@pytest.mark.parametrize("run", CASE["runs"])
def test_ssd_is_the_reference_code(run: str, task: Task) -> None:
    asked = CASE["runs"][run]
    alpha, dampening = asked["selection_weighting"], asked["dampening_constant"]
    state = changed(task, "ssd", {"alpha": alpha, "dampening": dampening})
    for name, values in tensors(f"ssd_final_{run}").items():
        torch.testing.assert_close(task.model.state_dict()[name], values, atol=1e-6, rtol=1e-5, msg=name)
    assert moved(state) == asked["n_changed"]


@pytest.mark.parametrize("part", ["forget", "full"])
def test_importances_are_the_reference_codes(part: str, task: Task) -> None:
    data = arrays("ssd")
    images = task.forget if part == "forget" else task.retain.join(task.forget)
    for name, values in squared_gradients(task.model, images, "batch", CASE["batch_size"]).items():
        torch.testing.assert_close(values, data[f"importance_{part}/{name}"], atol=1e-7, rtol=1e-4, msg=name)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("each", ["batch", "image"])
def test_weights_shrink_towards_zero_and_none_grows(name: str, each: str, task: Task) -> None:
    start = tensors("ssd_initial")
    asked = {} if name == "assd" else {"alpha": 0.3}
    state = changed(task, name, {"each": each, **asked})
    assert moved(state) > 0
    for key, weight in state.items():
        assert bool((weight.abs() <= start[key].abs()).all())
        assert bool((weight * start[key] >= 0).all())


@pytest.mark.parametrize("name", ["ssd", "lfssd"])
def test_a_smaller_alpha_dampens_more_weights(name: str, task: Task) -> None:
    counts = [moved(changed(task, name, {"alpha": alpha})) for alpha in (50.0, 2.0, 1.0)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


@pytest.mark.parametrize("name", FAMILY)
def test_dampening_of_zero_cuts_the_chosen_weights(name: str, task: Task) -> None:
    asked: dict[str, object] = {} if name == "assd" else {"alpha": 1.5}
    shrunk, cut = (changed(task, name, {"dampening": dampening, **asked}) for dampening in (0.9, 0.0))
    start = tensors("ssd_initial")
    for key, weight in cut.items():
        assert torch.equal(weight, torch.where(shrunk[key] == start[key], start[key], torch.zeros(())))


def test_single_images_choose_no_weight_above_one_over_the_forget_share(task: Task) -> None:
    share = len(task.forget) / (len(task.forget) + len(task.retain))
    assert moved(changed(task, "ssd", {"each": "image", "alpha": 1.001 / share})) == 0
    assert moved(changed(task, "ssd", {"each": "image", "alpha": 0.3 / share})) > 0


@pytest.mark.parametrize(("name", "blind"), [("ssd", False), ("lfssd", True), ("assd", False)])
def test_only_lfssd_needs_no_label(name: str, blind: bool, task: Task) -> None:
    asked: dict[str, object] = {} if name == "assd" else {"alpha": 1.0}
    true = changed(task, name, asked)
    task.forget = task.forget.relabel((task.forget.labels + 1) % task.classes)
    other = changed(task, name, asked)
    assert all(torch.equal(true[key], other[key]) for key in true) == blind


def test_assd_takes_alpha_at_the_percentile(task: Task) -> None:
    of = squared_gradients(task.model, task.forget, "batch", CASE["batch_size"])
    against = squared_gradients(task.model, task.retain, "batch", CASE["batch_size"])
    ratios = torch.cat([(of[name] / against[name]).flatten() for name in of]).numpy()
    share = len(task.forget) / (len(task.forget) + len(task.retain))
    alpha = float(np.percentile(ratios[np.isfinite(ratios)], 100 - np.log1p(100 * share)))
    start, state = tensors("ssd_initial"), changed(task, "assd", {})
    for name, weight in state.items():
        factor = torch.where(of[name] > alpha * against[name], (against[name] / of[name]).clamp(max=1), torch.ones(()))
        torch.testing.assert_close(weight, start[name] * factor, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_weights_that_matter_to_no_image_stay(name: str, task: Task) -> None:
    black = torch.zeros_like(task.forget.pixels)
    task.forget, task.retain = replace(task.forget, pixels=black), replace(task.retain, pixels=black)
    state = changed(task, name, {})
    assert torch.equal(state["conv1.weight"], tensors("ssd_initial")["conv1.weight"])
    assert all(bool(weight.isfinite().all()) for weight in state.values())
