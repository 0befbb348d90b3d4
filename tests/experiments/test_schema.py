import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from jsonschema import Draft202012Validator

from salun.data.split import ForgetRequest
from salun.errors import SalunError, SalunErrors
from salun.experiments.config import Experiment, PruneRequest
from salun.experiments.schema import json_schema, load_experiments, shown, validate
from salun.metrics import METRIC_SETS, METRICS, load_metrics
from salun.training.recipe import Recipe
from salun.unlearning import METHODS, PositiveFloat, Task, load_methods, method

load_methods()

EXAMPLES = Path(__file__).parents[2] / "exp"
SEED_README = [
    {"class_to_forget": 0, "use_mask": False, "method": "rl_split"},
    {"class_to_forget": 0, "use_mask": True, "mask_thr": 0.2, "method": "rl_split"},
]
SEED_KEYS = {
    "checkpoint": "some.pt",
    "class_to_forget": 3,
    "unlearning_rate": 0.25,
    "idxs_to_forget": "some.json",
    "use_mask": True,
    "mask_thr": 0.3,
    "lr": 0.5,
    "epochs": 7,
    "method": "ga",
    "tag": "mine",
}
VALID: list[dict[str, Any]] = [
    *SEED_README,
    {"class_to_forget": 0},
    {"class_to_forget": [0, 3]},
    {"unlearning_rate": 0.5, "forget_seed": 3},
    {"unlearning_rate": 0.5, "stratified": True},
    {"unlearning_rate": 0.5, "stratified": False},
    {"class_to_forget": 0, "stratified": False},
    {"idxs_to_forget": "f.json", "stratified": None},
    {"idxs_to_forget": "f.json"},
    {"class_to_forget": None, "unlearning_rate": 0.5, "idxs_to_forget": None},
    {"checkpoint": "c.pt", "class_to_forget": 0},
    {"checkpoint": "c.pt", "model": None, "dataset": None, "split_seed": None, "class_to_forget": 0},
    {"model": "resnet_tiny", "dataset": "digits", "class_to_forget": 9, "split_seed": 2},
    {"dataset": "digits", "class_to_forget": 0},
    {"model": "vgg16_bn", "class_to_forget": 0},
    {"dataset": "synthetic:classes=20,n=400", "class_to_forget": 19},
    {"dataset": "folder:pictures", "class_to_forget": 500},
    {"class_to_forget": 0, "recipe": {"epochs": 3, "lr": 1, "patience": None, "momentum": None}},
    {"class_to_forget": 0, "method": None, "lr": None, "epochs": None, "tag": None, "metrics": None, "recipe": None},
    {"class_to_forget": 0, "method": "rl", "labels": "remaining", "grad_clip": 100, "schedule": "cosine"},
    {"class_to_forget": 0, "method": "rl", "labels": None, "grad_clip": None, "mask_batches": 5, "use_mask": True},
    {"class_to_forget": 0, "method": "retrain", "use_mask": False, "load_mask": None},
    {"class_to_forget": 0, "load_mask": "m.pt"},
    {"class_to_forget": 0, "load_mask": "m.pt", "use_mask": True, "seed": 5},
    {"class_to_forget": 0, "metrics": ["UA", "forest_auc"], "use_mask": True, "mask_thr": 1},
    {"class_to_forget": 0, "use_mask": False, "mask_thr": 0.2},
]
INVALID: list[Any] = [
    3,
    "rl",
    None,
    [{"class_to_forget": 0}],
    {},
    {"class_to_forget": 0, "unlearning_rate": 0.1},
    {"class_to_forget": 0, "idxs_to_forget": "f.json"},
    {"class_to_forget": -1},
    {"class_to_forget": []},
    {"class_to_forget": [0, -1]},
    {"class_to_forget": True},
    {"class_to_forget": "0"},
    {"class_to_forget": 0.5},
    {"unlearning_rate": 0},
    {"unlearning_rate": 1},
    {"unlearning_rate": "0.1"},
    {"unlearning_rate": 0.1, "stratified": 1},
    {"class_to_forget": 0, "stratified": True},
    {"idxs_to_forget": "f.json", "stratified": True},
    {"idxs_to_forget": ""},
    {"class_to_forget": 0, "checkpoint": "c.pt", "model": "resnet18"},
    {"class_to_forget": 0, "checkpoint": "c.pt", "dataset": "digits"},
    {"class_to_forget": 0, "checkpoint": "c.pt", "split_seed": 1},
    {"class_to_forget": 0, "model": ""},
    {"class_to_forget": 0, "dataset": ""},
    {"class_to_forget": 0, "method": "salun"},
    {"class_to_forget": 0, "method": 3},
    {"class_to_forget": 0, "method": "retrain", "use_mask": True},
    {"class_to_forget": 0, "method": "retrain", "load_mask": "m.pt"},
    {"class_to_forget": 0, "method": "retrain", "epochs": 3},
    {"class_to_forget": 0, "method": "ft", "labels": "any"},
    {"class_to_forget": 0, "labels": "false ones"},
    {"class_to_forget": 0, "ephocs": 3},
    {"class_to_forget": 0, "ephocs": None},
    {"class_to_forget": 0, "epochs": 0},
    {"class_to_forget": 0, "epochs": 2.5},
    {"class_to_forget": 0, "epochs": True},
    {"class_to_forget": 0, "lr": 0},
    {"class_to_forget": 0, "lr": "0.1"},
    {"class_to_forget": 0, "momentum": 1},
    {"class_to_forget": 0, "use_mask": 1},
    {"class_to_forget": 0, "mask_thr": 0.5},
    {"class_to_forget": 0, "mask_score": "random"},
    {"class_to_forget": 0, "mask_batches": 2},
    {"class_to_forget": 0, "load_mask": "mask.pt", "mask_thr": 0.5},
    {"class_to_forget": 0, "use_mask": True, "mask_thr": 0},
    {"class_to_forget": 0, "use_mask": True, "mask_thr": 1.1},
    {"class_to_forget": 0, "use_mask": True, "mask_score": "best"},
    {"class_to_forget": 0, "use_mask": True, "mask_batches": 0},
    {"class_to_forget": 0, "metrics": "UA"},
    {"class_to_forget": 0, "metrics": ["UB"]},
    {"class_to_forget": 0, "seed": -1},
    {"class_to_forget": 0, "seed": 2**31},
    {"class_to_forget": 0, "tag": 3},
    {"class_to_forget": 0, "recipe": []},
    {"class_to_forget": 0, "recipe": {"epoch": 3}},
    {"class_to_forget": 0, "recipe": {"epoch": None}},
    {"class_to_forget": 0, "recipe": {"batch_size": 1}},
]


def one(entry: Any) -> Experiment:
    """Validate one entry whose files need not exist."""
    return validate([entry], "list.json", files_must_exist=False)[0]


def mistakes(*entries: Any, files_must_exist: bool = False) -> list[str]:
    """Validate entries that are wrong."""
    with pytest.raises(SalunErrors) as refused:
        validate(list(entries), "list.json", files_must_exist)
    return refused.value.lines


@pytest.fixture
def registry() -> Iterator[None]:
    """Forget the methods that a test registers."""
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


def test_the_seeds_readme_entries_are_valid_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "classforget.json"
    path.write_text(json.dumps(SEED_README))
    plain, masked = load_experiments(path)
    assert (plain.method, masked.method) == ("rl_split", "rl_split")
    assert plain.forget == masked.forget == ForgetRequest(classes=(0,))
    assert plain.mask is None
    assert masked.mask is not None
    assert (masked.mask.keep, masked.mask.score, masked.mask.file) == (0.2, "sum", None)
    assert (plain.base, plain.checkpoint) == ("resnet18 on cifar10", None)


@pytest.mark.parametrize("forget", ["class_to_forget", "unlearning_rate", "idxs_to_forget"])
def test_every_key_of_the_seed_arrives(forget: str) -> None:
    others = {"class_to_forget", "unlearning_rate", "idxs_to_forget"} - {forget}
    found = one({key: value for key, value in SEED_KEYS.items() if key not in others})
    assert found.checkpoint == Path("some.pt")
    assert (found.model, found.dataset) == (None, None)
    assert found.method == "ga"
    assert (found.settings["lr"], found.settings["epochs"]) == (0.5, 7)
    assert found.mask is not None
    assert found.mask.keep == 0.3
    assert found.tag == "mine"
    requests = {
        "class_to_forget": ForgetRequest(classes=(3,)),
        "unlearning_rate": ForgetRequest(share=0.25),
        "idxs_to_forget": ForgetRequest(indices=Path("some.json")),
    }
    assert found.forget == requests[forget]


def test_null_means_not_given() -> None:
    bare = {"class_to_forget": 0}
    nulls = dict.fromkeys([*SEED_KEYS, "model", "dataset", "metrics", "seed", "mask_score", "recipe", "load_mask"])
    assert one(nulls | bare) == one(bare)
    assert one({**bare, "recipe": {"epochs": 3, "lr": None}}) == one({**bare, "recipe": {"epochs": 3}})


@pytest.mark.parametrize("entry", VALID, ids=json.dumps)
def test_valid_entries_pass(entry: dict[str, Any]) -> None:
    found = one(entry)
    assert found.method == (entry.get("method") or "rl")
    assert found.settings.keys() == METHODS[found.method].settings.keys()


@pytest.mark.parametrize("entry", INVALID, ids=json.dumps)
def test_invalid_entries_give_one_line_that_names_the_entry(entry: Any) -> None:
    lines = mistakes({"class_to_forget": 0}, entry)
    assert len(lines) == 1
    assert lines[0].startswith("list.json: entry 2: ")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_settings_are_the_methods_defaults_overridden_by_the_entry(name: str) -> None:
    defaults = {key: default for key, (_, default) in METHODS[name].settings.items()}
    assert one({"class_to_forget": 0, "method": name}).settings == defaults
    if "lr" in defaults:
        assert one({"class_to_forget": 0, "method": name, "lr": 0.77}).settings == {**defaults, "lr": 0.77}


def test_classes_are_sorted_and_counted_once() -> None:
    assert one({"class_to_forget": [7, 3, 7]}).forget == ForgetRequest(classes=(3, 7))
    assert one({"class_to_forget": [5]}) == one({"class_to_forget": 5})


def test_the_forget_seed_matters_only_where_it_is_drawn_with() -> None:
    assert one({"unlearning_rate": 0.1, "forget_seed": 4}).forget.seed == 4
    assert one({"class_to_forget": 1, "forget_seed": 4}).forget == ForgetRequest(classes=(1,))


@pytest.mark.parametrize(
    ("entry", "base"),
    [
        ({}, "resnet18 on cifar10"),
        ({"dataset": "cifar100"}, "resnet18 on cifar100"),
        ({"dataset": "digits"}, "resnet_tiny on digits"),
        ({"model": "vgg16_bn"}, "vgg16_bn on cifar10"),
        ({"model": "vgg16_bn", "dataset": "svhn"}, "vgg16_bn on svhn"),
        ({"checkpoint": "a/b.pt"}, "a/b.pt"),
    ],
)
def test_the_base_model(entry: dict[str, Any], base: str) -> None:
    assert one({**entry, "class_to_forget": 0}).base == base


def test_a_recipe_is_taken_as_given() -> None:
    found = one({"class_to_forget": 0, "recipe": {"epochs": 4, "optimizer": "adamw", "seed": 3}})
    assert found.recipe == Recipe(epochs=4, optimizer="adamw", seed=3)
    assert one({"class_to_forget": 0}).recipe is None


def test_every_mistake_is_listed_at_once_with_entry_and_key() -> None:
    lines = mistakes(
        {"class_to_forget": 0},
        {"class_to_forget": 10, "dataset": "cifar10", "lr": -1, "epochs": 0, "momentun": 0.9, "model": "resnet81"},
        {"metrics": ["UA", "UAA", "TAA"], "unlearning_rate": 2},
        "rl",
        {"method": "rl_spilt", "class_to_forget": 0, "idxs_to_forget": "f.json", "use_mask": "yes"},
        {"class_to_forget": 0, "recipe": {"lr": 0, "epoch": 3}},
    )
    wanted = [
        ("entry 2: lr: -1",),
        ("entry 2: epochs: 0",),
        ("entry 2: momentun: unknown key", "'momentum'"),
        ("entry 2: model:", "'resnet81'", "'resnet18'"),
        ("entry 2: class_to_forget: class 10", "0 to 9"),
        ("entry 3: unlearning_rate: 2", "less than 1"),
        ("entry 3: metrics:", "'UAA'", "'UA'"),
        ("entry 3: metrics:", "'TAA'", "'TA'"),
        ('entry 4: "rl"', "object"),
        ('entry 5: method: "rl_spilt"', "'rl_split'"),
        ('entry 5: use_mask: "yes"',),
        ("entry 5: class_to_forget and idxs_to_forget: exclude each other",),
        ("entry 6: recipe.lr: 0",),
        ("entry 6: recipe.epoch: unknown key", "'epochs'"),
    ]
    assert len(lines) == len(wanted)
    for words in wanted:
        assert any(all(word in line for word in words) for line in lines), (words, lines)


def test_a_misspelt_forget_key_is_one_mistake() -> None:
    (line,) = mistakes({"class_to_forgett": 0})
    assert "class_to_forgett: unknown key; did you mean 'class_to_forget'?" in line


def test_a_wrong_data_set_is_not_judged_by_its_classes() -> None:
    (line,) = mistakes({"dataset": 3, "class_to_forget": 50})
    assert "dataset: 3" in line
    (line,) = mistakes({"checkpoint": 3, "class_to_forget": 50})
    assert "checkpoint: 3" in line
    (line,) = mistakes({"dataset": "cifar11", "class_to_forget": 50})
    assert "dataset: data set 'cifar11': unknown; did you mean 'cifar10" in line


@pytest.mark.parametrize(
    ("dataset", "last"),
    [("digits", 9), ("cifar10", 9), ("cifar100", 99), ("svhn", 9), ("synthetic:classes=4", 3), ("synthetic", 9)],
)
def test_classes_end_where_the_data_set_does(dataset: str, last: int) -> None:
    assert one({"dataset": dataset, "class_to_forget": last}).forget.classes == (last,)
    (line,) = mistakes({"dataset": dataset, "class_to_forget": last + 1})
    assert f"class_to_forget: class {last + 1}: '{dataset}' has the classes 0 to {last}" in line
    (line,) = mistakes({"dataset": dataset, "class_to_forget": list(range(last + 1))})
    assert "all classes" in line


@pytest.mark.parametrize("key", ["checkpoint", "idxs_to_forget", "load_mask"])
@pytest.mark.parametrize("there", ["nothing", "a folder", "a name too long"])
def test_files_must_exist_unless_told_otherwise(key: str, there: str, tmp_path: Path) -> None:
    name = "x" * 5000 if there == "a name too long" else "there"
    if there == "a folder":
        (tmp_path / name).mkdir()
    entry = {key: name} if key == "idxs_to_forget" else {key: name, "class_to_forget": 0}
    assert validate([entry], "list.json", files_must_exist=False)
    (line,) = mistakes(entry, files_must_exist=True)
    assert line == f"list.json: entry 1: {key}: {name}: no such file"
    if there == "nothing":
        (tmp_path / name).touch()
        assert validate([entry], "list.json")


def test_a_file_that_a_method_cannot_use_is_not_looked_for() -> None:
    (line,) = mistakes({"method": "retrain", "load_mask": "m.pt", "class_to_forget": 0}, files_must_exist=True)
    assert "load_mask" in line
    assert "'retrain' takes no mask" in line


def test_only_a_method_that_takes_no_mask_says_so() -> None:
    (line,) = mistakes({"method": "retrain", "use_mask": True, "class_to_forget": 0})
    assert line == "list.json: entry 1: use_mask: true: method 'retrain' takes no mask"
    (line,) = mistakes({"method": "rl", "use_mask": 1, "class_to_forget": 0})
    assert line == "list.json: entry 1: use_mask: 1: input should be a valid boolean"


def test_a_mask_that_is_switched_off_and_loaded_is_refused() -> None:
    (line,) = mistakes({"class_to_forget": 0, "use_mask": False, "load_mask": "m.pt"})
    assert "use_mask: false: contradicts load_mask" in line
    assert one({"class_to_forget": 0, "load_mask": "m.pt"}).mask is not None


def test_one_experiment_needs_no_list(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{"class_to_forget": 0}')
    assert load_experiments(path) == [one({"class_to_forget": 0})]


def test_experiments_are_numbered_from_one() -> None:
    found = validate([{"class_to_forget": 0}] * 3, "list.json")
    assert [experiment.number for experiment in found] == [1, 2, 3]
    assert found[2].model_copy(update={"number": 1}) == found[0]


@pytest.mark.parametrize("text", ["", "[", "[1,]", "{'a': 1}", '[{"lr": 1, "lr": 2}]', "[]", "[" * 10**5, "9" * 5000])
def test_files_that_hold_no_list_are_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(SalunError, match=r"bad\.json"):
        load_experiments(path)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("key", ["lr", "momentum", "weight_decay", "grad_clip", "mask_thr", "unlearning_rate"])
def test_numbers_are_finite(key: str, value: str, tmp_path: Path) -> None:
    forget = "" if key == "unlearning_rate" else '"class_to_forget": 0, "use_mask": true, '
    (tmp_path / "bad.json").write_text(f'[{{{forget}"{key}": {value}}}]')
    with pytest.raises(SalunErrors) as refused:
        load_experiments(tmp_path / "bad.json")
    (line,) = refused.value.lines
    assert f"entry 1: {key}: " in line
    assert "finite" in line


def test_whole_numbers_serve_as_fractions_but_nothing_else_is_converted() -> None:
    assert one({"class_to_forget": 0, "lr": 1, "grad_clip": 100}).settings["lr"] == 1
    assert len(mistakes({"class_to_forget": 0, "lr": True, "epochs": "3", "use_mask": 1, "seed": 1.0})) == 4


def test_titles() -> None:
    assert one({"class_to_forget": 0}).title == "rl"
    assert one({"class_to_forget": 0, "use_mask": True, "mask_thr": 0.25}).title == "rl + mask 0.25"
    assert one({"class_to_forget": 0, "use_mask": True, "mask_score": "random"}).title == "rl + mask 0.5 random"
    assert one({"class_to_forget": 0, "load_mask": "a/m.pt"}).title == "rl + mask m.pt"


def test_shown_is_json_and_short() -> None:
    assert shown(True) == "true"
    assert shown(float("nan")) == "NaN"
    assert shown("x" * 100) == '"' + "x" * 76 + "..."
    assert shown({1, 2}) == "{1, 2}"


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(json_schema())
    assert json.loads(json.dumps(json_schema())) == json_schema()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.name)
def test_every_example_is_valid_and_meets_the_schema(path: Path) -> None:
    content = json.loads(path.read_text())
    assert len(load_experiments(path)) == len(content)
    Draft202012Validator(json_schema()).validate(content)


def test_there_are_examples() -> None:
    assert (EXAMPLES / "quickstart.json").is_file()


@pytest.mark.parametrize("entry", VALID, ids=json.dumps)
def test_the_schema_accepts_what_validation_accepts(entry: dict[str, Any]) -> None:
    schema = Draft202012Validator(json_schema())
    assert schema.is_valid([entry])
    assert schema.is_valid(entry)


@pytest.mark.parametrize("entry", INVALID, ids=json.dumps)
def test_the_schema_refuses_what_validation_refuses(entry: Any) -> None:
    assert not Draft202012Validator(json_schema()).is_valid([{"class_to_forget": 0}, entry])


def test_the_schema_lists_every_method_and_metric_with_descriptions() -> None:
    load_metrics()
    definitions = json_schema()["$defs"]
    entries = {name: shape for name, shape in definitions.items() if "method" in shape["properties"]}
    shapes = [shape["properties"]["method"]["anyOf"][0] for shape in entries.values()]
    names = [name for shape in shapes for name in shape.get("enum", [shape.get("const")])]
    aliases = {found.alias for found in METHODS.values() if found.alias}
    assert sorted(names) == sorted(METHODS.keys() | aliases)
    for shape in entries.values():
        properties = shape["properties"]
        assert shape["description"]
        assert shape["additionalProperties"] is False
        assert properties["metrics"]["anyOf"][0]["items"]["enum"] == [*METRIC_SETS, *METRICS]
        assert {"checkpoint", "mask_thr", "tag"} <= properties.keys()
        assert all("description" in properties[key] for key in ("checkpoint", "class_to_forget", "mask_thr"))


def test_a_new_method_is_known_everywhere_at_once(registry: None) -> None:
    @method(maskable=False)
    def invented(
        task: Task,
        *,
        strength: PositiveFloat = 2.5,
        layers: list[str] | None = None,
        order: Literal["up", "down"] = "up",
        careful: bool = False,
        model_share: float = 0.5,
    ) -> None:
        """Forget by wishing."""

    assert one({"class_to_forget": 0, "method": "invented"}).settings == {
        "strength": 2.5,
        "layers": None,
        "order": "up",
        "careful": False,
        "model_share": 0.5,
    }
    chosen = {"strength": 1, "layers": ["fc"], "order": "down", "careful": True, "model_share": 0.1}
    entry = {"class_to_forget": 0, "method": "invented", **chosen}
    assert one(entry).settings == chosen
    schema = Draft202012Validator(json_schema())
    assert schema.is_valid([entry])
    wrong: dict[str, Any] = {
        "strength": 0,
        "layers": "fc",
        "order": "sideways",
        "careful": 1,
        "use_mask": True,
        "load_mask": "m.pt",
        "lr": 0.1,
        "strenght": 1,
    }
    for key, value in wrong.items():
        (line,) = mistakes({"class_to_forget": 0, "method": "invented", key: value})
        assert f"entry 1: {key}: " in line
        assert not schema.is_valid({"class_to_forget": 0, "method": "invented", key: value})
    (line,) = mistakes({"class_to_forget": 0, "method": "inventd"})
    assert "did you mean 'invented'?" in line
    (line,) = mistakes({"class_to_forget": 0, "method": "ft", "strength": 1})
    assert "strength: unknown key" in line


def test_a_forgotten_method_is_unknown_again() -> None:
    (line,) = mistakes({"class_to_forget": 0, "method": "invented"})
    assert 'method: "invented": unknown' in line


def test_unreadable_places_are_mistakes_not_faults(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (line,) = mistakes({"checkpoint": "pipe", "class_to_forget": 0}, files_must_exist=True)
    assert "checkpoint: pipe: no such file" in line
    (line,) = mistakes({"checkpoint": "a\0b", "class_to_forget": 0}, files_must_exist=True)
    assert "no such file" in line


def test_a_method_of_a_plugin_without_a_mask_is_not_pruned_but_has_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "mine", replace(METHODS["retrain"], name="mine"))
    (line,) = mistakes({"method": "mine", "prune": 0.5, "class_to_forget": 0})
    assert (
        line
        == "list.json: entry 1: prune: 0.5: method 'mine' takes no mask, which is what keeps pruned weights at zero"
    )
    (found,) = validate([{"method": "mine", "budget": 5, "class_to_forget": 0}], "list.json")
    assert found.budget == 5


@pytest.mark.parametrize("key", ["prune", "budget"])
def test_nothing_shortens_the_gold_standard(key: str) -> None:
    value = {"prune": 0.5, "budget": 100}[key]
    (line,) = mistakes({"method": "retrain", key: value, "class_to_forget": 0})
    assert line.startswith(f"list.json: entry 1: {key}: {value}: method 'retrain' ")


@pytest.mark.parametrize(
    ("key", "value"), [("prune", 0.0), ("prune", 1.0), ("prune", "much"), ("budget", 0), ("budget", 1.5)]
)
def test_pruning_and_budget_have_bounds(key: str, value: Any) -> None:
    (line,) = mistakes({key: value, "class_to_forget": 0})
    assert line.startswith(f"list.json: entry 1: {key}: ")


def test_epochs_of_pruning_need_pruning() -> None:
    (line,) = mistakes({"prune_epochs": 3, "class_to_forget": 0})
    assert line == "list.json: entry 1: prune_epochs: without effect unless prune is given"
    (found,) = validate([{"prune": 0.95, "prune_epochs": 0, "class_to_forget": 0, "budget": 7}], "list.json")
    assert (found.prune, found.budget) == (PruneRequest(share=0.95, epochs=0), 7)
    assert found.title == "prune 0.95 + rl"


CLASSWISE = sorted(name for name, found in METHODS.items() if found.classwise)


@pytest.mark.parametrize("name", CLASSWISE)
@pytest.mark.parametrize(("key", "value"), [("unlearning_rate", 0.1), ("idxs_to_forget", "f.json")])
def test_a_method_of_whole_classes_refuses_other_forget_sets(name: str, key: str, value: Any) -> None:
    (line,) = mistakes({"method": name, key: value})
    assert line.startswith(f"list.json: entry 1: {key}: ")
    assert line.endswith(f"method '{name}' forgets whole classes only; give class_to_forget")
    assert validate([{"method": name, "class_to_forget": 0}], "list.json")


ALIASES = sorted((found.alias, name) for name, found in METHODS.items() if found.alias)


@pytest.mark.parametrize(("alias", "name"), ALIASES)
def test_an_alias_is_another_name_of_a_method(alias: str, name: str) -> None:
    one, other = validate([{"method": each, "class_to_forget": 0} for each in (alias, name)], "list.json")
    assert one.model_copy(update={"number": 2}) == other
    assert other.method == name


def test_a_stratified_share_reads_so_and_needs_a_share() -> None:
    (found,) = validate([{"unlearning_rate": 0.1, "stratified": True}], "list.json")
    assert str(found.forget) == "0.1 of the training split, stratified"
    (line,) = mistakes({"class_to_forget": 0, "stratified": True})
    assert line == "list.json: entry 1: stratified: without effect unless unlearning_rate is given"
