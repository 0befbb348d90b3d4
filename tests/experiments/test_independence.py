"""Draws that are meant to be independent of each other are, and none moves the global generators."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lists import trained_base
from timm.models import register_model
from torch import Tensor, nn

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest, make_split
from salun.device import derived_seed, seeded, seeded_globally
from salun.experiments.audit import Auditor, audits_of
from salun.experiments.base_model import fresh_model
from salun.experiments.config import Experiment
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.evaluate import base_outputs
from salun.experiments.problem import check_problem, load_problem
from salun.experiments.record import run_id
from salun.experiments.runner import run_experiment
from salun.experiments.schema import validate
from salun.models.architecture import TINY, Architecture
from salun.models.checkpoint import Checkpoint, save_checkpoint
from salun.unlearning import Task

CPU = torch.device("cpu")
DATA = "synthetic:n=60,size=8,classes=3"
SHORT = {"epochs": 1, "batch_size": 64, "schedule": "cosine"}
STILL = {"lr": 1e-30, "weight_decay": 0.0, "epochs": 1}
BIG = 2000
Weights = dict[str, Tensor]


class Aligned(nn.Module):
    """A model whose weights are the first numbers of its seed, in the order in which methods go through them."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.utils.skip_init(nn.Conv2d, channels, 1024, 1)
        self.fc = nn.utils.skip_init(nn.Linear, 1024, classes)
        for layer in (self.conv, self.fc):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.dropout(self.conv(x).relu().mean((2, 3)), 0.5, self.training))


@register_model
def net_aligned(pretrained: bool = False, num_classes: int = 10, in_chans: int = 3, **options: Any) -> nn.Module:
    return Aligned(num_classes, in_chans)


def entry(model: str = TINY, base_seed: int = 0, **keys: Any) -> Experiment:
    recipe = {"recipe": SHORT, "base_seed": base_seed, "model": model, "dataset": DATA}
    given = ({} if "checkpoint" in keys else recipe) | {"class_to_forget": 0, "metrics": ["UA"]} | keys
    return validate([given], "test")[0]


def big(weights: Weights) -> Weights:
    return {name: tensor.flatten().double() for name, tensor in weights.items() if tensor.numel() >= BIG}


def check_independent(found: dict[str, Weights]) -> None:
    """No two models have big layers that point the same way: six standard deviations of independent ones."""
    for (first, ours), (second, theirs) in combinations(found.items(), 2):
        shared = ours.keys() & theirs.keys()
        assert shared, (first, second)
        for name in shared:
            cosine = float(torch.cosine_similarity(ours[name], theirs[name], dim=0))
            assert abs(cosine) < 6 / math.sqrt(len(ours[name])), f"{first} and {second}: {name}: {cosine:.3f}"


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(RunContext(CPU, tmp_path / "data", tmp_path / "checkpoints"))


class Starts:
    """Notes the weights that a training from scratch starts from, instead of taking any step."""

    last: Weights

    def __call__(self, model: nn.Module, *given: Any, **more: Any) -> Any:
        self.last = big(deepcopy(model.state_dict()))
        return [], {}


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    found = Starts()
    for module in ("salun.experiments.base_training", "salun.unlearning.task"):
        monkeypatch.setattr(f"{module}.train", found)
    return found


def base_of(cache: ModelCache, experiment: Experiment) -> Weights:
    return big(trained_base(check_problem(experiment, cache), cache).weights)


def run_of(cache: ModelCache, experiment: Experiment, seed: int) -> Checkpoint:
    return run_experiment(experiment, seed, cache).checkpoint


def spied(monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """The models that are built fresh, from now on."""
    built: list[Weights] = []

    def build(*given: Any) -> nn.Module:
        model = fresh_model(*given)
        built.append(big(deepcopy(model.state_dict())))
        return model

    for module in ("run", "evaluate"):
        monkeypatch.setattr(f"salun.experiments.{module}.fresh_model", build)
    return built


# First weights


def test_no_two_models_start_from_the_same_weights(
    cache: ModelCache, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Weights] = {}
    for base_seed in (0, 1, 2):
        found[f"base model {base_seed}"] = base_of(cache, entry(base_seed=base_seed, method="retrain"))
    (built := spied(monkeypatch)).clear()
    for base_seed, seed in product((0, 1), (0, 1, 2)):
        run_of(cache, entry(base_seed=base_seed, method="retrain"), seed)
        found[f"retrained, seed {seed}, of base model {base_seed}"] = starts.last
    found["random model of ZRF"] = built[0]
    for base_seed, seed in product((0, 1), (0, 1)):
        run_of(cache, entry(base_seed=base_seed, method="bad_teacher", epochs=1), seed)
        found[f"random teacher, seed {seed}, of base model {base_seed}"] = built[-1]
        unlearned = run_of(cache, entry(base_seed=base_seed, method="eu_k", k=3, **STILL), seed).weights
        own = found[f"base model {base_seed}"]
        drawn = {name: layer for name, layer in big(unlearned).items() if not torch.equal(layer, own[name])}
        assert "layer4.1.conv2.weight" in drawn
        found[f"eu_k, seed {seed}, of base model {base_seed}"] = drawn
    assert len(found) == 3 + 6 + 1 + 8
    check_independent(found)


def test_no_two_models_of_an_audit_start_from_the_same_weights(cache: ModelCache, starts: Starts) -> None:
    experiment = entry(method="retrain")
    found = {"base model": base_of(cache, experiment)}
    pool, worker = audits_of([experiment], cache, "list")[0].pool, Auditor(cache, Path("audit"), Path("shadows"))
    for number in range(3):
        shadow = worker.base(pool, number)
        found[f"shadow model {number}"] = starts.last
        worker.unlearned(pool, shadow, experiment, number, lambda step: None)
        found[f"shadow model {number}, retrained"] = starts.last
    assert len(found) == 7
    check_independent(found)


def test_a_model_that_was_retrained_is_not_retrained_from_its_own_first_weights(
    cache: ModelCache, starts: Starts
) -> None:
    first = run_of(cache, entry(method="retrain"), 0)
    save_checkpoint(Path("retrained.pt"), first)
    run_of(cache, entry(checkpoint="retrained.pt", class_to_forget=1, method="retrain"), 0)
    check_independent({"first": big(first.weights), "second": starts.last})


def test_a_checkpoint_without_a_recipe_is_retrained_from_other_weights(cache: ModelCache, starts: Starts) -> None:
    base = trained_base(check_problem(entry(method="retrain"), cache), cache)
    save_checkpoint(Path("foreign.pt"), replace(base, config={}))
    keys = {"checkpoint": "foreign.pt", "method": "retrain", "recipe": SHORT}
    found = {"base model": big(base.weights)}
    for seed in (0, 1):
        run_of(cache, entry(**keys), seed)
        found[str(seed)] = starts.last
    check_independent(found)


# Draws on weights that come first of their seed


def aligned(cache: ModelCache, seed: int, **keys: Any) -> tuple[Weights, Checkpoint]:
    experiment = entry("net_aligned", **keys)
    return base_of(cache, experiment), run_of(cache, experiment, seed)


def check_unrelated(first: Tensor, second: Tensor) -> None:
    """Neither the values nor their sizes go together, by more than six standard deviations."""
    for ours, theirs in ((first, second), (first.abs(), second.abs()), (first, second.abs())):
        assert abs(np.corrcoef(ours, theirs)[0, 1]) < 6 / math.sqrt(len(first))


def test_a_random_mask_does_not_know_the_first_weights(cache: ModelCache, starts: Starts) -> None:
    base, after = aligned(cache, 0, method="ga", epochs=1, use_mask=True, mask_score="random", mask_thr=0.5)
    assert after.mask is not None
    check_unrelated(after.mask["conv.weight"].flatten().double(), base["conv.weight"])


@pytest.mark.parametrize("keys", [{"method": "fisher"}, {"method": "msg", "share": 1.0, **STILL}])
def test_noise_and_renewed_weights_are_not_the_first_ones(
    cache: ModelCache, starts: Starts, keys: dict[str, Any]
) -> None:
    base, after = aligned(cache, 0, **keys)
    moved = big(after.weights)["conv.weight"]
    check_unrelated(moved - base["conv.weight"] if keys["method"] == "fisher" else moved, base["conv.weight"])


# Orders


def test_orders_of_base_model_and_retrained_models_agree_by_chance_only(
    cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 10_000
    orders: list[np.ndarray] = [torch.randperm(count, generator=seeded(seed, CPU)).numpy() for seed in (0, 1)]

    def note(task: Task, *given: Any) -> None:
        orders.append(torch.randperm(count, generator=task.generator).numpy())

    for base_seed in (0, 1):
        trained_base(check_problem(entry(base_seed=base_seed, method="retrain"), cache), cache)
    monkeypatch.setattr("salun.experiments.run.unlearn", note)
    for base_seed, seed in product((0, 1), (0, 1, 2)):
        run_of(cache, entry(base_seed=base_seed, method="retrain"), seed)
    assert len(orders) == 8
    for first, second in combinations(orders, 2):
        assert (first == second).sum() < 10
        assert abs(np.corrcoef(first, second)[0, 1]) < 6 / math.sqrt(count)


def test_validation_and_forget_sets_of_one_seed_overlap_in_their_places_by_chance_only(digits: Dataset) -> None:
    for seed in range(5):
        split = make_split(digits, ForgetRequest(share=0.1, seed=seed), seed)
        places = torch.isin(split.train, split.forget).nonzero().flatten()
        total, forgotten, held = len(split.train), len(places), len(split.validation)
        chance = forgotten * held / total
        shared = int(torch.isin(places, split.validation).sum())
        assert abs(shared - chance) < 5 * math.sqrt(chance)
        assert not torch.isin(split.forget, split.validation).any()


# Ids


def test_only_a_retraining_is_known_by_the_seed_that_it_draws_by() -> None:
    settings: dict[str, Any] = {
        "base": {"identity": "recipe 0123456789abcdef", "recipe": None, "seed": 0, "split": "S"},
        "forget": {"request": "class 0", "classes": [0], "share": None, "seed": 0, "fingerprint": "F"},
        "method": "rl",
        "settings": {"lr": 0.1},
        "mask": None,
    }
    assert run_id(settings, 0) == "f9180557bae69ef1"
    assert run_id(settings, 1) == "8afb4a3e7fc713db"
    retraining = settings | {"method": "retrain", "settings": {}}
    began_from_the_base_models_first_weights = "6b0a9ae381d79ad1"
    assert run_id(retraining, 0) != began_from_the_base_models_first_weights
    other = retraining | {"base": settings["base"] | {"seed": 7}}
    assert run_id(retraining, 0) == run_id(other, 0)


def test_derived_seeds_tell_purposes_and_parts_apart() -> None:
    given: list[tuple[Any, ...]] = [("a",), ("b",), ("a", 0), ("a", 0, 0), ("a", 1), ("a", "1"), ("a", 1, 2), ("a", 12)]
    found = [derived_seed(*split) for split in given]
    assert len(set(found)) == len(found)
    assert found == [derived_seed(*split) for split in given]
    assert all(0 <= seed < 2**31 for seed in found)


# Global generators


@pytest.fixture
def unmoved() -> Iterator[None]:
    """What the test does leaves the global generators where they are."""
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(np.array_equal(now, then) for now, then in zip(np.random.get_state(), before[1], strict=True))
    after = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    assert all(map(torch.equal, after, cuda))


PRUNED = {"method": "ft", "epochs": 1, "prune": 0.5}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.usefixtures("unmoved")
@pytest.mark.parametrize("device", DEVICES)
def test_a_fresh_model_moves_no_global_generator(device: str) -> None:
    architecture = Architecture(TINY, 3, 3, 8)
    first, second = (fresh_model(architecture, False, 3, torch.device(device)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("unmoved")
@pytest.mark.parametrize("device", DEVICES)
def test_a_seeded_block_repeats_even_where_it_fails(device: str) -> None:
    drawn = []
    for seed in (3, 3, 4):
        with suppress(KeyError), seeded_globally(seed, torch.device(device)):
            drawn.append((torch.rand(5), torch.rand(5, device=device).cpu(), np.random.rand(5)))
            raise KeyError
    first, again, other = drawn
    for one, two, three in zip(first, again, other, strict=True):
        assert np.array_equal(one, two)
        assert not np.array_equal(one, three)


@pytest.mark.usefixtures("unmoved")
@pytest.mark.parametrize(
    "keys", [{"method": "retrain"}, *({"method": name, "epochs": 1} for name in ("bad_teacher", "eu_k", "msg")), PRUNED]
)
def test_a_base_model_and_a_run_move_no_global_generator(cache: ModelCache, keys: dict[str, Any]) -> None:
    run_of(cache, entry("net_aligned", **keys), 0)


@pytest.mark.usefixtures("unmoved")
def test_evaluating_a_base_model_moves_no_global_generator(cache: ModelCache, starts: Starts) -> None:
    problem = check_problem(entry(method="retrain"), cache)
    trained_base(problem, cache)
    assert base_outputs(load_problem(problem, cache), cache).random is not None


def test_a_model_with_dropout_repeats_whatever_the_global_generators(tmp_path: Path) -> None:
    bases, found = set(), []
    runs = (("retrain", 0), ("retrain", 0), ("retrain", 1), ("ga_small", 0), ("ga_small", 0))
    for number, (method, seed) in enumerate(runs):
        cache = ModelCache(RunContext(CPU, tmp_path / "data", tmp_path / str(number)))
        experiment = entry("net_aligned", method=method)
        torch.manual_seed(number)
        bases.add(trained_base(check_problem(experiment, cache), cache).fingerprint)
        torch.manual_seed(number)
        found.append(run_of(cache, experiment, seed).fingerprint)
    assert len(bases) == 1
    assert found[0] == found[1] != found[2]
    assert found[3] == found[4] != found[0]


@pytest.mark.parametrize("asks", [lambda task: task.fresh(), lambda task: task.random_teacher()])
@pytest.mark.parametrize("method", ["retrain", "ft"])
def test_dropout_draws_the_same_whether_or_not_a_fresh_model_is_asked_for(
    cache: ModelCache, starts: Starts, monkeypatch: pytest.MonkeyPatch, method: str, asks: Callable[[Task], object]
) -> None:
    drawn: list[Tensor] = []

    def draw(task: Task, *given: Any) -> None:
        first = torch.rand(5)
        if len(drawn):
            asks(task)
        drawn.append(torch.cat([first, torch.rand(5)]))

    keys = {} if method == "retrain" else {"epochs": 1}
    experiment = entry(method=method, **keys)
    trained_base(check_problem(experiment, cache), cache)
    monkeypatch.setattr("salun.experiments.run.unlearn", draw)
    for _ in range(2):
        run_of(cache, experiment, 0)
    assert torch.equal(*drawn)
