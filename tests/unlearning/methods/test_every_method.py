from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from problems import first_of, make_task, same_weights, sets_of

from salun.data.corruption import Corruption, corrupt_dataset
from salun.data.dataset import Dataset
from salun.data.sets import Sets, make_sets, prepare
from salun.data.split import ForgetRequest, make_split
from salun.device import seed_globally
from salun.errors import SalunError, SalunErrors
from salun.experiments.schema import validate
from salun.models.checkpoint import Checkpoint
from salun.training.evaluate import accuracy, predict
from salun.training.recipe import Recipe
from salun.unlearning import METHODS, Task, load_methods, unlearn
from salun.unlearning.forget_choice import choose
from salun.unlearning.mask import Mask, saliency

load_methods()
CPU = torch.device("cpu")
NAMES = sorted(METHODS)
MASKABLE = [name for name in NAMES if METHODS[name].maskable]
RUM_FT = {"method": "ft", "lr": 0.1, "epochs": 2, "batch_size": 32}
RUM_RL = {"method": "rl", "lr": 0.05, "epochs": 2, "batch_size": 32, "labels": "remaining"}
DELETE = {"method": "delete", "lr": 3e-4, "batch_size": 64, "freeze_norms": True}
QUICK: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 32,
    "lr": 0.01,
    "epsilon": 1.0,
    "pgd_steps": 3,
    "samples": 2,
    "weight_decay": 0.01,
    "noise_steps": 4,
    "noise_batches": 1,
    "information": "empirical",
    "k": 5,
    "methods": ["nothing", RUM_FT, RUM_RL],
}
STRONG: dict[str, dict[str, Any]] = {
    "ga": {"lr": 0.03, "epochs": 6, "batch_size": 64, "grad_clip": 0.5, "schedule": "cosine"},
    "ga_small": {"lr": 0.002, "epochs": 6, "batch_size": 64},
    "rl": {"lr": 0.05, "epochs": 2, "batch_size": 64, "labels": "remaining"},
    "scrub": {"lr": 0.01, "batch_size": 64, "forget_batch_size": 64},
    "bad_teacher": {"lr": 1e-3, "batch_size": 64, "epochs": 3},
    "delete": {"lr": 3e-4, "batch_size": 64, "freeze_norms": True},
    "duck": {"batch_size": 64, "epochs": 3, "retain_steps": 10},
    "scar": {"batch_size": 64, "epochs": 5, "lr": 2e-3},
    "unsir": {"batch_size": 64, "lr": 1e-2, "repair_lr": 2e-3, "noise_batches": 3, "repair_epochs": 2},
    "amnesiac": {"lr": 1e-3, "batch_size": 64},
    "eu_k": {"lr": 0.1, "epochs": 2, "batch_size": 64},
    "negate": {"lr": 0.1, "epochs": 4, "batch_size": 64, "schedule": "cosine"},
    "msg": {"lr": 0.2, "epochs": 6, "share": 0.8, "damping": 1.0},
    "ct": {"lr": 0.1, "epochs": 4},
    "iu": {"alpha": 20.0},
    "fisher": {"information": "empirical"},
    "ssd": {"alpha": 1.0, "dampening": 0.5, "batch_size": 64},
    "lfssd": {"alpha": 4.0, "batch_size": 64},
    "jit": {"lr": 7e-4, "sigma": 1.0},
    "rum": {"methods": ["nothing", RUM_RL | {"batch_size": 64}, DELETE]},
    "boundary_shrink": {"lr": 5e-4, "epochs": 4, "batch_size": 64, "bound": 0.3, "freeze_norms": True},
    "boundary_expand": {"lr": 1e-3, "epochs": 3, "batch_size": 64, "freeze_norms": True},
    "neggrad_plus": {"lr": 0.02, "epochs": 3, "momentum": 0.9, "grad_clip": 1.0},
    "l1_sparse": {"lr": 0.1, "epochs": 5, "batch_size": 32, "alpha": 0.002, "no_l1_epochs": 2},
    "salun_soft": {"lr": 0.05, "epochs": 3, "batch_size": 64, "labels": "remaining"},
    "sfron": {"epochs": 3, "batch_size": 64},
    "amun": {"epochs": 1, "epsilon": 0.3, "pgd_steps": 10},
    "rl_split": {"lr": 0.1, "epochs": 4, "batch_size": 128, "labels": "remaining"},
    "uam": {"lr": 0.1, "rho": 10.0, "epochs": 6, "batch_size": 32},
    "mu_mis": {"lr": 3e-3, "epochs": 15, "delta": 9.0},
    "task_arithmetic": {"lr": 4e-3},
    "negmerge": {"lr": 2e-3, "epochs": 8, "scale": 1.7, "lr_factors": [0.5, 1.0, 2.0]},
    "lotus": {"lr": 1e-3, "alpha": 32.0},
    "munba": {"lr": 0.1, "epochs": 6, "batch_size": 32, "labels": "remaining"},
    "weight_distortion": {"std": 0.3, "lr": 5e-3, "epochs": 4, "batch_size": 64},
    "noisy_ft": {"init_clip": 1.0, "step_clip": 0.5, "lr": 0.1, "epochs": 6, "batch_size": 32, "momentum": 0.9},
    "fcs": {"lr": 0.02, "epochs": 3, "batch_size": 32, "uniform_lr": 0.1},
    "cfw": {"lr": 0.2, "epochs": 8},
    "prmq": {"lr": 0.1, "epochs": 4, "share": 0.95},
    "kde": {"lr": 0.1, "epochs": 3, "warmup_lr": 0.1},
    "rni": {"lr": 0.1, "fine_lr": 0.1, "epochs": 6, "noise_std": 0.2},
}
LARGEST_STEP = 5 * 32  # passes, of a batch of 32 forget images beside 32 retain images, which a teacher sees too
WITHOUT_CHANCE = {"assd", "iu", "lfssd", "ssd"}
ROUNDING = {"prmq": 1e-3}  # half precision turns a difference however small into one of its last place
SALIENT_ALONE = {"assd", "lfssd", "ssd"}
TWO_GRADIENTS = {"mu_mis"}  # of one forward pass, by the input: of two logits
RECIPE = Recipe(epochs=5, lr=0.1, batch_size=64, schedule="cosine")


@pytest.fixture(scope="module")
def few(sets: Sets) -> Sets:
    return first_of(sets, 48)


@pytest.fixture(scope="module")
def weights(trained: Checkpoint) -> list[str]:
    return [name for name, _ in trained.restore().named_parameters()]


Run = Callable[..., Task]


@pytest.fixture(scope="module")
def run(trained: Checkpoint) -> Run:
    def run(
        name: str, sets: Sets, settings: dict[str, Any], mask: Mask | None = None, seed: int = 0, epochs: int = 1
    ) -> Task:
        seed_globally(seed)
        task = make_task(trained, sets, recipe=RECIPE.model_copy(update={"epochs": epochs}), seed=seed)
        unlearn(task, name, settings, mask)
        assert not task.model.training
        return task

    return run


def quick(name: str) -> dict[str, Any]:
    return {key: value for key, value in QUICK.items() if key in METHODS[name].settings}


def bits(task: Task) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in task.model.state_dict().values()]


@pytest.mark.parametrize("name", NAMES)
def test_moves_weights_alike_from_the_same_seed_and_counts_its_passes(
    name: str, run: Run, few: Sets, trained: Checkpoint, weights: list[str]
) -> None:
    # A mask of ones changes nothing.
    ones = saliency(trained.restore(), few.forget, 1) if METHODS[name].maskable else None
    first, again, other = (run(name, few, quick(name), mask, seed) for mask, seed in ((None, 0), (ones, 0), (None, 1)))
    assert not same_weights(first, trained, weights)
    assert all(bool(tensor.isfinite().all()) for tensor in first.model.state_dict().values())
    assert bits(first) == bits(again)
    assert same_weights(first, other, weights) == (name in WITHOUT_CHANCE)
    assert (1 + (name in TWO_GRADIENTS)) * first.passes.forward >= first.passes.backward >= 0
    assert first.passes.forward >= min(len(few.forget), len(few.retain))


@pytest.mark.parametrize("name", MASKABLE)
@pytest.mark.parametrize(("score", "keep"), [("sum", 0), ("sum", 0.3), ("random", 0.3), ("inverted", 0.3)])
def test_held_weights_stay_bit_for_bit(
    name: str, score: str, keep: float, run: Run, few: Sets, trained: Checkpoint, weights: list[str]
) -> None:
    mask = saliency(trained.restore(), few.forget, keep, score, generator=torch.Generator().manual_seed(0))
    settings = quick(name) | ({"momentum": 0.9} if "momentum" in METHODS[name].settings else {})
    task = run(name, few, settings, mask)
    for key in weights:
        assert torch.equal(task.model.get_parameter(key)[~mask[key]], trained.weights[key][~mask[key]]), key
    stay = keep == 0 or (score == "inverted" and name in SALIENT_ALONE)
    assert same_weights(task, trained, weights) == stay


@pytest.mark.parametrize("name", [name for name in NAMES if "freeze_norms" in METHODS[name].settings])
def test_norms_are_frozen_only_on_request(
    name: str, run: Run, few: Sets, trained: Checkpoint, weights: list[str]
) -> None:
    settings = quick(name) | {"batch_size": len(few.forget) - 1}
    running = [key for key in trained.weights if "running" in key]
    frozen, free = (run(name, few, settings | {"freeze_norms": freeze}) for freeze in (True, False))
    assert same_weights(frozen, trained, [key for key in trained.weights if key not in weights])
    assert not any(same_weights(free, trained, [key]) for key in running)
    assert not same_weights(frozen, trained, weights)


@pytest.mark.parametrize("name", [name for name in NAMES if "grad_clip" in METHODS[name].settings])
def test_gradient_clipping_limits_the_step(name: str, run: Run, few: Sets, weights: list[str]) -> None:
    settings = quick(name) | {"momentum": 0.0, "weight_decay": 0.0, "lr": 1.0, "batch_size": 48}
    if "optimizer" in METHODS[name].settings:  # Adam's step has a size of its own
        settings["optimizer"] = "sgd"
    near = run(name, few, settings | {"grad_clip": 1e-6})
    still = run(name, few, settings | {"grad_clip": 1e-6, "lr": 1e-12})  # what it edits without a step
    moved = [(near.model.get_parameter(key) - still.model.get_parameter(key)).flatten() for key in weights]
    assert float(torch.cat(moved).norm()) < ROUNDING.get(name, 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_an_unknown_setting(name: str, run: Run, few: Sets) -> None:
    with pytest.raises(SalunError, match=f"'{name}'.*'learning_rates'"):
        run(name, few, {"learning_rates": 0.1})


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].classwise])
def test_refuses_to_forget_less_than_whole_classes(name: str, few: Sets, trained: Checkpoint) -> None:
    task = make_task(trained, few, forgotten=())
    with pytest.raises(SalunError, match=f"'{name}': forgets whole classes only"):
        unlearn(task, name, quick(name))
    assert same_weights(task, trained)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", MASKABLE)
def test_stays_within_a_budget_as_near_as_its_steps_allow(
    name: str, masked: bool, few: Sets, trained: Checkpoint
) -> None:
    steps = {"epochs": 2} if "epochs" in METHODS[name].settings else {}

    def spent(budget: int | None) -> int:
        task = make_task(trained, few)
        task.passes.budget = budget
        with task.passes.counting(task.model):
            mask = saliency(task.model, few.forget, 0.5) if masked else None
        unlearn(task, name, quick(name) | steps, mask)
        return task.passes.total

    uncut, whole = spent(1), spent(None)
    assert uncut < whole if steps else uncut <= whole
    for budget in (whole // 2,) if masked else (uncut // 2, whole - 1, 2 * whole):
        total = spent(budget)
        assert total <= max(budget, uncut)
        assert total == whole if budget > whole else total > min(budget, whole) - LARGEST_STEP


@pytest.mark.parametrize("name", [name for name in NAMES if not METHODS[name].maskable])
def test_refuses_a_mask_where_none_may_be(name: str, run: Run, few: Sets, trained: Checkpoint) -> None:
    with pytest.raises(SalunError, match="takes no mask"):
        run(name, few, {}, saliency(trained.restore(), few.forget, 0.5))


@pytest.fixture(scope="module")
def corrupted(digits: Dataset) -> Sets:
    """Digits of which some have a trigger, half of which were found; the others are among those to retain."""
    data = corrupt_dataset(digits, Corruption(kind="trigger", share=0.1), 0)
    return sets_of(data, ForgetRequest(found=0.5), 48)


@pytest.mark.parametrize(("name", "masked"), [(name, masked) for name in NAMES for masked in (False, True)])
def test_corrects_corrupted_images_unless_it_forgets_whole_classes(
    name: str, masked: bool, corrupted: Sets, trained: Checkpoint, weights: list[str]
) -> None:
    if METHODS[name].classwise:
        with pytest.raises(SalunErrors) as refused:
            validate([{"method": name, "corrupt": {"kind": "trigger"}}], "list.json")
        assert len(refused.value.lines) == 1
        return
    mask = saliency(trained.restore(), corrupted.forget, 0.3) if masked and METHODS[name].maskable else None
    task = make_task(trained, corrupted, forgotten=(), recipe=RECIPE.model_copy(update={"epochs": 1}))
    unlearn(task, name, quick(name) | {key: 0.1 for key in METHODS[name].settings if key == "alpha"}, mask)
    # LoTUS stops before its first epoch: the model, which was trained on clean images, has no trigger to forget.
    assert same_weights(task, trained, weights) == (name == "lotus")
    assert all(bool(tensor.isfinite().all()) for tensor in task.model.state_dict().values())
    assert task.diverged is None


@pytest.mark.parametrize("name", NAMES)
def test_forgets_a_class_and_keeps_the_rest(name: str, run: Run, sets: Sets, trained: Checkpoint) -> None:
    # Half of the images to retain are enough.
    after = run(name, first_of(sets, 600), STRONG.get(name, {}), epochs=RECIPE.epochs).model
    before = trained.restore()
    rise = accuracy(predict(before, sets.forget)) - accuracy(predict(after, sets.forget))
    loss = accuracy(predict(before, sets.test)) - accuracy(predict(after, sets.test))
    if METHODS[name].forgets:
        assert rise >= 0.5
    if METHODS[name].keeps:
        assert loss < 0.2  # by chance: 0.87


@pytest.fixture(scope="module")
def halved(digits: Dataset) -> Sets:
    """The digits with two subclasses a class, of which the first half of the zeros is to be forgotten."""
    train, test = (
        part._replace(fine=2 * part.labels + torch.arange(len(part.labels)) % 2) for part in (digits.train, digits.test)
    )
    halves = replace(digits, train=train, test=test, subclasses=tuple(map(str, range(20))))
    return first_of(sets_of(halves, ForgetRequest(subclasses=(0,))), 48)


@pytest.fixture(scope="module")
def memorized(digits: Dataset, trained: Checkpoint) -> Sets:
    """The digits, of which those that the model has memorised most are to be forgotten."""
    plain = make_split(digits, ForgetRequest())
    images = sets_of(digits, ForgetRequest()).train
    places = choose(trained.restore(), images, "memorized", 39, torch.Generator())
    split = make_split(digits, ForgetRequest(share=0.03, choice="memorized"), chosen=plain.train[places])
    return first_of(make_sets(digits, split, prepare(digits, split), CPU), 48)


@pytest.mark.parametrize("problem", ["halved", "memorized"])
@pytest.mark.parametrize("name", NAMES)
def test_forgets_a_part_of_a_class_or_what_is_memorised_or_says_that_it_cannot(
    name: str, problem: str, trained: Checkpoint, weights: list[str], request: pytest.FixtureRequest
) -> None:
    short = RECIPE.model_copy(update={"epochs": 1})
    task = make_task(trained, request.getfixturevalue(problem), forgotten=(), recipe=short)
    if METHODS[name].classwise:
        with pytest.raises(SalunError, match=f"'{name}': forgets whole classes only"):
            unlearn(task, name, quick(name))
        return
    unlearn(task, name, quick(name))
    # LoTUS moves nothing where the base model is no surer of the forget set than of unseen images.
    assert name == "lotus" or not same_weights(task, trained, weights)
    assert all(bool(tensor.isfinite().all()) for tensor in task.model.state_dict().values())


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_is(name: str) -> None:
    assert METHODS[name].summary.endswith(".")
    assert METHODS[name].run.__name__ == name
    assert METHODS[name].home == f"salun.unlearning.methods.{name}" or not METHODS[name].home.startswith("salun.")
    assert METHODS[name].equation
    assert METHODS[name].deviations.endswith(".")
    assert "https://" in METHODS[name].source
    for setting in METHODS[name].settings:
        assert METHODS[name].meanings[setting], setting
