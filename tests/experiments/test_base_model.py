import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lists import trained_base
from pictures import draw

from salun.cli.train import main as salun_train
from salun.data.dataset import Dataset, Subset
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError
from salun.experiments.base_model import (
    BaseModelSpec,
    check_belongs,
    checkpoint_path,
    find_spec,
    preparation_of,
    saved_spec,
)
from salun.experiments.config import Experiment
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.problem import ForgettingProblem, check_problem
from salun.experiments.schema import validate
from salun.models.architecture import TINY
from salun.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from salun.training.recipe import Recipe, default_recipe

CPU = torch.device("cpu")
SHORT = Recipe(epochs=1, lr=0.1, batch_size=64, schedule="cosine")
SMALL = "synthetic:n=60,size=8,classes=3"


def entry(**keys: Any) -> Experiment:
    keys = {"class_to_forget": 0, "method": "ft", "epochs": 1} | keys
    return validate([keys], "test", files_must_exist=False)[0]


def problem_of(cache: ModelCache, **keys: Any) -> ForgettingProblem:
    return check_problem(entry(model=TINY, **keys), cache)


def spec_of(folder: Path, dataset: str = "digits", recipe: Recipe | None = None, split_seed: int = 0) -> BaseModelSpec:
    given = {"recipe": recipe.model_dump()} if recipe else {}
    experiment = entry(model=TINY, dataset="digits", split_seed=split_seed, **given)
    return find_spec(experiment.model_copy(update={"dataset": dataset}), folder)


# Names of checkpoints


# Found again


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(RunContext(CPU, tmp_path / "data", tmp_path / "checkpoints"))


def test_a_base_model_is_trained_once_and_found_again(cache: ModelCache, tmp_path: Path) -> None:
    recipe, folder = SHORT.model_dump(), tmp_path / "checkpoints"
    problem = problem_of(cache, dataset=SMALL, recipe=recipe)
    trained = trained_base(problem, cache)
    (path,) = folder.glob("*.pt")
    assert sorted(file.name for file in folder.iterdir()) == sorted([path.name, f"{path.stem}_forget.json"])
    assert json.loads(path.with_name(f"{path.stem}_forget.json").read_text()) == []
    written = path.stat().st_mtime_ns
    assert trained_base(problem, cache) is trained_base(problem, cache)
    later = ModelCache(cache.context)
    again = problem_of(later, dataset=SMALL, recipe=recipe)
    assert trained_base(again, later).fingerprint == trained.fingerprint
    assert again.spec.identity == problem.spec.identity
    assert path.stat().st_mtime_ns == written


def test_each_recipe_and_split_has_a_file_of_its_own(tmp_path: Path) -> None:
    others = [*(SHORT.model_copy(update=change) for change in ({"seed": 1}, {"lr": 0.2})), default_recipe("digits")]
    asked = [(None, 0), (None, 1), (SHORT, 0), (SHORT, 1), *((other, 0) for other in others)]
    origins = [spec_of(tmp_path, "digits", recipe, split_seed=seed) for recipe, seed in asked]
    assert origins[0].path.name == "resnet_tiny_digits_base.pt"
    assert len({spec.path for spec in origins}) == len(origins)
    assert len({spec.identity for spec in origins[:-1]}) == len(origins) - 1
    assert origins[-1].identity == origins[0].identity


def test_a_model_from_salun_train_is_picked_up(cache: ModelCache) -> None:
    flags = ["--model", TINY, "--dataset", SMALL, "--epochs", "2", "--lr", "0.05", "--device", "cpu", "-NL"]
    assert salun_train(flags) == 0
    (path,) = Path("checkpoints").glob("*_base.pt")
    problem = problem_of(cache, dataset=SMALL)
    assert problem.spec.path.resolve() == path.resolve()
    assert problem.spec.recipe is not None
    assert (problem.spec.recipe.epochs, problem.spec.recipe.lr) == (2, 0.05)
    assert trained_base(problem, cache).fingerprint == load_checkpoint(path).fingerprint
    assert list(Path("checkpoints").glob("*.pt")) == [path]


def replaced(path: Path, checkpoint: Checkpoint, **config: Any) -> None:
    save_checkpoint(path, replace(checkpoint, config=checkpoint.config | config))


@pytest.mark.parametrize(
    ("excluded", "config"), [((1, 2, 3), {}), ((), {"unlearned": {"id": "x"}}), ((), {"recipe": None})]
)
def test_a_base_file_that_its_recipe_does_not_explain_is_known_by_its_weights(
    base_file: Path, trained: Checkpoint, excluded: tuple[int, ...], config: dict[str, Any]
) -> None:
    plain = spec_of(base_file.parent, "digits").identity
    replaced(base_file, replace(trained, excluded=excluded), **config)
    found = spec_of(base_file.parent, "digits").identity
    assert found != plain
    assert trained.fingerprint in found


def test_two_data_sets_whose_file_names_meet_are_not_mixed_up(trained: Checkpoint, tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, TINY, "folder:a/b", "base")
    assert path == checkpoint_path(tmp_path, TINY, "folder:a-b", "base")
    save_checkpoint(path, replace(trained, dataset="folder:a/b"))
    assert spec_of(tmp_path, "folder:a/b").dataset == "folder:a/b"
    with pytest.raises(SalunError, match=r"holds resnet_tiny on folder:a/b .*, not resnet_tiny on folder:a-b"):
        spec_of(tmp_path, "folder:a-b")


def test_a_base_file_of_another_split_seed_is_refused(base_file: Path, trained: Checkpoint) -> None:
    replaced(base_file, trained, split_seed=3)
    with pytest.raises(SalunError, match=r"split_seed 3, not .* split_seed 0"):
        spec_of(base_file.parent, "digits")


RECIPES = [{"epochs": 0}, {"epochs": 1, "unknown": 2}, "fast", [1]]
PREPARATIONS = [{}, "none", {"mean": [0.5]}, {"mean": 1, "std": 1}, [1]]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        *(("recipe", value, r"x\.pt: records no usable recipe") for value in RECIPES),
        *(("split_seed", value, r"x\.pt: its config: split_seed") for value in ("one", -1, None, True)),
        *(("preparation", value, "no usable preparation") for value in PREPARATIONS),
    ],
)
def test_nonsense_in_a_checkpoint_is_a_plain_error(
    digits: Dataset, trained: Checkpoint, key: str, value: Any, told: str
) -> None:
    replaced(Path("x.pt"), trained, **{key: value})
    with pytest.raises(SalunError, match=told):
        preparation_of(load_checkpoint(saved_spec(Path("x.pt")).path), digits, make_split(digits, ForgetRequest()))


def test_a_checkpoint_without_preparation_gets_that_of_the_data(digits: Dataset, trained: Checkpoint) -> None:
    split = make_split(digits, ForgetRequest())
    config = {key: value for key, value in trained.config.items() if key != "preparation"}
    assert preparation_of(replace(trained, config=config), digits, split) == preparation_of(trained, digits, split)


# Belonging to the data


def test_a_checkpoint_belongs_to_the_data_and_split_it_was_trained_on(base_file: Path, digits: Dataset) -> None:
    check_belongs(saved_spec(base_file), digits, make_split(digits, ForgetRequest()))
    check_belongs(saved_spec(base_file), digits, make_split(digits, ForgetRequest((3,))))
    with pytest.raises(SalunError, match="another split of 'digits'"):
        check_belongs(saved_spec(base_file), digits, make_split(digits, ForgetRequest(), split_seed=1))


@pytest.mark.parametrize("what", ["classes", "channels", "class names"])
def test_data_of_another_shape_are_refused(base_file: Path, digits: Dataset, what: str) -> None:
    def coloured(part: Subset) -> Subset:
        return part._replace(pixels=part.pixels.expand(-1, 3, -1, -1))

    changed = {
        "classes": {"classes": (*digits.classes, "ten")},
        "channels": {"train": coloured(digits.train), "test": coloured(digits.test)},
        "class names": {"classes": digits.classes[::-1]},
    }[what]
    with pytest.raises(SalunError, match=r"resnet_tiny_digits_base\.pt: "):
        check_belongs(saved_spec(base_file), replace(digits, **changed), make_split(digits, ForgetRequest()))


@pytest.mark.parametrize("change", ["none", "one image more", "a class more", "a class renamed"])
def test_a_folder_that_has_changed_since_is_refused(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "my photos"
    draw(folder, {"cat": 20, "dog": 20})
    keys = {"dataset": f"folder:{folder}:size=8", "recipe": SHORT.model_dump(), "class_to_forget": 0}
    work = ModelCache(RunContext(CPU, tmp_path / "data", tmp_path / "checkpoints"))
    trained_base(problem_of(work, **keys), work)
    draw(folder, {"one image more": {"dog": 21}, "a class more": {"eel": 20}}.get(change, {}))
    if change == "a class renamed":
        (folder / "cat").rename(folder / "zebra")
    later = ModelCache(RunContext(CPU, tmp_path / "data", tmp_path / "checkpoints"))
    if change == "none":
        assert problem_of(later, **keys).spec.checkpoint is not None
    else:
        with pytest.raises(SalunError, match=r"\.pt: (has|was trained on another|was trained on other)"):
            problem_of(later, **keys)
