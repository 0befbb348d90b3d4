"""A search for settings, on a few very small images."""

import shutil
from collections import Counter
from contextlib import chdir
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lists import CPU, SHORT, SMALL

from salun.data import sources
from salun.data.dataset import Dataset
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.records import read
from salun.experiments.runner import Runner
from salun.experiments.search import Plan, Search, Trial
from salun.experiments.search_space import read_studies
from salun.metrics import GAP_METRICS

PROBLEM = {"model": "resnet_tiny", "dataset": SMALL, "recipe": SHORT, "unlearning_rate": 0.2}
FT = PROBLEM | {"method": "ft", "batch_size": 32, "epochs": 1, "lr": {"low": 1e-3, "high": 0.1, "log": True}}
GA = PROBLEM | {"method": "ga", "batch_size": 32, "lr": [0.001, 0.1], "epochs": {"low": 1, "high": 2}}
RECORDS = Path("runs/tune/list/records.jsonl")


def opened(plan: Plan, *entries: dict[str, Any]) -> Search:
    context = RunContext(CPU, tuning=True)
    runner = Runner(ModelCache(context), RECORDS, Path("checkpoints/tune/list"), "none")
    return Search(read_studies([PROBLEM | {"method": "retrain"}, *entries], "list.json"), plan, runner, "list.json")


def searched(plan: Plan, *entries: dict[str, Any]) -> tuple[Search, list[Trial]]:
    search, told = opened(plan, *entries), list[Trial]()
    search.prepare()
    search.run(told.append)
    return search, told


def tried(search: Search) -> dict[int, list[tuple[Any, ...]]]:
    found = search.trials()
    return {number: [(trial.number, trial.chosen, trial.gaps) for trial in trials] for number, trials in found.items()}


PLAN = Plan(trials=3, cells=2, finalists=2, repeats=2)


@dataclass(frozen=True)
class Done:
    """A search that is not done again: shared, so its folder must not be changed."""

    folder: Path
    search: Search
    told: list[Trial]

    @classmethod
    def of(cls, folder: Path, *entries: dict[str, Any]) -> "Done":
        torch.set_num_threads(1)
        with chdir(folder):
            return cls(folder, *searched(PLAN, *entries))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return Done.of(tmp_path_factory.mktemp("both"), FT, GA)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return Done.of(tmp_path_factory.mktemp("single"), FT)


def test_every_method_has_as_many_trials_and_no_more_passes_than_retraining(
    both: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(both.folder)
    search, told = both.search, both.told
    assert Counter(trial.study.number for trial in told) == {2: 3, 3: 3}
    assert all(len(trial.gaps) == 2 for trial in told)
    limits = {search.budget(study) for study in search.studies}
    images = {record.split["retain"] for record in read(RECORDS)[0].values()}
    assert limits == {2 * SHORT["epochs"] * count for count in images}
    done = [record for record in read(RECORDS)[0].values() if record.settings["method"] != "retrain"]
    assert all(record.unlearning_passes <= max(limits) for record in done)
    assert {record.settings["budget"] for record in done} == limits


def test_gaps_are_those_to_retrained_models_of_the_same_cell() -> None:
    _, (first, *_) = searched(replace(PLAN, trials=1), FT)
    found = read(RECORDS)[0].values()
    by_base: dict[str, dict[str, list[Any]]] = {}
    for record in found:
        sides = by_base.setdefault(record.settings["base"]["identity"], {"retrain": [], "ft": []})
        sides[record.settings["method"]].append([record.metrics[name] for name in GAP_METRICS])
    assert [[len(side) for side in sides.values()] for sides in by_base.values()] == [[3, 1], [3, 1]]
    gaps = [
        float((torch.tensor(sides["ft"]).mean(0) - torch.tensor(sides["retrain"]).mean(0)).abs().mean())
        for sides in by_base.values()
    ]
    assert sorted(first.gaps) == pytest.approx(sorted(gaps), abs=1e-6)
    assert first.gap == pytest.approx(sum(gaps) / 2, abs=1e-6)


def test_problems_and_seeds_are_none_that_are_reported() -> None:
    searched(replace(PLAN, trials=1), FT)
    for record in read(RECORDS)[0].values():
        assert record.seed >= 1_000_000
        assert record.settings["forget"]["seed"] >= 1_000_000
        assert record.settings["base"]["recipe"]["seed"] >= 1_000_000


def test_a_search_that_was_killed_goes_on_to_the_same_trials(both: Done) -> None:
    with chdir(both.folder):
        whole = tried(both.search)
    shutil.copytree(both.folder / "checkpoints", "checkpoints")
    search, told = opened(PLAN, FT, GA), list[Trial]()
    search.prepare()

    def killed(trial: Trial) -> None:
        told.append(trial)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.run(killed)
    search, more = searched(PLAN, FT, GA)
    assert tried(search) == whole
    assert len(told) + len(more) == 6


def test_two_searches_share_the_trials_of_one_study() -> None:
    first, second = opened(PLAN, FT), opened(PLAN, FT)
    told: dict[str, list[int]] = {"first": [], "second": []}
    for search in (first, second):
        search.prepare()

    def between(trial: Trial) -> None:
        told["first"].append(trial.number)
        if len(told["first"]) == 1:
            second.run(lambda other: told["second"].append(other.number))

    first.run(between)
    assert sorted(told["first"] + told["second"]) == [0, 1, 2]
    assert told["second"]
    assert tried(first) == tried(second)


def test_settings_that_diverge_count_as_trials() -> None:
    wild = FT | {"lr": [1e30]}
    _, told = searched(replace(PLAN, trials=1), wild)
    assert [trial.gaps for trial in told] == [(1.0, 1.0)]


def test_a_grid_is_tried_whole_and_once() -> None:
    grid = FT | {"lr": [0.01, 0.1], "epochs": [1, 2]}
    _, told = searched(replace(PLAN, trials=9, cells=1), grid)
    assert [trial.chosen for trial in told] == [{"lr": lr, "epochs": epochs} for epochs in (1, 2) for lr in (0.01, 0.1)]


def test_finals_run_the_best_again_and_rank_them(single: Done) -> None:
    with chdir(single.folder):
        ranked, finals = single.search.trials()[2], single.search.finals()[2]
    assert [trial.gap for trial in ranked] == sorted(trial.gap for trial in ranked)
    assert {trial.number for trial in finals} == {trial.number for trial in ranked[:2]}
    assert all(len(trial.gaps) == 4 for trial in finals)
    assert finals[0].gap <= finals[1].gap


@pytest.fixture
def garbled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets whose test images are noise under wrong labels."""
    load = sources.load

    def loaded(*arguments: Any, **named: Any) -> Dataset:
        found = load(*arguments, **named)
        noise = torch.randint(0, 256, found.test.pixels.shape, dtype=torch.uint8)
        return replace(found, test=found.test._replace(pixels=noise, labels=found.test.labels.roll(1)))

    monkeypatch.setattr("salun.experiments.context.load", loaded)


def test_no_test_image_is_read(single: Done, garbled: None) -> None:
    with chdir(single.folder):
        before = tried(single.search), {key: trial.gaps for key, trial in enumerate(single.search.finals()[2])}
    search, _ = searched(PLAN, FT)
    assert (tried(search), {key: trial.gaps for key, trial in enumerate(search.finals()[2])}) == before
