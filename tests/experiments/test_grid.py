import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from lists import BASE, planned, train_small

from salun.errors import SalunErrors
from salun.experiments.config import Experiment
from salun.experiments.schema import json_schema, load_experiments, validate
from salun.models.checkpoint import save_checkpoint
from salun.reports.labels import titles_of

DIGITS = {"model": "resnet_tiny", "dataset": "digits"}
ZERO = DIGITS | {"class_to_forget": 0}
TWICE = {"requests": [{"class_to_forget": 0}, {"class_to_forget": 1}]}
GROUPED = {"dataset": "digits_grouped"}


def read(*entries: Any) -> list[Experiment]:
    return validate(list(entries), "list.json", files_must_exist=False)


def told(*entries: Any) -> list[str]:
    with pytest.raises(SalunErrors) as refused:
        read(*entries)
    return [line.removeprefix("list.json: ") for line in refused.value.lines]


def plain(experiment: Experiment) -> dict[str, Any]:
    return experiment.model_dump(exclude={"number", "entry", "variant", "tag"})


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    return Draft202012Validator(json_schema())


GRIDS: list[tuple[dict[str, Any], list[dict[str, Any]], list[str]]] = [
    (
        ZERO | {"method": ["ft", "rl_split"], "lr": [0.01, 0.1]},
        [ZERO | {"method": name, "lr": lr} for name in ("ft", "rl_split") for lr in (0.01, 0.1)],
        ["ft, lr 0.01", "ft, lr 0.1", "rl_split, lr 0.01", "rl_split, lr 0.1"],
    ),
    (
        ZERO | {"method": "rl_split", "lr": [0.01], "use_mask": True, "mask_thr": [0.2, 0.5]},
        [ZERO | {"method": "rl_split", "lr": 0.01, "use_mask": True, "mask_thr": keep} for keep in (0.2, 0.5)],
        ["rl_split, lr 0.01, mask 0.2", "rl_split, lr 0.01, mask 0.5"],
    ),
    (
        TWICE | {"lr": [0.01, 0.1]},
        [TWICE | {"lr": lr} for lr in (0.01, 0.1)],
        ["rl, lr 0.01", "rl, lr 0.1"],
    ),
    (
        {"each": {"requests": [TWICE["requests"], {"count": 2, "unlearning_rate": 0.1}]}},
        [TWICE, {"requests": {"count": 2, "unlearning_rate": 0.1}}],
        ['rl, requests [{"class_to_forget": 0}, {"class_to_f...', 'rl, requests {"count": 2, "unlearning_rate": 0.1}'],
    ),
    (
        ZERO | {"use_mask": [True, False], "mask_thr": 0.3, "tag": "mine"},
        [ZERO | {"use_mask": True, "mask_thr": 0.3}, ZERO],
        ["mine, mask 0.3", "mine, no mask"],
    ),
    (
        ZERO | {"use_mask": True, "mask_thr": 0.3, "seed": [0, 7], "grad_clip": [None, 1]},
        [
            ZERO | {"use_mask": True, "mask_thr": 0.3, "seed": seed, "grad_clip": clip}
            for seed in (0, 7)
            for clip in (None, 1)
        ],
        [f"rl + mask 0.3, seed {seed}, grad_clip {clip}" for seed in (0, 7) for clip in ("null", 1)],
    ),
    (
        DIGITS | {"each": {"class_to_forget": "all"}},
        [DIGITS | {"class_to_forget": number} for number in range(10)],
        [f"rl, class {number}" for number in range(10)],
    ),
    (
        DIGITS | {"each": {"class_to_forget": [0, "3", [1, 2]], "lr": [0.1, 0.2]}},
        [DIGITS | {"class_to_forget": asked, "lr": lr} for asked in (0, "3", [1, 2]) for lr in (0.1, 0.2)],
        [f"rl, class {asked}, lr {lr}" for asked in ("0", "3", "[1, 2]") for lr in (0.1, 0.2)],
    ),
    (
        GROUPED | {"each": {"subclass_to_forget": "all"}},
        [GROUPED | {"subclass_to_forget": number} for number in range(10)],
        [f"rl, subclass {number}" for number in range(10)],
    ),
    (
        {"dataset": ["digits_grouped", "synthetic:classes=2"], "each": {"class_to_forget": "all"}},
        [{"dataset": "digits_grouped", "class_to_forget": number} for number in range(3)]
        + [{"dataset": "synthetic:classes=2", "class_to_forget": number} for number in range(2)],
        [f"rl, dataset digits_grouped, class {number}" for number in range(3)]
        + [f"rl, dataset synthetic:classes=2, class {number}" for number in range(2)],
    ),
    (
        DIGITS | {"unlearning_rate": [0.1, 0.25], "forget_choice": ["easy", "worst"]},
        [
            DIGITS | {"unlearning_rate": share, "forget_choice": way}
            for share in (0.1, 0.25)
            for way in ("easy", "worst")
        ],
        [f"rl, share {share}, {way}" for share in (0.1, 0.25) for way in ("easy", "worst")],
    ),
    (
        ZERO | {"method": "fisher", "each": ["batch", "image"]},
        [ZERO | {"method": "fisher", "each": each} for each in ("batch", "image")],
        ["fisher, each batch", "fisher, each image"],
    ),
    (
        ZERO | {"method": "fisher", "each": {"each": ["batch", "image"]}},
        [ZERO | {"method": "fisher", "each": each} for each in ("batch", "image")],
        ["fisher, each batch", "fisher, each image"],
    ),
    (ZERO | {"lr": 0.1, "each": None}, [ZERO | {"lr": 0.1}], []),
    (ZERO | {"each": {"metrics": [["UA"], ["UA", "RA"]]}}, [ZERO | {"metrics": m} for m in (["UA"], ["UA", "RA"])], []),
]


@pytest.mark.parametrize(("entry", "written", "names"), GRIDS, ids=lambda part: json.dumps(part)[:60])
def test_an_entry_with_lists_is_the_entries_written_out(
    entry: dict[str, Any], written: list[dict[str, Any]], names: list[str], schema: Draft202012Validator
) -> None:
    found = read(entry)
    assert [plain(each) for each in found] == [plain(each) for each in read(*written)]
    assert [each.number for each in found] == list(range(1, len(written) + 1))
    if names:
        assert [each.tag for each in found] == names
    schema.validate([entry])


def test_keys_whose_value_is_a_list_stay_what_they_are() -> None:
    methods: list[Any] = ["nothing", {"method": "ft", "lr": 0.1}]
    (found,) = read(DIGITS | {"class_to_forget": [0, 3], "metrics": ["UA", "RA"], "method": "rum", "methods": methods})
    assert found.forget.classes == (0, 3)
    assert found.metrics == ("UA", "RA")
    assert len(found.settings["methods"]) == 2
    assert (found.entry, found.variant, found.tag) == (None, "", None)


def test_places_are_those_of_the_list_as_written() -> None:
    found = read(ZERO | {"lr": [0.1, 0.2]}, ZERO, ZERO | {"seed": [1, 2]})
    assert [each.number for each in found] == [1, 2, 3, 4, 5]
    places = ["entry 1 (lr 0.1)", "entry 1 (lr 0.2)", "entry 2", "entry 3 (seed 1)", "entry 3 (seed 2)"]
    assert [each.place for each in found] == places


@pytest.mark.parametrize(
    ("entry", "lines"),
    [
        (ZERO | {"lr": []}, ["lr: []: must hold at least one value"]),
        (ZERO | {"lr": [], "method": []}, [f"{key}: []: must hold at least one value" for key in ("lr", "method")]),
        (ZERO | {"lr": [0.1, -1], "epochs": [1, 2]}, ["lr: -1: input should be greater than 0"]),
        (ZERO | {"method": ["ft", "rll"]}, ["method: \"rll\": unknown; did you mean 'rl'?"]),
        (ZERO | {"method": ["ft", "rl"], "labels": "any"}, ["labels: unknown key of method 'ft'; its settings: "]),
        (DIGITS | {"each": {"clas_to_forget": "all"}}, ["each.clas_to_forget: unknown key; did you mean 'class_to_f"]),
        (DIGITS | {"each": {}}, ["each: {}: must be an object of keys and lists"]),
        (ZERO | {"each": 3}, ["each: 3: must be an object of keys and lists"]),
        (ZERO | {"each": {"lr": "all"}}, ['each.lr: "all": must be a list of values, not empty']),
        (
            DIGITS | {"each": {"class_to_forget": []}},
            ["each.class_to_forget: []: must be a list of values, not empty, or"],
        ),
        (
            DIGITS | {"each": {"class_to_forget": [0, 12]}},
            ["class_to_forget: class 12: 'digits' has the classes 0 to 9"],
        ),
        (ZERO | {"lr": 0.1, "each": {"lr": [0.2]}}, ["each.lr: stands beside lr; give one of them"]),
        (
            DIGITS | {"each": {"subclass_to_forget": "all"}},
            ["each.subclass_to_forget: \"all\": subclass all: 'digits' has"],
        ),
        ({"dataset": "folder:x", "each": {"class_to_forget": "all"}}, ['each.class_to_forget: "all": how many ']),
        ({"checkpoint": "a.pt", "each": {"class_to_forget": "all"}}, ['each.class_to_forget: "all": needs model and']),
        (ZERO | {"lr": [0.1] * 101, "seed": [0] * 100}, ["seed: makes more than 10000 experiments of the entry"]),
        (DIGITS | {"each": {"lr": [0.1]}}, ["nothing to forget; give exactly one of class_to_forget"]),
    ],
    ids=lambda part: json.dumps(part)[:60],
)
def test_mistakes_name_the_entry_and_the_value_once(entry: dict[str, Any], lines: list[str]) -> None:
    found = told(ZERO | {"lr": [0.1, 0.2]}, entry)
    assert len(found) == len(lines)
    for line, begin in zip(found, lines, strict=True):
        assert line.startswith(f"entry 2: {begin}")


def test_a_list_makes_a_limited_number_of_experiments() -> None:
    (line,) = told(*[ZERO | {"seed": list(range(6000))}] * 2)
    assert line == "entry 2: makes more than 10000 experiments of the list; give fewer values"


@pytest.mark.parametrize(
    "entry",
    [
        ZERO | {"lr": []},
        ZERO | {"lr": [0.1, -1]},
        ZERO | {"method": []},
        DIGITS | {"each": {"clas_to_forget": "all"}},
        DIGITS | {"each": {}},
        ZERO | {"each": 3},
        ZERO | {"each": {"lr": "all"}},
        DIGITS | {"each": {"lr": [0.1]}},
    ],
    ids=json.dumps,
)
def test_wrong_lists_break_the_schema(entry: dict[str, Any], schema: Draft202012Validator) -> None:
    assert told(entry)
    assert not schema.is_valid([entry])


def test_ids_are_those_of_the_entries_written_out_and_titles_say_what_varies() -> None:
    Path(BASE).parent.mkdir()
    save_checkpoint(Path(BASE), train_small())
    masked = {"use_mask": True, "class_to_forget": None}
    grid = planned(masked | {"lr": [0.01, 0.1], "mask_thr": [0.2, 0.5], "each": {"class_to_forget": [0, 2]}})
    each = [(lr, keep, label) for lr in (0.01, 0.1) for keep in (0.2, 0.5) for label in (0, 2)]
    written = planned(*(masked | {"lr": lr, "mask_thr": keep, "class_to_forget": label} for lr, keep, label in each))
    assert [job.id for job in grid] == [job.id for job in written]
    shown = [f"ga_small, lr {lr}, mask {keep}, class {label}" for lr, keep, label in each]
    assert list(titles_of(grid).values()) == shown


def test_what_the_data_refuse_names_the_entry_and_the_value() -> None:
    Path(BASE).parent.mkdir()
    save_checkpoint(Path(BASE), train_small())
    with pytest.raises(SalunErrors) as refused:
        planned({}, {"class_to_forget": None, "each": {"class_to_forget": [1, "cat", 9]}})
    lines = [line.removeprefix("test: ").partition("; accepted")[0] for line in refused.value.lines]
    assert lines == [
        "entry 2 (class cat): class 'cat': unknown",
        "entry 2 (class 9): class 9: 'synthetic:n=90,size=8,classes=4' has the classes 0 to 3",
    ]


def test_a_list_is_read_from_its_file() -> None:
    Path("grid.json").write_text(json.dumps(ZERO | {"lr": [0.1, 0.2]}))
    assert [each.settings["lr"] for each in load_experiments(Path("grid.json"))] == [0.1, 0.2]
