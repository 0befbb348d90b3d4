import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lines import lines_run
from lists import BASE, RECORDS, SHORT, SMALL, WEIGHTS, do, planned, runner, train_small
from records import recorded

from salun.data.split import ForgetRequest
from salun.errors import SalunError
from salun.experiments.config import PruneRequest
from salun.experiments.record import experiment_of
from salun.experiments.records import read
from salun.io.files import name_part
from salun.models.architecture import TINY
from salun.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from salun.reports.labels import rows_of, rows_of_records, titles_of
from salun.training.progress import no_callback
from salun.unlearning.mask import save_mask


@pytest.fixture(scope="module")
def small() -> Checkpoint:
    return train_small()


@pytest.fixture(autouse=True)
def base_model(alone: None, small: Checkpoint) -> None:
    """The small model as the file that all entries name."""
    save_checkpoint(Path(BASE), small)


# What is to be done


# Doing it


def test_the_same_run_twice_in_a_list_is_done_once() -> None:
    jobs = planned({}, {"tag": "the same"}, {"seed": 1}, runs=2)
    assert do(jobs) == [(1, 0), (1, 1), (3, 2)]
    rows = [row for row in rows_of(jobs, read(RECORDS)[0]) if row.kind == "method"]
    assert [[record.seed for record in row.records] for row in rows] == [[0, 1], [0, 1], [1, 2]]


def test_an_interrupted_list_goes_on_where_it_stopped_and_ends_the_same() -> None:
    jobs = planned({}, {"lr": 0.002}, runs=2)
    with pytest.raises(KeyboardInterrupt):
        do(jobs, interrupted=3)
    assert len(read(RECORDS)[0]) == 2
    assert do(jobs, keep="all") == [(2, 0), (2, 1)]
    resumed = {path.name: load_checkpoint(path).fingerprint for path in WEIGHTS.glob("*.safetensors")}
    found = {key: record.metrics for key, record in read(RECORDS)[0].items()}
    RECORDS.unlink()
    assert len(do(jobs, keep="all")) == 4
    whole = {path.name: load_checkpoint(path).fingerprint for path in WEIGHTS.glob("*.safetensors")}
    assert found == {key: record.metrics for key, record in read(RECORDS)[0].items()}
    assert resumed.items() <= whole.items()


def test_a_torn_record_is_done_again() -> None:
    jobs = planned({}, runs=2)
    do(jobs)
    whole = RECORDS.read_bytes()
    RECORDS.write_bytes(whole[:-30])
    assert do(jobs) == [(1, 1)]
    assert {record.seed for record in read(RECORDS)[0].values()} == {0, 1}


@pytest.mark.parametrize(("keep", "seeds"), [("all", [0, 1, 2]), ("last", [2]), ("none", [])])
def test_unlearned_weights_are_kept_as_asked(keep: str, seeds: list[int]) -> None:
    jobs = planned({}, runs=3)
    do(jobs, keep=keep)
    kept = {f"ga_small_class0_seed{job.seed}_{job.id[:8]}": job for job in jobs if job.seed in seeds}
    names = {path.name for path in WEIGHTS.glob("*")}
    assert names == {f"{name}{suffix}" for name in kept for suffix in (".safetensors", "_forget.json")}
    for name, job in kept.items():
        assert load_checkpoint(WEIGHTS / f"{name}.safetensors").config["unlearned"]["id"] == job.id
        assert json.loads((WEIGHTS / f"{name}_forget.json").read_text()) == job.problem.split.listed.tolist()


def test_weights_that_cannot_be_written_leave_no_record() -> None:
    Path("checkpoints/list").write_text("in the way")
    with pytest.raises(SalunError, match="cannot be written"):
        do(planned({}), keep="last")
    assert not RECORDS.exists()


# Metrics that are asked for later


@pytest.mark.parametrize("harm", ["lost", "torn", "other"])
def test_a_run_whose_outputs_are_gone_is_done_again_for_a_metric_that_it_lacks(harm: str) -> None:
    jobs = planned({"metrics": ["UA"]})
    do(jobs)
    (path,) = RECORDS.parent.glob(f"outputs/{jobs[0].id}.npz")
    if harm == "lost":
        path.unlink()
    elif harm == "torn":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        (other,) = RECORDS.parent.glob("outputs/base_*.npz")
        path.write_bytes(other.read_bytes())
    assert do(jobs) == []
    assert do(planned({"metrics": ["RA"]})) == [(1, 0)]
    assert do(planned({"metrics": ["UA", "RA", "TA"]})) == []
    (record,) = read(RECORDS)[0].values()
    assert {"UA", "RA"} <= set(record.metrics)


def test_metrics_of_weights_keep_the_weights_and_ask_for_them() -> None:
    jobs = planned({"metrics": ["UA"]}, runs=2)
    do(jobs)
    assert not list(WEIGHTS.glob("*.safetensors"))
    assert do(planned({"metrics": ["weight_distance_base"]}, runs=2)) == [(1, 0), (1, 1)]
    assert len(list(WEIGHTS.glob("*.safetensors"))) == 2
    assert do(planned({"metrics": ["weight_distance_base"]}, runs=2)) == []


# Sources of randomness


OWN = {"checkpoint": None, "model": TINY, "dataset": SMALL, "recipe": SHORT}
SHARE = OWN | {"class_to_forget": None, "unlearning_rate": 0.2}


def test_each_source_of_randomness_is_varied_on_its_own() -> None:
    plain = planned(SHARE)
    seeds, bases, forgets = planned(SHARE, runs=3), planned(SHARE, bases=3), planned(SHARE, forgets=3)
    for jobs in (seeds, bases, forgets):
        assert jobs[0].id == plain[0].id
        assert len({job.id for job in jobs}) == 3
        assert [job.last for job in jobs] == [False, False, True]
    assert [job.seed for job in seeds] == [0, 1, 2]
    assert len({job.group for job in seeds}) == 1
    assert [job.problem.spec.recipe.seed for job in bases] == [0, 1, 2]
    assert len({job.problem.split.forget_fingerprint for job in (*seeds, *bases)}) == 1
    assert [job.experiment.forget.seed for job in forgets] == [0, 1, 2]
    assert len({job.problem.split.forget_fingerprint for job in forgets}) == 3
    assert {job.seed for job in (*bases, *forgets)} == {0}
    assert len({job.problem.spec.identity for job in forgets}) == 1


def test_repeats_are_crossed_and_start_at_the_seeds_of_the_entry() -> None:
    given = SHARE | {"base_seed": 5, "forget_seed": 7, "seed": 9}
    jobs = planned(given, runs=2, bases=2, forgets=3)
    drawn = [(job.problem.spec.recipe.seed, job.experiment.forget.seed, job.seed) for job in jobs]
    assert sorted(drawn) == [(base, forget, seed) for base in (5, 6) for forget in (7, 8, 9) for seed in (9, 10)]
    assert [job.number for job in jobs] == list(range(1, 13))
    assert [job.last for job in jobs].index(True) == 11


def test_a_base_model_trained_without_a_recipe_gives_the_other_base_models_its_recipe(small: Checkpoint) -> None:
    save_checkpoint(Path("checkpoints") / f"{TINY}_{name_part(SMALL)}_base.pt", small)
    jobs = planned(OWN | {"recipe": None}, bases=2)
    first, second = (job.problem.spec.recipe for job in jobs)
    assert first is not None
    assert second == first.model_copy(update={"seed": 1})
    assert jobs[0].problem.spec.path != jobs[1].problem.spec.path


def test_retrained_models_of_two_base_models_differ() -> None:
    jobs = planned(OWN | {"method": "retrain", "epochs": None, "metrics": ["UA"]}, bases=2)
    do(jobs, keep="all")
    assert len({load_checkpoint(path).fingerprint for path in WEIGHTS.glob("*.safetensors")}) == 2


def test_one_row_holds_the_runs_of_all_repeats() -> None:
    jobs = planned(SHARE | {"metrics": ["UA"]}, runs=2, bases=2)
    do(jobs)
    done = read(RECORDS)[0]
    rows = rows_of(jobs, done)
    assert [(row.kind, len(row.records)) for row in rows] == [("base", 0), ("method", 4)]
    assert [asdict(row) for row in rows_of_records(list(done.values()))] == [asdict(row) for row in rows]


def test_a_run_from_before_passes_were_counted_is_finished_without_them() -> None:
    (job,) = jobs = planned({})
    do(jobs)
    (record,) = read(RECORDS)[0].values()
    metrics = {name: value for name, value in record.metrics.items() if name != "passes"}
    old = replace(record, passes={}, metrics=metrics, outputs=None)
    assert runner().is_finished(job, {job.id: old})
    assert not runner().is_finished(job, {job.id: replace(old, metrics={})})
    (_, row) = rows_of(jobs, {job.id: old})
    assert row.estimates["UA"].mean == record.metrics["UA"]


def test_a_diverged_run_is_finished() -> None:
    jobs = planned({"lr": 1e30, "epochs": 2})
    assert do(jobs) == [(1, 0)]
    done, _ = read(RECORDS)
    assert [record.diverged for record in done.values()] == [True]
    assert all(runner().is_finished(job, done) for job in jobs)
    (base, row) = rows_of(jobs, done)
    assert base.estimates["UA"].mean is not None
    assert (row.diverged, row.estimates["UA"].mean) == (1, None)


# Titles

SWEEPS: list[tuple[list[dict[str, Any]], list[str]]] = [
    ([{"use_mask": True, "mask_score": "random"}], ["ga_small + mask 0.5 random"]),
    (
        [{"lr": 0.1}, {"lr": 0.2}, {"method": "ft"}, {"lr": 0.2, "use_mask": True}],
        ["ga_small (lr 0.1)", "ga_small (lr 0.2)", "ft", "ga_small + mask 0.5"],
    ),
    (
        [{"lr": 0.1, "epochs": 2}, {"lr": 0.2, "epochs": 2}, {"lr": 0.1, "epochs": 3}],
        ["ga_small (lr 0.1, epochs 2)", "ga_small (lr 0.2, epochs 2)", "ga_small (lr 0.1, epochs 3)"],
    ),
    ([{"budget": 700}, {}], ["ga_small (budget 700)", "ga_small (budget none)"]),
    (
        [{"prune": 0.5, "prune_epochs": 0}, {"prune": 0.5}],
        ["prune 0.5 + ga_small (prune_epochs 0)", "prune 0.5 + ga_small (prune_epochs the recipe's)"],
    ),
    ([{"method": "rl_split", "dual": True}, {"method": "rl_split"}], ["rl_split (dual true)", "rl_split (dual false)"]),
    ([{"schedule": "cosine"}, {}], ["ga_small (schedule cosine)", "ga_small (schedule constant)"]),
    ([{"lr": 0.1, "tag": "x"}, {"lr": 0.2, "tag": "x"}], ["x: ga_small (lr 0.1)", "x: ga_small (lr 0.2)"]),
    ([{"lr": 0.1, "tag": "x"}, {"lr": 0.2, "tag": "y"}], ["x: ga_small", "y: ga_small"]),
    ([{"seed": 0}, {"seed": 4}], ["ga_small (seed 0)", "ga_small (seed 4)"]),
    ([{"metrics": ["UA", "RA"]}, {"metrics": []}], ["ga_small (metrics UA RA)", "ga_small (metrics default)"]),
    ([{}, {}], ["ga_small (entry 1)", "ga_small (entry 2)"]),
    (
        [{"use_mask": True, "mask_batches": 1}, {"use_mask": True}],
        ["ga_small + mask 0.5 (mask batches 1)", "ga_small + mask 0.5 (mask batches none)"],
    ),
    (
        [{"load_mask": "a/mask.pt"}, {"load_mask": "b/mask.pt"}],
        ["ga_small + mask mask.pt (mask file a/mask.pt)", "ga_small + mask mask.pt (mask file b/mask.pt)"],
    ),
    ([{"class_to_forget": 1, "lr": 0.1}, {"class_to_forget": 2, "lr": 0.2}], ["ga_small", "ga_small"]),
    (
        [{"tag": "x"}, {"tag": "x", "method": "rl", "use_mask": True}],
        ["x: ga_small", "x: rl + mask 0.5"],
    ),
    (
        [{"tag": "mine (ga_small)", "lr": 0.1}, {"tag": "mine (ga_small)", "lr": 0.2}, {"tag": "mine"}],
        ["mine (ga_small) (lr 0.1)", "mine (ga_small) (lr 0.2)", "mine: ga_small"],
    ),
]


@pytest.mark.parametrize(("given", "titles"), SWEEPS)
def test_entries_of_one_problem_have_different_titles(
    small: Checkpoint, given: list[dict[str, Any]], titles: list[str]
) -> None:
    mask = {name: torch.ones_like(weight) for name, weight in small.restore().named_parameters()}
    for folder in ("a", "b"):
        save_mask(Path(folder) / "mask.pt", mask)
    assert list(titles_of(planned(*given, runs=2)).values()) == titles


# The table


def test_rows_hold_the_finished_runs_of_each_entry_in_the_order_of_the_list() -> None:
    given = [{"lr": 0.002}, {}, {"class_to_forget": 1, "tag": "mine", "use_mask": True}, {"lr": 0.004}]
    jobs = planned(*given, runs=2)
    assert rows_of(jobs, {}) == []
    do(planned(*given[:3]))
    done = read(RECORDS)[0]
    rows = rows_of(jobs, done)
    assert [asdict(row) for row in rows_of_records(list(done.values()))] == [asdict(row) for row in rows]
    assert [(row.kind, row.title, len(row.records)) for row in rows] == [
        ("base", "base", 0),
        ("method", "ga_small (lr 0.002)", 1),
        ("method", "ga_small (lr 0.001)", 1),
        ("base", "base", 0),
        ("method", "mine: ga_small + mask 0.5", 1),
    ]
    assert [row.records[0].settings["settings"]["lr"] for row in rows if row.records] == [0.002, 0.001, 0.001]


def test_runs_of_the_same_settings_are_one_row_under_their_latest_tag() -> None:
    do(planned({"tag": "first"}))
    do(planned({"tag": "second", "seed": 1}, {"tag": "second", "lr": 0.5}))
    rows = rows_of_records(list(read(RECORDS)[0].values()))
    assert [(row.title, len(row.records)) for row in rows] == [
        ("base", 0),
        ("second: ga_small (lr 0.001)", 2),
        ("second: ga_small (lr 0.5)", 1),
    ]


def test_a_record_tells_pruning_budget_and_a_stratified_share() -> None:
    record = recorded()
    pruned = {"prune": {"share": 0.9, "epochs": None}, "budget": 50}
    for given, wanted in (({}, (None, None)), (pruned, (PruneRequest(share=0.9), 50))):
        found = experiment_of(replace(record, settings=record.settings | given), 1)
        assert (found.prune, found.budget) == wanted
    forget = record.settings["forget"] | {"classes": [], "share": 0.1}
    for more in ({}, {"stratified": True}):
        found = experiment_of(replace(record, settings=record.settings | {"forget": forget | more}), 1)
        assert found.forget == ForgetRequest(share=0.1, stratified=bool(more))


@pytest.mark.parametrize("lost", ["base", "forget", "method", "settings", "mask"])
def test_a_record_of_other_settings_is_told(lost: str) -> None:
    record = recorded()
    settings = {key: value for key, value in record.settings.items() if key != lost}
    with pytest.raises(SalunError, match=record.id):
        experiment_of(replace(record, settings=settings), 1)


def test_as_many_runs_more_take_as_many_steps_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise SalunError("not to be done")

    monkeypatch.setattr("salun.experiments.executors.executor.run_once", refuse)
    counts = []
    for runs in (5, 20, 40, 60):  # the first time fills caches
        jobs = planned({}, runs=runs)
        counts.append(lines_run(lambda jobs=jobs: [*runner().run(jobs, lambda job: no_callback)]))
    _, least, middle, most = counts
    assert most - middle == pytest.approx(middle - least, rel=0.05)
