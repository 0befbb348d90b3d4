import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from jsonschema import Draft202012Validator

from salun.data.split import ForgetRequest
from salun.errors import SalunErrors
from salun.experiments.config import Experiment, PruneRequest
from salun.experiments.schema import json_schema, load_experiments, validate
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
    {"checkpoint": "c.pt", "class_to_forget": ["cat", 3], "dataset": "folder:pets"},
    {"class_to_forget": "0"},
    {"idxs_to_forget": "f.csv", "indices_in": "imagefolder"},
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
    {"corrupt": {"kind": "trigger"}},
    {"corrupt": {"kind": "trigger", "share": 0.01, "target": "cat", "classes": None, "found": 1, "seed": 2}},
    {"corrupt": {"kind": "labels", "target": None, "found": 0.1}, "unlearning_rate": None, "method": "ft"},
    {"corrupt": {"kind": "interclass", "classes": [3, "dog"]}, "method": "retrain", "leave_out": "found"},
    {"corrupt": {"kind": "labels"}, "method": "retrain", "leave_out": None},
    {"requests": [{"class_to_forget": 0}, {"class_to_forget": ["cat", 3]}, {"unlearning_rate": 0.1}]},
    {"requests": [{"idxs_to_forget": "f.csv", "indices_in": "imagefolder", "class_to_forget": None}]},
    {"requests": {"count": 5, "unlearning_rate": 0.02, "stratified": True}, "forget_seed": 3, "use_mask": True},
    {"requests": {"count": 5, "unlearning_rate": 0.02, "stratified": None}, "lr": [0.1, 0.2]},
    {"requests": None, "class_to_forget": 0, "load_mask": "m.pt"},
    {"each": {"requests": [[{"class_to_forget": 0}], {"count": 2, "unlearning_rate": 0.1}]}},
]
INVALID: list[Any] = [
    3,
    "rl",
    None,
    [{"class_to_forget": 0}],
    {},
    {"requests": []},
    {"requests": [{}]},
    {"requests": [{"class_to_forget": 0, "unlearning_rate": 0.1}]},
    {"requests": [{"class_to_forget": 0, "stratified": True}]},
    {"requests": [{"class_to_forget": 0, "lr": 0.1}]},
    {"requests": {"count": 0, "unlearning_rate": 0.1}},
    {"requests": {"count": 2}},
    {"requests": {"count": 2, "unlearning_rate": 0.1, "class_to_forget": 0}},
    {"requests": "twice"},
    {"requests": [{"class_to_forget": 0}], "class_to_forget": 1},
    {"requests": [{"class_to_forget": 0}], "load_mask": "m.pt"},
    {"requests": [{"class_to_forget": 0}], "prune": 0.5},
    {"requests": [{"class_to_forget": 0}], "corrupt": {"kind": "trigger"}},
    {"requests": [{"class_to_forget": 0}], "subclass_to_forget": 0, "dataset": "cifar20"},
    {"requests": {"count": 2, "unlearning_rate": 0.1}, "forget_choice": "worst"},
    {"requests": [{"subclass_to_forget": 0}]},
    {"requests": [{"unlearning_rate": 0.1, "forget_choice": "worst"}]},
    {"class_to_forget": 0, "unlearning_rate": 0.1},
    {"class_to_forget": 0, "idxs_to_forget": "f.json"},
    {"class_to_forget": -1},
    {"class_to_forget": []},
    {"class_to_forget": [0, -1]},
    {"class_to_forget": True},
    {"class_to_forget": ""},
    {"class_to_forget": ["cat", 0.5]},
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
    {"class_to_forget": 0, "indices_in": "imagefolder"},
    {"idxs_to_forget": "f.json", "indices_in": "torch"},
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
    {"class_to_forget": 0, "corrupt": {"kind": "trigger"}},
    {"unlearning_rate": 0.1, "corrupt": {"kind": "trigger"}},
    {"checkpoint": "c.pt", "corrupt": {"kind": "trigger"}},
    {"corrupt": "trigger"},
    {"corrupt": {"share": 0.1}},
    {"corrupt": {"kind": "poison"}},
    {"corrupt": {"kind": None}},
    {"corrupt": {"kind": "trigger", "share": 0}},
    {"corrupt": {"kind": "trigger", "share": 1}},
    {"corrupt": {"kind": "trigger", "found": 0}},
    {"corrupt": {"kind": "trigger", "found": 1.1}},
    {"corrupt": {"kind": "trigger", "seed": -1}},
    {"corrupt": {"kind": "trigger", "target": -1}},
    {"corrupt": {"kind": "trigger", "classes": [1, 2]}},
    {"corrupt": {"kind": "trigger", "traget": 1}},
    {"corrupt": {"kind": "labels", "target": 1}},
    {"corrupt": {"kind": "interclass"}},
    {"corrupt": {"kind": "interclass", "classes": [1]}},
    {"corrupt": {"kind": "interclass", "classes": [1, 2, 3]}},
    {"corrupt": {"kind": "trigger"}, "method": "retrain", "leave_out": "all"},
    {"corrupt": {"kind": "trigger"}, "method": "ft", "leave_out": "found"},
    {"class_to_forget": 0, "method": "retrain", "leave_out": "found"},
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


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    """The schema of the package's own methods and metrics."""
    Draft202012Validator.check_schema(json_schema())
    return Draft202012Validator(json_schema())


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
def test_valid_entries_pass_and_meet_the_schema(entry: dict[str, Any], schema: Draft202012Validator) -> None:
    found = one(entry)
    assert found.method == (entry.get("method") or "rl")
    assert found.settings.keys() == METHODS[found.method].settings.keys()
    assert schema.is_valid([entry])
    assert schema.is_valid(entry)


@pytest.mark.parametrize("entry", INVALID, ids=json.dumps)
def test_invalid_entries_give_one_line_and_break_the_schema(entry: Any, schema: Draft202012Validator) -> None:
    (line,) = mistakes({"class_to_forget": 0}, entry)
    assert line.startswith("list.json: entry 2: ")
    assert not schema.is_valid([{"class_to_forget": 0}, entry])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_settings_are_the_methods_defaults_overridden_by_the_entry(name: str) -> None:
    defaults = {key: default for key, (_, default) in METHODS[name].settings.items()}
    assert one({"class_to_forget": 0, "method": name}).settings == defaults
    if "lr" in defaults:
        assert one({"class_to_forget": 0, "method": name, "lr": 0.77}).settings == {**defaults, "lr": 0.77}


def test_classes_are_sorted_and_counted_once_and_not_drawn() -> None:
    assert one({"unlearning_rate": 0.1, "forget_seed": 4}).forget.seed == 4
    assert one({"class_to_forget": 1, "forget_seed": 4}).forget == ForgetRequest(classes=(1,))
    assert one({"class_to_forget": [7, 3, 7]}).forget == ForgetRequest(classes=(3, 7))
    assert one({"class_to_forget": [5]}) == one({"class_to_forget": 5})


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
        {"class_to_forget": 10, "dataset": "cifar10", "lr": -1, "momentun": 0.9, "model": "resnet81"},
        {"metrics": ["UA", "UAA", "TAA"], "unlearning_rate": 2},
        "rl",
        {"method": "rl_spilt", "class_to_forget": 0, "idxs_to_forget": "f.json", "use_mask": "yes"},
        {"class_to_forgett": 0, "recipe": {"lr": 0, "epoch": 3}},
    )
    places = {
        2: ["class_to_forget", "lr", "model", "momentun"],
        3: ["metrics", "metrics", "unlearning_rate"],
        4: ['"rl"'],
        5: ["class_to_forget and idxs_to_forget", "method", "use_mask"],
        6: ["class_to_forgett", "recipe.epoch", "recipe.lr"],
    }
    told = [": ".join(line.split(": ")[1:3]) for line in lines]
    assert sorted(told) == [f"entry {number}: {key}" for number, keys in places.items() for key in keys]
    meant = {"resnet18", "momentum", "UA", "TA", "rl_split", "class_to_forget", "epochs"}
    assert meant <= set(re.findall(r"did you mean '(\w+)'", " ".join(lines)))


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


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.name)
def test_every_example_is_valid_and_meets_the_schema(path: Path, schema: Draft202012Validator) -> None:
    content = json.loads(path.read_text())
    assert {each.entry or each.number for each in load_experiments(path)} == set(range(1, len(content) + 1))
    schema.validate(content)


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


def test_a_new_method_is_known_everywhere_at_once() -> None:
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

    defaults = {"strength": 2.5, "layers": None, "order": "up", "careful": False, "model_share": 0.5}
    assert one({"class_to_forget": 0, "method": "invented"}).settings == defaults
    chosen = {"strength": 1, "layers": ["fc"], "order": "down", "careful": True, "model_share": 0.1}
    entry = {"class_to_forget": 0, "method": "invented", **chosen}
    assert one(entry).settings == chosen
    schema = Draft202012Validator(json_schema())
    assert schema.is_valid([entry])
    wrong = {"strength": 0, "layers": "fc", "order": "sideways", "careful": 1}
    unknown = {"use_mask": True, "load_mask": "m.pt", "lr": 0.1, "strenght": 1}
    for key, value in (wrong | unknown).items():
        (line,) = mistakes({"class_to_forget": 0, "method": "invented", key: value})
        assert f"entry 1: {key}: " in line
        assert not schema.is_valid({"class_to_forget": 0, "method": "invented", key: value})
    (line,) = mistakes({"class_to_forget": 0, "method": "inventd"})
    assert "did you mean 'invented'?" in line
    (line,) = mistakes({"class_to_forget": 0, "method": "ft", "strength": 1})
    assert "strength: unknown key" in line


@pytest.mark.parametrize("key", ["checkpoint", "idxs_to_forget", "load_mask"])
def test_files_must_exist_unless_told_otherwise(key: str) -> None:
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("file").touch()
    forget = {} if key == "idxs_to_forget" else {"class_to_forget": 0}
    assert validate([forget | {key: "file"}], "list.json")
    for name in ("nothing", "folder", "pipe", "x" * 5000, "a\0b"):
        assert validate([forget | {key: name}], "list.json", files_must_exist=False)
        (line,) = mistakes(forget | {key: name}, files_must_exist=True)
        assert line.startswith(f"list.json: entry 1: {key}: ")
        assert line.endswith(": no such file")


def test_a_method_of_a_plugin_without_a_mask_is_not_pruned_but_has_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "mine", replace(METHODS["retrain"], name="mine"))
    (line,) = mistakes({"method": "mine", "prune": 0.5, "class_to_forget": 0})
    assert line.endswith(": prune: 0.5: method 'mine' takes no mask, which is what keeps pruned weights at zero")
    (found,) = validate([{"method": "mine", "budget": 5, "class_to_forget": 0}], "list.json")
    assert found.budget == 5


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"method": "retrain", "prune": 0.5}, "prune: 0.5: method 'retrain' "),
        ({"method": "retrain", "budget": 100}, "budget: 100: method 'retrain' "),
        *(({"prune": share}, "prune: ") for share in (0.0, 1.0, "much")),
        *(({"budget": passes}, "budget: ") for passes in (0, 1.5)),
        ({"prune_epochs": 3}, "prune_epochs: without effect unless prune is given"),
        ({"use_mask": False, "load_mask": "m.pt"}, "use_mask: false: contradicts load_mask"),
    ],
)
def test_what_is_out_of_bounds_or_contradicts_something_is_told(entry: dict[str, Any], told: str) -> None:
    (line,) = mistakes({"class_to_forget": 0} | entry)
    assert line.startswith(f"list.json: entry 1: {told}")


def test_pruning_and_a_budget_are_taken_as_given() -> None:
    (found,) = validate([{"prune": 0.95, "prune_epochs": 0, "class_to_forget": 0, "budget": 7}], "list.json")
    assert (found.prune, found.budget) == (PruneRequest(share=0.95, epochs=0), 7)
    assert found.title == "prune 0.95 + rl"


CLASSWISE = sorted(name for name, found in METHODS.items() if found.classwise)


@pytest.mark.parametrize("name", CLASSWISE)
@pytest.mark.parametrize(
    ("key", "value"), [("unlearning_rate", 0.1), ("idxs_to_forget", "f.json"), ("corrupt", {"kind": "labels"})]
)
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
