import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import refuses
from lists import BASE, CPU, RECORDS, SMALL, do, planned, runner, train_small

from salun.errors import SalunErrors
from salun.experiments.advice import warnings_of
from salun.experiments.audit import audits_of
from salun.experiments.config import Experiment
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.plan import Job
from salun.experiments.problem import load_problem
from salun.experiments.records import read
from salun.experiments.runner import let_choose, run_experiment
from salun.experiments.schema import validate
from salun.models.architecture import TINY
from salun.models.checkpoint import save_checkpoint
from salun.training.evaluate import predict

SHARE = {"class_to_forget": None, "unlearning_rate": 0.2}
MADE = Path("checkpoints")


@pytest.fixture(autouse=True)
def base() -> None:
    MADE.mkdir()
    save_checkpoint(Path(BASE), train_small())


def settled(*given: dict[str, Any], **repeats: int) -> list[Job]:
    """The runs of a list once the base models have chosen."""
    jobs = planned(*given, **repeats)
    assert let_choose(runner(), jobs)
    return planned(*given, **repeats)


def chosen(choice: str, **keys: Any) -> dict[str, Any]:
    return SHARE | {"forget_choice": choice} | keys


def test_images_are_those_that_the_base_model_is_least_or_most_sure_of() -> None:
    hard, easy = settled(chosen("memorized"), chosen("easy"))
    for job, order in ((hard, -1), (easy, 1)):
        split = job.problem.split
        cache = ModelCache(RunContext(CPU))
        loaded = load_problem(job.problem, cache)
        outputs = predict(loaded.base.restore(), loaded.sets.train)
        surprise = torch.nn.functional.cross_entropy(outputs.logits, outputs.labels, reduction="none")
        count = round(0.2 * len(split.train))
        wanted = split.train[(order * surprise).argsort(stable=True)[:count]]
        assert sorted(wanted.tolist()) == split.forget.tolist()
        assert torch.equal(split.listed, split.forget)
        assert len(split.forgotten_test) == 0


def test_a_choice_is_made_once_and_known_to_every_later_command() -> None:
    (before,) = planned(chosen("worst"))
    assert not before.problem.is_chosen
    assert len(before.problem.split.forget) == round(0.2 * len(before.problem.split.train))
    (after,) = settled(chosen("worst"))
    (file,) = MADE.glob("base_worst0.2_*.json")
    assert json.loads(file.read_text()) == after.problem.split.forget.tolist()
    assert after.problem.is_chosen
    assert not let_choose(runner(), [after])
    (line,) = (line for line in warnings_of([before]) if line.startswith("forget_choice"))
    assert "once the base model is trained" in line
    assert not any(line.startswith("forget_choice") for line in warnings_of([after]))
    file.unlink()
    (again,) = settled(chosen("worst"))
    assert again.id == after.id


def test_settings_base_model_and_seed_decide_the_choice() -> None:
    entries = [chosen("worst"), chosen("worst", forget_seed=1), chosen("worst", unlearning_rate=0.1), chosen("easy")]
    jobs = settled(*entries, chosen("easy", forget_seed=1), SHARE)
    assert len({job.problem.split.forget_fingerprint for job in jobs}) == 5
    assert jobs[3].id == jobs[4].id
    assert len({job.id for job in jobs}) == 5


def test_methods_on_one_choice_share_the_retrained_model() -> None:
    entries = [chosen("memorized", method=["retrain", "ft"], epochs=None, metrics=["UA", "disagreement"])]
    assert len(do(settled(*entries))) == 2
    gold, ft = read(RECORDS)[0].values()
    assert gold.settings["forget"] == ft.settings["forget"]
    assert ft.settings["forget"]["choice"] == "memorized"
    assert ft.settings["forget"]["request"] == "0.2 of the training split, memorized"
    assert ft.split["forget_fingerprint"] == ft.settings["forget"]["fingerprint"]
    again = Experiment.from_record(ft.settings)
    assert (again.forget.choice, again.forget.share) == ("memorized", 0.2)
    assert do(planned(*entries)) == []


def test_records_of_random_shares_and_classes_say_nothing_of_choices() -> None:
    for job in planned(SHARE, SHARE | {"forget_choice": "random"}, {}):
        do([job])
    assert len(read(RECORDS)[0]) == 2
    assert not any({"choice", "subclasses"} & record.settings["forget"].keys() for record in read(RECORDS)[0].values())


def test_base_models_are_trained_before_they_choose() -> None:
    recipe = {"epochs": 1, "batch_size": 32}
    entry = chosen("memorized", checkpoint=None, model=TINY, dataset=SMALL, recipe=recipe)
    seen: list[str] = []
    jobs = planned(entry, bases=2)
    assert [job.problem.is_chosen for job in jobs] == [False, False]
    let_choose(runner(), jobs, lambda spec: seen.append(spec.identity) or (lambda step: None))
    jobs = planned(entry, bases=2)
    assert len(seen) == len({job.problem.split.forget_fingerprint for job in jobs}) == 2
    assert len(do(jobs)) == 2


def test_one_experiment_chooses_by_itself() -> None:
    (experiment,) = validate(
        [{"checkpoint": BASE, "method": "ft", "epochs": 1} | chosen("easy", class_to_forget=None)], ""
    )
    result = run_experiment(experiment, 0, ModelCache(RunContext(CPU)))
    (job,) = planned(chosen("easy", method="ft"))
    assert result.record.id == job.id


def test_a_file_that_is_no_choice_is_refused() -> None:
    settled(chosen("easy"))
    (file,) = MADE.glob("base_easy*.json")
    listed = json.loads(file.read_text())
    for wrong in (listed[:-1], [*listed[:-1], listed[0]], [*listed[:-1], 10**6], [*listed[:-1], "x"], {}, [[]]):
        file.write_text(json.dumps(wrong))
        refuses("does not list 16 training images; delete it", lambda: planned(chosen("easy")))


def test_only_what_is_drawn_is_drawn_again() -> None:
    with pytest.raises(SalunErrors, match=r"--nforget 2: 0\.2 of the training split, easy is one forget set"):
        planned(chosen("easy"), forgets=2)
    jobs = settled(chosen("worst"), forgets=2)
    assert len({job.problem.split.forget_fingerprint for job in jobs}) == 2


def test_an_audit_draws_its_own_images() -> None:
    found = validate([{"checkpoint": BASE} | {key: value for key, value in chosen("easy").items() if value}], "list")
    with pytest.raises(SalunErrors, match="entry 1: forget_choice: easy: an audit draws the images"):
        audits_of(found, ModelCache(RunContext(CPU)), "list")
