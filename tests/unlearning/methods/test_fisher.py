import pytest
import torch
from problems import first_of, make_task

from salun.data.sets import Sets
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, unlearn

ALPHA = 1e-6


@pytest.fixture
def task(sets: Sets, trained: Checkpoint) -> Task:
    return make_task(trained, first_of(sets, 16), forgotten=())


def steps(task: Task, trained: Checkpoint, **settings: object) -> dict[str, torch.Tensor]:
    task.model.load_state_dict(trained.weights)
    task.generator.manual_seed(0)
    unlearn(task, "fisher", {"alpha": ALPHA, **settings})
    return {name: weight.detach() - trained.weights[name] for name, weight in task.model.named_parameters()}


def expected_squares(task: Task, trained: Checkpoint, name: str) -> torch.Tensor:
    model = trained.restore().eval()
    weight, total = model.get_parameter(name), 0.0
    for batch in task.retain.batches(1):
        log_probabilities = model(batch.x).log_softmax(1)[0]
        for value in log_probabilities:
            (gradient,) = torch.autograd.grad(value, weight, retain_graph=True)
            total = total + value.exp().detach() * gradient.square()
    return total / len(task.retain)


def test_noise_is_as_large_as_the_models_own_fisher_information_lets_it(task: Task, trained: Checkpoint) -> None:
    model = trained.restore()
    head = next(name for name, weight in model.named_parameters() if weight is model.get_classifier().weight)
    step = steps(task, trained)[head]
    variance = (1 / (expected_squares(task, trained, head) + 1e-8)).clamp(max=100).mean(1, keepdim=True)
    of_rows = (step / (10 * ALPHA * variance).sqrt()).square().mean(1).sqrt()
    assert float((of_rows - 1).abs().max()) < 0.5
    assert float(of_rows.mean()) == pytest.approx(1, abs=0.1)


def test_noise_is_bounded_where_nothing_depends_on_a_weight(task: Task, trained: Checkpoint) -> None:
    step = steps(task, trained, information="empirical")
    bulk = torch.cat([values.flatten() for values in step.values() if values.ndim == 4])
    assert float(bulk.std()) < 1.05 * (1000 * ALPHA) ** 0.5
    assert abs(float(bulk.mean())) < 1e-3


def test_a_larger_alpha_gives_the_same_noise_larger(task: Task, trained: Checkpoint) -> None:
    small, large = (steps(task, trained, alpha=alpha, information="empirical") for alpha in (1e-6, 4e-6))
    for name, step in small.items():
        torch.testing.assert_close(large[name], 2 * step, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(("information", "blind"), [("model", True), ("empirical", False)])
@pytest.mark.parametrize("each", ["image", "batch"])
def test_the_models_information_needs_no_label(
    information: str, blind: bool, each: str, task: Task, trained: Checkpoint
) -> None:
    true = steps(task, trained, information=information, each=each)
    task.retain = task.retain.relabel((task.retain.labels + 1) % task.classes)
    other = steps(task, trained, information=information, each=each)
    assert all(torch.equal(true[name], other[name]) for name in true) == blind


@pytest.mark.parametrize("reset", [True, False])
def test_rows_of_a_forgotten_class_are_drawn_anew(reset: bool, task: Task, trained: Checkpoint) -> None:
    task.forgotten = (0,)
    steps(task, trained, information="empirical", reset_classes=reset)
    row, before = task.model.get_classifier().weight[0], trained.restore().get_classifier().weight[0]
    assert (float(row.detach().norm()) < 0.1 * float(before.detach().norm()) + 0.05 * len(row) ** 0.5) == reset
    cosine = float(torch.cosine_similarity(row.detach(), before.detach(), dim=0))
    assert (cosine > 0.9) == (not reset)


def test_only_retain_images_are_looked_at(task: Task, trained: Checkpoint) -> None:
    steps(task, trained, information="model")
    assert task.passes.forward == len(task.retain) * task.classes
