"""Requests one after another: what is asked, in which order it is done, from which model, and what is kept."""

import json
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lists import BASE, CPU, RECORDS, SMALL, WEIGHTS, do, entries, planned, results, runner, train_small

from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunErrors
from salun.experiments.audit import audits_of
from salun.experiments.base_training import save_with_forget
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.executors.executor import RunFailure
from salun.experiments.plan import Job
from salun.experiments.problem import load_problem
from salun.experiments.record import Record, weights_path
from salun.experiments.records import read
from salun.experiments.run import unlearn_once
from salun.experiments.schema import validate
from salun.models.checkpoint import Checkpoint, load_checkpoint
from salun.reports.labels import rows_of, rows_of_records
from salun.training.progress import no_callback
from salun.unlearning import METHODS, load_methods
from salun.unlearning.mask import load_mask

load_methods()
CLASSES = {"class_to_forget": None, "requests": [{"class_to_forget": 0}, {"class_to_forget": 1}]}
SHARES = {"class_to_forget": None, "requests": {"count": 3, "unlearning_rate": 0.1}}
QUICK: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 16,
    "lr": 1e-4,
    "pgd_steps": 2,
    "samples": 2,
    "noise_steps": 2,
    "noise_batches": 1,
    "information": "empirical",
    "k": 1,
    "methods": ["nothing", {"method": "ft", "lr": 0.001, "epochs": 1, "batch_size": 16}, "nothing"],
    "proxy_epochs": 1,
}


@pytest.fixture(scope="module")
def small() -> Checkpoint:
    torch.set_num_threads(1)
    return train_small()


@pytest.fixture(autouse=True)
def base(small: Checkpoint, alone: None) -> None:
    save_with_forget(Path(BASE), small, make_split(load(SMALL), ForgetRequest()))


def classes(*labels: int) -> dict[str, Any]:
    return {"class_to_forget": None, "requests": [{"class_to_forget": label} for label in labels]}


def recorded(job: Job) -> Record:
    return read(RECORDS)[0][job.id]


def timeless() -> dict[str, tuple[Any, ...]]:
    """What is recorded and kept of each run, without the seconds of all requests together."""
    found = results()
    for record, _, _ in found.values():
        for values in (record["metrics"], record["base_metrics"]):
            values.pop("RTE_total", None)
    return found


def model_of(job: Job) -> Checkpoint:
    return load_checkpoint(weights_path(WEIGHTS, recorded(job)))


def forgotten(jobs: list[Job]) -> list[set[int]]:
    return [set(job.problem.split.forget.tolist()) for job in jobs]


def lines_of(*given: dict[str, Any]) -> list[str]:
    with pytest.raises(SalunErrors) as refused:
        planned(*given)
    return [line.removeprefix("test: entry ") for line in refused.value.lines]


# What is asked


def test_each_request_is_a_run_of_each_seed_and_the_first_is_that_of_a_list_without_requests() -> None:
    first, again, second, other = planned(CLASSES, runs=2)
    plain = planned({}, runs=2)
    assert [first.id, again.id] == [job.id for job in plain]
    assert [job.parent for job in (first, again, second, other)] == [None, None, first.id, again.id]
    assert [job.experiment.key for job in (first, second)] == [(1, 1), (1, 2)]
    assert [job.seed for job in (first, again, second, other)] == [0, 1, 0, 1]
    assert len({first.id, again.id, second.id, other.id}) == 4
    split = second.problem.split
    gone = torch.cat([first.problem.split.forget, split.forget])
    assert not torch.isin(split.retain, gone).any()
    assert len(split.retain) + len(gone) == len(first.problem.split.train)
    labels = load(SMALL).test.labels
    assert set(labels[split.test].tolist()) == {2, 3}
    assert set(labels[split.forgotten_test].tolist()) == {1}


def test_the_order_of_requests_decides_the_id() -> None:
    ids = [planned(classes(*order))[-1].id for order in ((0, 1, 2), (1, 0, 2), (0, 1, 2))]
    assert ids[0] == ids[2] != ids[1]


def test_shares_are_drawn_from_what_is_left_by_the_forget_seed_and_the_request() -> None:
    jobs, again = planned(SHARES), planned(SHARES | {"forget_seed": 0})
    sets = forgotten(jobs)
    assert sets == forgotten(again)
    assert len(set.union(*sets)) == sum(map(len, sets))
    train = len(jobs[0].problem.split.train)
    for job, found in zip(jobs, sets, strict=True):
        assert len(found) == round(0.1 * train)
        assert len(job.problem.split.train) == train
        train -= len(found)
    assert sets[0] == forgotten(planned({"class_to_forget": None, "unlearning_rate": 0.1}))[0]
    others = planned(SHARES, forgets=2)
    assert forgotten(others[:3]) == sets
    assert forgotten(others[3:]) == forgotten(planned(SHARES | {"forget_seed": 1}))
    assert not any(one == other for one, other in zip(sets, forgotten(others[3:]), strict=True))


WRONG: list[tuple[dict[str, Any], list[str]]] = [
    ({"requests": []}, ["requests: []: must hold at least one request"]),
    ({"requests": 5}, ["requests: 5: must be a list of requests, or an object with count and unlearning_rate"]),
    ({"requests": [5]}, ["requests: request 1: 5: must be an object of keys and values"]),
    (
        {"requests": {"count": 0, "unlearning_rate": 2, "seed": 1}},
        [
            "requests: count: 0: input should be greater than or equal to 1",
            "requests: unlearning_rate: 2: input should be less than 1",
            "requests: seed: unknown key; accepted: count, stratified, unlearning_rate",
        ],
    ),
    (
        {"requests": {"count": 2}},
        ["requests: unlearning_rate: not given; drawn requests need count and unlearning_rate"],
    ),
    (
        {"requests": [{}, {"clas_to_forget": 1}, {"class_to_forget": 7}, {"idxs_to_forget": "none.json"}]},
        [
            "requests: request 2: clas_to_forget: unknown key; did you mean 'class_to_forget'?",
            "requests: request 1: nothing to forget; give exactly one of "
            "class_to_forget, unlearning_rate, idxs_to_forget",
            "requests: request 3: class_to_forget: class 7: 'digits' has the classes 0 to 3",
            "requests: request 4: idxs_to_forget: none.json: no such file",
        ],
    ),
    (
        {"requests": [{"class_to_forget": -1}, {"unlearning_rate": 0.1, "class_to_forget": 1, "stratified": False}]},
        [
            "requests: request 1: class_to_forget: -1: must be a class, a number from 0 or a name, or a list",
            "requests: request 2: class_to_forget and unlearning_rate: exclude each other; give exactly one of "
            "class_to_forget, unlearning_rate, idxs_to_forget",
        ],
    ),
    (
        {"requests": [{"class_to_forget": [0, 2]}, {"class_to_forget": [1, 2]}]},
        ["requests: request 2: class_to_forget: 2: request 1 has forgotten it"],
    ),
    (
        {"requests": [{"class_to_forget": 0}], "class_to_forget": 1, "load_mask": BASE, "prune": 0.5},
        [
            "class_to_forget and requests: exclude each other; give exactly one of "
            "class_to_forget, unlearning_rate, idxs_to_forget, subclass_to_forget, corrupt, requests",
            "load_mask: excluded by requests; use_mask computes a mask for each",
            "prune: excluded by requests, before each of which it would prune again",
        ],
    ),
    (
        {"requests": [{"subclass_to_forget": 0}, {"unlearning_rate": 0.1, "forget_choice": "worst"}]},
        [
            "requests: request 1: subclass_to_forget: 0: not in requests; it goes with one forget set alone",
            'requests: request 2: forget_choice: "worst": not in requests; it goes with one forget set alone',
        ],
    ),
    (
        {"requests": {"count": 2, "unlearning_rate": 0.1}, "forget_choice": "easy", "subclass_to_forget": 0},
        [
            "subclass_to_forget and requests: exclude each other; give exactly one of "
            "class_to_forget, unlearning_rate, idxs_to_forget, subclass_to_forget, corrupt, requests",
            "forget_choice: without effect unless unlearning_rate is given",
            f"subclass_to_forget: subclass 0: '{SMALL}' has one level of classes; "
            "cifar20, digits_grouped and folder:PATH:subclasses have subclasses",
        ],
    ),
    (
        {"requests": [{"class_to_forget": 0}, {"unlearning_rate": 0.1}], "method": "unsir"},
        ["requests: request 2: unlearning_rate: 0.1: method 'unsir' forgets whole classes only; give class_to_forget"],
    ),
    (
        {"requests": {"count": 2, "unlearning_rate": 0.1}, "method": "unsir"},
        ["requests: unlearning_rate: 0.1: method 'unsir' forgets whole classes only; give class_to_forget"],
    ),
]


@pytest.mark.parametrize(("keys", "told"), WRONG)
def test_every_mistake_in_requests_is_one_line(keys: dict[str, Any], told: list[str]) -> None:
    entry = {"method": "ft", "dataset": "synthetic:n=90,size=8,classes=4", "model": "resnet_tiny"} | keys
    with pytest.raises(SalunErrors) as refused:
        validate([entry], "list.json")
    told = [line.replace("'digits'", "'synthetic:n=90,size=8,classes=4'") for line in told]
    assert refused.value.lines == [f"list.json: entry 1: {line}" for line in told]


def test_images_that_two_requests_name_are_told_once_the_data_are_known_all_at_once() -> None:
    train = planned({})[0].problem.split.train.tolist()
    Path("one.json").write_text(json.dumps(train[:5]))
    Path("two.json").write_text(json.dumps(train[4:9]))
    one, two = ({"idxs_to_forget": name} for name in ("one.json", "two.json"))
    twice = {"class_to_forget": None, "requests": [one, two, {"class_to_forget": 0}, {"class_to_forget": "class 0"}]}
    count = len(forgotten(planned({}))[0])
    assert lines_of(twice, classes(0, 1, 2, 3)) == [
        "1: requests: request 2: the images in two.json: 1 of its images are those of an earlier request; "
        "name each image once",
        f"1: requests: request 4: class 0: {count} of its images are those of an earlier request; name each image once",
        "2: requests: request 4: class 3: that is the whole training split; nothing would be retained",
    ]


def test_a_class_of_which_images_were_forgotten_loses_the_rest() -> None:
    requests = [{"unlearning_rate": 0.2}, {"class_to_forget": 0}]
    share, rest = forgotten(planned({"class_to_forget": None, "requests": requests}))
    (whole,) = forgotten(planned({}))
    assert rest == whole - share < whole


def test_an_audit_takes_one_forget_set() -> None:
    with pytest.raises(SalunErrors, match="requests: an audit asks about one forget set"):
        audits_of(validate(entries(CLASSES), "test"), ModelCache(RunContext(CPU)), "test")


# How it is done


@pytest.mark.parametrize("keys", [{}, {"method": "rl", "lr": 0.05, "use_mask": True, "mask_thr": 0.3}])
def test_a_run_starts_from_the_model_of_the_request_before(keys: dict[str, Any]) -> None:
    jobs = planned(classes(0, 1, 2) | {"lr": 0.01} | keys)
    do(jobs, keep="all")
    for before, job in pairwise(jobs):
        assert recorded(job).parent == before.id
        start, cache = model_of(before).weights, ModelCache(RunContext(CPU))
        loaded = load_problem(job.problem, cache)
        again = unlearn_once(job.experiment, loaded, job.seed, cache, start=start).task.model.state_dict()
        found = model_of(job).weights
        assert all(torch.equal(found[name], again[name]) for name in found)
        if keys:
            mask = load_mask(weights_path(WEIGHTS, recorded(job)).with_suffix(".mask"))
            held = {name: ~chosen for name, chosen in mask.items()}
            assert all(torch.equal(found[name][held[name]], start[name][held[name]]) for name in held)
            earlier = load_mask(weights_path(WEIGHTS, recorded(before)).with_suffix(".mask"))
            assert any(not torch.equal(mask[name], earlier[name]) for name in mask)
    assert model_of(jobs[2]).excluded == tuple(sorted(set.union(*forgotten(jobs))))


def test_cost_adds_up_and_earlier_forget_sets_are_measured_again() -> None:
    jobs = planned(SHARES | {"metrics": ["UA", "RTE", "passes"]}, SHARES | {"method": "retrain", "epochs": None})
    do(jobs)
    for chain in (jobs[:3], jobs[3:]):
        one, two, three = map(recorded, chain)
        assert "passes_total" not in one.metrics
        assert two.metrics["passes_total"] == one.unlearning_passes + two.unlearning_passes
        assert three.metrics["passes_total"] == two.metrics["passes_total"] + three.unlearning_passes
        assert three.metrics["RTE_total"] == pytest.approx(
            sum(record.unlearning_seconds for record in (one, two, three))
        )
        assert two.details["UA_by_request"] == {"1": two.metrics["UA_earlier"]}
        sizes = [record.split["forget"] for record in (one, two)]
        parts = three.details["UA_by_request"]
        mean = (sizes[0] * parts["1"] + sizes[1] * parts["2"]) / sum(sizes)
        assert three.metrics["UA_earlier"] == pytest.approx(mean)
        assert three.base_metrics["UA_earlier"] is not None
    assert do(jobs) == []


def test_a_retrained_model_saw_none_of_the_requests_and_is_the_standard_of_its_request() -> None:
    jobs = planned(classes(0, 1) | {"method": "retrain", "epochs": None}, classes(0, 1), runs=2)
    do(jobs, keep="all")
    last = jobs[2]
    assert last.experiment.key == (1, 2)
    assert model_of(last).excluded == tuple(sorted(set.union(*forgotten([jobs[0], last]))))
    done = read(RECORDS)[0]
    rows = rows_of(jobs, done)
    assert [(row.kind, row.title) for row in rows] == [
        (kind, title)
        for step in (1, 2)
        for kind, title in (
            ("base", "base"),
            ("retrain", f"retrain, request {step} of 2"),
            ("method", f"ga_small, request {step} of 2"),
        )
    ]
    assert rows[0].group == rows[2].group != rows[3].group == rows[5].group
    titles = [row.title for row in rows_of_records(list(done.values()))]
    assert titles == ["base", "retrain", "ga_small", "base", "retrain, request 2", "ga_small, request 2"]


@pytest.mark.parametrize("interrupted", [2, 3, 4])
def test_an_interrupted_chain_goes_on_where_it_was(interrupted: int) -> None:
    jobs = planned(classes(0, 1, 2), runs=2)
    with pytest.raises(KeyboardInterrupt):
        do(jobs, keep="all", interrupted=interrupted)
    assert len(do(jobs, keep="all")) == 6 - (interrupted - 1)
    broken = timeless()
    RECORDS.unlink()
    assert len(do(jobs, keep="all")) == 6
    assert timeless() == broken


def test_a_longer_list_goes_on_from_the_last_request_of_every_seed() -> None:
    do(planned(classes(0, 1), runs=2), keep="last")
    longer = planned(classes(0, 1, 2), runs=2)
    assert do(longer, keep="last") == [(1, 0), (1, 1)]
    assert recorded(longer[-1]).parent == longer[3].id


@pytest.mark.parametrize(("keep", "kept"), [("all", [0, 1, 2, 3, 4, 5]), ("last", [1, 3, 4, 5]), ("none", [])])
def test_models_are_kept_as_asked_and_as_the_next_request_needs_them(keep: str, kept: list[int]) -> None:
    jobs = planned(classes(0, 1, 2) | {"use_mask": True}, runs=2)
    do(jobs, keep=keep)
    paths = [weights_path(WEIGHTS, recorded(jobs[place])) for place in kept]
    beside = [path.with_suffix(".mask") for path in paths]
    beside += [path.with_name(f"{path.stem}_forget.json") for path in paths]
    assert {path.name for path in WEIGHTS.glob("*")} == {path.name for path in paths + beside}
    # What the kept models do not allow to go on from is done again.
    again = do(planned({**classes(0, 1, 2), "requests": [*classes(0, 1, 2)["requests"], {"unlearning_rate": 0.3}],
                        "use_mask": True}, runs=2), keep=keep)  # fmt: skip
    assert len(again) == (8 if keep == "none" else 2)


@pytest.mark.slow
def test_steps_of_a_chain_side_by_side_with_another_seed_give_what_they_give_in_turn() -> None:
    given = [classes(0, 1), classes(0, 1) | {"method": "retrain", "epochs": None}]
    jobs = planned(*given, runs=2)
    with closing(replace(runner("all"), jobs=2).run(jobs, lambda job: no_callback)) as runs:
        order = [job.id for job, _ in runs]
    assert all(order.index(job.parent) < order.index(job.id) for job in jobs if job.parent)
    beside = timeless()
    RECORDS.unlink()
    do(jobs, keep="all")
    assert timeless() == beside


@pytest.mark.parametrize("keys", [{"lr": 1e30, "epochs": 2}, {"method": "fails"}])
def test_nothing_goes_on_from_a_run_that_diverged_or_failed(
    keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(task: Any, **settings: Any) -> None:
        raise OSError("no such thing")

    failing = replace(METHODS["ga_small"], name="fails", run=fail)
    monkeypatch.setitem(METHODS, "fails", failing)
    jobs = planned(classes(0, 1, 2) | keys, classes(0, 1))
    for _ in range(2):
        outcomes = {job.experiment.key: outcome for job, outcome in runner().run(jobs, lambda job: no_callback)}
        reasons = {key: found.reason for key, found in outcomes.items() if isinstance(found, RunFailure)}
        expected = {(1, step): f"request {step - 1} failed or diverged: no model to go on from" for step in (2, 3)}
        assert reasons.items() >= expected.items()
        assert ((1, 1) in reasons) == ("method" in keys)
    assert recorded(jobs[-1]).parent == jobs[-2].id


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_takes_requests_one_after_another(name: str) -> None:
    found = METHODS[name]
    requests: list[dict[str, Any]] = [{"class_to_forget": 0}, {"class_to_forget": 1}]
    requests += [] if found.classwise else [{"unlearning_rate": 0.2}]
    settings = {key: value for key, value in QUICK.items() if key in found.settings}
    keys = {"class_to_forget": None, "epochs": None, "requests": requests, "method": name, **settings}
    jobs = planned(keys | ({"use_mask": True} if found.maskable else {}))
    assert len(do(jobs)) == len(requests)
    for job in jobs:
        record = recorded(job)
        assert not record.diverged
        assert record.metrics["UA"] is not None
        assert (record.metrics.get("UA_earlier") is None) == (job.experiment.step == 1)
