"""The lists of all methods, the log of the search that settled them, and the page of what came out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from salun.experiments.schema import load_experiments
from salun.unlearning import METHODS, load_methods

load_methods()
ROOT = Path(__file__).resolve().parents[1]
LISTS = {"class": "exp/all_methods_class.json", "random": "exp/all_methods_random.json"}
BASE_KEYS = ("model", "dataset", "class_to_forget", "unlearning_rate", "forget_seed", "tag")
CELLS = (0, 1, 2)
RUNS = {"class": 1, "random": 2}
METRICS = ("UA", "RA", "TA", "MIA")
EACH = pytest.mark.parametrize("problem", sorted(LISTS))


def written(problem: str) -> list[dict[str, Any]]:
    return json.loads((ROOT / LISTS[problem]).read_text())


def searched(problem: str) -> list[dict[str, Any]]:
    lines = (ROOT / "docs/search_digits.jsonl").read_text().splitlines()
    return [one for one in map(json.loads, lines) if one["problem"] == problem]


def documented() -> set[str]:
    page = (ROOT / "docs/methods.md").read_text().replace("\\", "")
    return set(re.findall(r"^## (\w+)", page, re.MULTILINE))


@EACH
def test_the_lists_hold_every_method(problem: str) -> None:
    experiments = load_experiments(ROOT / LISTS[problem])
    wanted = {name for name in documented() if problem == "class" or not METHODS[name].classwise}
    assert {experiment.method for experiment in experiments} == wanted
    assert any(experiment.mask for experiment in experiments)


def gap(one: dict[str, Any], standard: dict[str, float]) -> float:
    if any(one[name] is None for name in METRICS):
        return 1.0
    return sum(abs(one[name] - standard[name]) for name in METRICS) / len(METRICS)


@EACH
def test_settings_are_those_of_the_search_with_the_smallest_gap_on_validation(problem: str) -> None:
    found = searched(problem)
    standards = {}
    for cell in CELLS:
        gold = [one for one in found if one["title"] == "retrain" and one["cell"] == cell]
        assert len(gold) == 3
        standards[cell] = {name: sum(one[name] for one in gold) / len(gold) for name in METRICS}
    for entry in written(problem):
        if entry["method"] == "retrain":
            continue
        title = entry.get("tag", entry["method"])
        own = {key: value for key, value in entry.items() if key not in BASE_KEYS}
        gaps: dict[str, list[float]] = {}
        for one in found:
            if one["title"] == title:
                key = json.dumps(one["settings"], sort_keys=True)
                gaps.setdefault(key, []).append(gap(one, standards[one["cell"]]))
        most = max(map(len, gaps.values()))
        assert most == len(CELLS) * RUNS[problem], title
        finalists = {key: sum(values) for key, values in gaps.items() if len(values) == most}
        assert len(finalists) >= 2, title
        assert finalists[json.dumps(own, sort_keys=True)] == pytest.approx(min(finalists.values())), title


@EACH
def test_the_search_saw_other_base_models_forget_sets_and_seeds(problem: str) -> None:
    assert {one["cell"] for one in searched(problem)} == set(CELLS)
    assert min(one["seed"] for one in searched(problem)) >= 100
    for entry in written(problem):
        assert not {"seed", "base_seed"} & entry.keys()
        assert entry.get("forget_seed", 0) not in [1 + cell for cell in CELLS]
