"""The lists of all methods, the log of the search that settled them, and the page of what came out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from salun.experiment import load_experiments
from salun.unlearning import METHODS, load_methods

load_methods()
ROOT = Path(__file__).resolve().parents[1]
LISTS = {"class": "exp/all_methods_class.json", "random": "exp/all_methods_random.json"}
BASE_KEYS = ("model", "dataset", "class_to_forget", "unlearning_rate", "tag")
SEEDS = (100, 101, 102)
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


@EACH
def test_settings_are_those_of_the_search_with_the_smallest_gap_on_validation(problem: str) -> None:
    found = searched(problem)
    standards = [one for one in found if one["title"] == "retrain"]
    names = ("UA", "RA", "TA", "MIA")
    standard = {name: sum(one[name] for one in standards) / len(standards) for name in names}

    def gap(runs: list[dict[str, Any]]) -> float:
        gaps = [sum(abs(one[name] - standard[name]) for name in names) / 4 for one in runs if one["UA"] is not None]
        return sum(gaps) / len(gaps) if len(gaps) == len(runs) else 1.0

    for entry in written(problem):
        if entry["method"] == "retrain":
            continue
        title = entry.get("tag", entry["method"])
        own = {key: value for key, value in entry.items() if key not in BASE_KEYS}
        runs: dict[str, list[dict[str, Any]]] = {}
        for one in found:
            if one["title"] == title:
                runs.setdefault(json.dumps(one["settings"], sort_keys=True), []).append(one)
        chosen = runs[json.dumps(own, sort_keys=True)]
        assert {one["seed"] for one in chosen} == set(SEEDS), title
        finalists = [gap(found) for found in runs.values() if len(found) == len(SEEDS)]
        assert gap(chosen) == pytest.approx(min(finalists)), title


@EACH
def test_the_search_saw_other_base_models_and_seeds(problem: str) -> None:
    assert {one["seed"] for one in searched(problem)} == set(SEEDS)
    assert not any("seed" in entry or "base_seed" in entry for entry in written(problem))
