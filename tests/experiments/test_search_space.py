import re
from typing import Any

import pytest
from hostile import refuses
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from salun.errors import SalunErrors
from salun.experiments.search_space import Study, read_studies

ENTRY = {"model": "resnet_tiny", "dataset": "digits", "class_to_forget": [1, 2]}


def studies(*entries: Any) -> list[Study]:
    return read_studies([ENTRY | each if isinstance(each, dict) else each for each in entries], "list.json")


def test_lists_are_values_to_try_and_objects_are_ranges() -> None:
    ranges = {"lr": {"low": 1e-4, "high": 0.1, "log": True}, "epochs": {"low": 2, "high": 9}}
    (study,) = studies(
        {"method": "rl_split", "labels": ["any", "remaining"], **ranges, "use_mask": True, "mask_thr": [0.5]}
    )
    assert study.space == {
        "labels": CategoricalDistribution(["any", "remaining"]),
        "lr": FloatDistribution(1e-4, 0.1, log=True),
        "epochs": IntDistribution(2, 9),
        "mask_thr": CategoricalDistribution([0.5]),
    }
    assert study.entry == ENTRY | {"method": "rl_split", "use_mask": True}
    assert study.first == {"labels": "any", "lr": 1e-4, "epochs": 2, "mask_thr": 0.5}
    assert study.title == "rl_split + mask"


def test_an_entry_without_either_is_searched_in_the_ranges_of_its_method() -> None:
    first, second = studies({"method": "retrain"}, {"method": "ft", "epochs": 4}, {"method": "ssd", "use_mask": True})
    assert (first.number, second.number) == (2, 3)
    assert first.space == {
        "lr": FloatDistribution(0.01 / 30, 0.3, log=True),
        "epochs": IntDistribution(1, 12, log=True),
    }
    assert first.first == {"lr": 0.01, "epochs": 4}
    assert first.begins
    assert second.space.keys() == {"alpha", "dampening", "mask_thr"}
    assert second.entry == ENTRY | {"method": "ssd", "use_mask": True}


def test_a_setting_that_is_a_list_is_no_list_of_values() -> None:
    steps = [{"method": "ft", "epochs": 1}] * 3
    (study,) = studies({"method": "rum", "methods": steps, "proxy_epochs": [1, 2]})
    assert study.space == {"proxy_epochs": CategoricalDistribution([1, 2])}
    assert study.entry["methods"] == steps


@pytest.mark.parametrize(
    ("entry", "lines"),
    [
        ({"method": "ft", "lr": []}, ["lr: must list 1 to 1000 values to try"]),
        ({"method": "ft", "lr": {"low": 1}}, ['lr: a range has the keys "low" and "high", and may have "log"; not']),
        (
            {"method": "ft", "lr": {"low": 2, "high": 1}},
            ["lr: {'low': 2, 'high': 1}: \"low\" must be less than \"high\""],
        ),
        ({"method": "ft", "lr": {"low": 0, "high": 1, "log": True}}, ["lr: .*above 0"]),
        ({"method": "ft", "lr": [0.1, -1]}, ["lr: -1: input should be greater than 0"]),
        ({"method": "ft", "epochs": {"low": 0.5, "high": 3}}, ["epochs: 0.5: ", "epochs: 3.0: "]),
        ({"method": "ft", "mask_thr": [0.5]}, ["mask_thr: without effect"]),
        ({"method": "ft", "learning": [1, 2]}, ["learning: unknown key"]),
        ({"method": "tf"}, ["method 'tf': unknown; accepted: "]),
        ({"method": "ft", "unlearning_rate": 0.1}, ["class_to_forget and unlearning_rate: exclude each other"]),
        ({"class_to_forget": None, "requests": [{"class_to_forget": 0}], "method": "ft"}, ["requests: takes no part"]),
        ({"unlearning_rate": 0.1, "forget_choice": "worst", "method": "ft"}, ["forget_choice: takes no part"]),
        ("ft", ["'ft': must be an object"]),
    ],
)
def test_mistakes_are_told_of_every_entry_at_once(entry: Any, lines: list[str]) -> None:
    with pytest.raises(SalunErrors) as caught:
        studies({"method": "ft", "lr": [0.1, "much"]}, entry)
    first, *others = caught.value.lines
    assert first.startswith('list.json: entry 1: lr: "much": ')
    assert len(others) == len(lines)
    for told, line in zip(others, lines, strict=True):
        assert re.match(f"list.json: entry 2: {line}", told)


def test_a_list_without_anything_to_search() -> None:
    refuses("list.json: holds no experiment to search settings of", lambda: studies({"method": "retrain"}))
