from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import first_of, make_task, same_weights

from salun.data.sets import Sets
from salun.device import seed_globally
from salun.errors import SalunError
from salun.models.checkpoint import Checkpoint
from salun.training.evaluate import accuracy, predict
from salun.training.recipe import Recipe
from salun.unlearning import METHODS, load_methods, unlearn
from salun.unlearning.mask import Mask, saliency

load_methods()
CPU = torch.device("cpu")
NAMES = sorted(METHODS)
MASKABLE = [name for name in NAMES if METHODS[name].maskable]
RUM_FT = {"method": "ft", "lr": 0.1, "epochs": 2, "batch_size": 64}
RUM_RL = {"method": "rl", "lr": 0.05, "epochs": 2, "batch_size": 64, "labels": "remaining"}
QUICK: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 64,
    "lr": 0.01,
    "pgd_steps": 3,
    "weight_decay": 0.01,
    "noise_steps": 4,
    "noise_batches": 1,
    "information": "empirical",
    "k": 5,
    "methods": ["nothing", RUM_FT, RUM_RL],
}
STRONG: dict[str, dict[str, Any]] = {
    "ga": {"lr": 0.05, "epochs": 6, "batch_size": 64, "grad_clip": 0.5, "schedule": "cosine"},
    "ga_small": {"lr": 0.002, "epochs": 6, "batch_size": 64},
    "rl": {"lr": 0.05, "epochs": 2, "batch_size": 64, "labels": "remaining"},
    "scrub": {"lr": 0.01, "batch_size": 64, "forget_batch_size": 64},
    "bad_teacher": {"lr": 1e-3, "batch_size": 64, "epochs": 2},
    "delete": {"lr": 3e-4, "batch_size": 64, "freeze_norms": True},
    "duck": {"batch_size": 128, "epochs": 3, "retain_steps": 10},
    "scar": {"batch_size": 128, "epochs": 5, "lr": 1e-3},
    "unsir": {"batch_size": 64, "lr": 5e-3, "repair_lr": 2e-3, "noise_batches": 3, "repair_epochs": 2},
    "amnesiac": {"lr": 1e-3, "batch_size": 64},
    "eu_k": {"lr": 0.1, "epochs": 2, "batch_size": 64},
    "negate": {"lr": 0.1, "epochs": 4, "batch_size": 64, "schedule": "cosine"},
    "msg": {"lr": 0.2, "epochs": 6, "share": 0.8, "damping": 1.0},
    "ct": {"lr": 0.1, "epochs": 4},
    "iu": {"alpha": 20.0},
    "fisher": {"information": "empirical"},
    "ssd": {"alpha": 2.0, "each": "image"},
    "lfssd": {"alpha": 6.0, "batch_size": 64},
    "jit": {"lr": 3e-4},
    "rum": {"methods": ["nothing", RUM_FT, RUM_RL]},
    "boundary_shrink": {"lr": 5e-4, "epochs": 4, "batch_size": 64, "bound": 0.3, "freeze_norms": True},
    "boundary_expand": {"lr": 1e-3, "epochs": 3, "batch_size": 64, "freeze_norms": True},
    "neggrad_plus": {"lr": 0.02, "epochs": 3, "momentum": 0.9, "grad_clip": 1.0},
    "l1_sparse": {"lr": 0.05, "epochs": 6, "batch_size": 64, "alpha": 0.003, "no_l1_epochs": 3},
    "salun_soft": {"lr": 0.05, "epochs": 3, "batch_size": 64, "labels": "remaining"},
    "sfron": {"epochs": 2, "batch_size": 64},
    "amun": {"epochs": 1, "epsilon": 0.3, "pgd_steps": 10},
    "rl_split": {"lr": 0.1, "epochs": 4, "batch_size": 128, "labels": "remaining"},
}
LARGEST_STEP = 5 * 64  # passes, of a batch of 64 forget images beside 64 retain images, which a teacher sees too
WITHOUT_CHANCE = {"assd", "iu", "lfssd", "ssd"}
SALIENT_ALONE = {"assd", "lfssd", "ssd"}
RECIPE = Recipe(epochs=5, lr=0.1, batch_size=64, schedule="cosine")


@pytest.fixture(scope="module")
def few(sets: Sets) -> Sets:
    return first_of(sets, 96)


Run = Callable[..., Checkpoint]


@pytest.fixture(scope="module")
def run(trained: Checkpoint) -> Run:
    def run(
        name: str, sets: Sets, settings: dict[str, Any], mask: Mask | None = None, seed: int = 0, epochs: int = 1
    ) -> dict[str, torch.Tensor]:
        seed_globally(seed)
        recipe = RECIPE.model_copy(update={"epochs": epochs})
        task = make_task(trained, sets, recipe=recipe, seed=seed)
        unlearn(task, name, settings, mask)
        assert not task.model.training
        return {key: tensor.clone() for key, tensor in task.model.state_dict().items()}

    return run


def quick(name: str) -> dict[str, Any]:
    return {key: value for key, value in QUICK.items() if key in METHODS[name].settings}


def weights(trained: Checkpoint) -> list[str]:
    return [name for name, _ in trained.restore().named_parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_moves_weights(name: str, run: Run, few: Sets, trained: Checkpoint) -> None:
    state = run(name, few, quick(name))
    assert any(not torch.equal(state[key], trained.weights[key]) for key in weights(trained))
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_weights_other_seed_others(name: str, run: Run, few: Sets, trained: Checkpoint) -> None:
    first, again, other = (run(name, few, quick(name), seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in weights(trained)) == (name not in WITHOUT_CHANCE)


@pytest.mark.parametrize("name", MASKABLE)
def test_a_mask_of_zeros_moves_nothing(name: str, run: Run, few: Sets, trained: Checkpoint) -> None:
    state = run(name, few, quick(name), saliency(trained.restore(), few.forget, 0))
    assert all(torch.equal(state[key], trained.weights[key]) for key in weights(trained))


@pytest.mark.parametrize("name", MASKABLE)
def test_a_mask_of_ones_changes_nothing(name: str, run: Run, few: Sets, trained: Checkpoint) -> None:
    free = run(name, few, quick(name))
    masked = run(name, few, quick(name), saliency(trained.restore(), few.forget, 1))
    for key, tensor in free.items():
        assert (
            torch.equal(tensor.view(torch.uint8), masked[key].view(torch.uint8))
            if tensor.ndim
            else tensor == masked[key]
        )


@pytest.mark.parametrize("name", MASKABLE)
@pytest.mark.parametrize("score", ["sum", "random", "inverted"])
def test_held_weights_stay_bit_for_bit(name: str, score: str, run: Run, few: Sets, trained: Checkpoint) -> None:
    mask = saliency(trained.restore(), few.forget, 0.3, score, generator=torch.Generator().manual_seed(0))
    settings = quick(name) | ({"momentum": 0.9} if "momentum" in METHODS[name].settings else {})
    state = run(name, few, settings, mask)
    for key in weights(trained):
        assert torch.equal(state[key][~mask[key]], trained.weights[key][~mask[key]]), key
    moved = any(not torch.equal(state[key], trained.weights[key]) for key in weights(trained))
    assert moved == (score != "inverted" or name not in SALIENT_ALONE)


@pytest.mark.parametrize("name", [name for name in NAMES if "grad_clip" in METHODS[name].settings])
def test_gradient_clipping_limits_the_step(name: str, run: Run, few: Sets, trained: Checkpoint) -> None:
    settings = quick(name) | {"momentum": 0.0, "weight_decay": 0.0, "lr": 1.0, "batch_size": 96}
    if "optimizer" in METHODS[name].settings:  # Adam's step has a size of its own
        settings["optimizer"] = "sgd"
    near = run(name, few, settings | {"grad_clip": 1e-6})
    still = run(name, few, settings | {"grad_clip": 1e-6, "lr": 1e-12})  # what it edits without a step
    moved = torch.cat([(near[key] - still[key]).flatten() for key in weights(trained)]).norm()
    assert float(moved) < 1e-5


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


@pytest.mark.parametrize("name", NAMES)
def test_cost_is_counted(name: str, run: Run, few: Sets, trained: Checkpoint) -> None:
    task = make_task(trained, few, recipe=RECIPE.model_copy(update={"epochs": 1}))
    unlearn(task, name, quick(name))
    assert task.passes.forward >= task.passes.backward >= 0
    sizes = {len(few.forget), len(few.retain)}
    assert task.passes.forward >= min(sizes)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", MASKABLE)
def test_stays_within_a_budget_as_near_as_its_steps_allow(
    name: str, masked: bool, few: Sets, trained: Checkpoint
) -> None:
    steps = {"epochs": 3} if "epochs" in METHODS[name].settings else {}

    def spent(budget: int | None) -> int:
        task = make_task(trained, few)
        task.passes.budget = budget
        with task.passes.counting(task.model):
            mask = saliency(task.model, few.forget, 0.5) if masked else None
        unlearn(task, name, quick(name) | steps, mask)
        return task.passes.total

    uncut, whole = spent(1), spent(None)
    assert uncut < whole if steps else uncut <= whole
    for budget in (uncut // 2, whole // 2, whole - 1, 2 * whole):
        total = spent(budget)
        assert total <= max(budget, uncut)
        assert total == whole if budget > whole else total > min(budget, whole) - LARGEST_STEP


@pytest.mark.parametrize("name", [name for name in NAMES if not METHODS[name].maskable])
def test_refuses_a_mask_where_none_may_be(name: str, run: Run, few: Sets, trained: Checkpoint) -> None:
    with pytest.raises(SalunError, match="takes no mask"):
        run(name, few, {}, saliency(trained.restore(), few.forget, 0.5))


@pytest.mark.parametrize("name", NAMES)
def test_forgets_a_class_and_keeps_the_rest(name: str, run: Run, sets: Sets, trained: Checkpoint) -> None:
    before = trained.restore()
    state = run(name, sets, STRONG.get(name, {}), epochs=RECIPE.epochs)
    after = trained.restore()
    after.load_state_dict(state)
    rise = accuracy(predict(before, sets.forget)) - accuracy(predict(after, sets.forget))
    loss = accuracy(predict(before, sets.test)) - accuracy(predict(after, sets.test))
    if METHODS[name].forgets:
        assert rise >= 0.5
    if METHODS[name].keeps:
        assert loss < 0.1


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
