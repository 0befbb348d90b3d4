from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import make_task, same_weights, sets_of

from salun.data.dataset import Dataset
from salun.data.sets import Sets
from salun.data.split import ForgetRequest
from salun.errors import SalunError, SalunErrors
from salun.experiments.schema import json_schema, validate
from salun.models.checkpoint import Checkpoint
from salun.training.evaluate import predict
from salun.unlearning import METHODS, PositiveFloat, Task, load_methods, unlearn
from salun.unlearning.mask import saliency

load_methods()
QUICK = {"epochs": 1, "batch_size": 64}
FT = {"method": "ft", "lr": 0.01, **QUICK}


@pytest.fixture(scope="module")
def sets(digits: Dataset) -> Sets:
    return sets_of(digits, ForgetRequest(classes=(0,)), 100)


Given = list[tuple[Task, float]]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    """What a method called "probe" is given."""
    seen: Given = []

    def probe(task: Task, *, strength: PositiveFloat = 1.0) -> None:
        seen.append((task, strength))

    entry = replace(METHODS["ft"], name="probe", run=probe, settings={"strength": (PositiveFloat, 1.0)})
    monkeypatch.setitem(METHODS, "probe", entry)
    return seen


def rows(images: Any) -> set[int]:
    return set(images.rows.tolist())


def test_parts_come_in_the_order_of_growing_doubt(task: Task, sets: Sets, given: Given) -> None:
    unlearn(task, "rum", {"methods": ["probe"] * 3})
    split = [smaller.forget for smaller, _ in given]
    assert [len(part) for part in split] == [34, 33, 33]
    assert set.union(*map(rows, split)) == rows(sets.forget)
    outputs = [predict(task.model, part) for part in split]
    doubts = [F.cross_entropy(each.logits, each.labels, reduction="none") for each in outputs]
    assert float(doubts[0].max()) <= float(doubts[1].min())
    assert float(doubts[1].max()) <= float(doubts[2].min())


def test_images_whose_turn_comes_later_are_retained(task: Task, sets: Sets, given: Given) -> None:
    unlearn(task, "rum", {"methods": ["nothing", "probe", "probe"]})
    (middle, _), (last, _) = given
    assert rows(middle.retain) == rows(sets.retain) | rows(last.forget)
    assert rows(last.retain) == rows(sets.retain)
    later = middle.retain.take(torch.arange(len(sets.retain), len(middle.retain)))
    assert torch.equal(later.labels, last.forget.labels)


def test_parts_share_model_randomness_budget_and_classes(task: Task, given: Given) -> None:
    unlearn(task, "rum", {"methods": [{"method": "probe", "strength": 0.5}, "probe"]})
    assert [strength for _, strength in given] == [0.5, 1.0]
    for smaller, _ in given:
        assert smaller.model is task.model
        assert smaller.generator is task.generator
        assert smaller.passes is task.passes
        assert smaller.forgotten == task.forgotten


def test_more_parts_than_images_leave_none_out(task: Task, given: Given) -> None:
    task.forget = task.forget.take(torch.arange(2))
    unlearn(task, "rum", {"methods": ["probe"] * 4})
    assert [len(smaller.forget) for smaller, _ in given] == [1, 1]


@pytest.mark.parametrize("proxy", ["confidence", "holdout"])
def test_measuring_memorisation_leaves_the_model_alone(proxy: str, task: Task, trained: Checkpoint) -> None:
    unlearn(task, "rum", {"methods": ["nothing"], "proxy": proxy, "proxy_epochs": 2, "proxy_batch_size": 64})
    assert same_weights(task, trained)
    assert task.passes.forward >= len(task.forget)
    assert (task.passes.backward == 2 * len(task.validation)) == (proxy == "holdout")


def test_holdout_orders_by_how_far_a_copy_moves(task: Task, sets: Sets, given: Given) -> None:
    """A validation set that holds the first half of the forget images, wrongly labelled, moves these furthest."""
    half = sets.forget.take(torch.arange(50))
    task.validation = half.relabel((half.labels + 1) % 10).join(sets.retain)
    settings = {"proxy": "holdout", "proxy_epochs": 8, "proxy_lr": 0.02, "proxy_batch_size": 32}
    task.forget = half.join(sets.retain.take(torch.arange(50)))
    unlearn(task, "rum", {"methods": ["probe", "probe"], **settings})
    (_, _), (last, _) = given
    assert len(rows(last.forget) & rows(half)) >= 45


def test_one_part_is_the_method_itself(sets: Sets, trained: Checkpoint) -> None:
    alone, inside = make_task(trained, sets), make_task(trained, sets)
    settings = {"lr": 0.01, "momentum": 0.5, **QUICK}
    unlearn(alone, "ft", settings)
    unlearn(inside, "rum", {"methods": [{"method": "ft", **settings}]})
    assert same_weights(alone, inside)


def test_the_curve_goes_on_from_part_to_part(task: Task) -> None:
    settings = {"methods": [FT, "nothing", {**FT, "epochs": 2}], "proxy": "holdout", "proxy_epochs": 2}
    unlearn(task, "rum", settings)
    assert [point.epoch for point in task.curve] == [1, 2, 3, 4, 5]


def test_divergence_in_a_later_part_is_told_with_its_epoch(task: Task) -> None:
    unlearn(task, "rum", {"methods": [FT, {**FT, "lr": 1e38, "epochs": 3}]})
    assert task.diverged is not None
    assert 2 <= task.diverged == len(task.curve)


def test_the_mask_holds_through_all_parts(task: Task, trained: Checkpoint) -> None:
    mask = saliency(trained.restore(), task.forget, 0.3)
    unlearn(task, "rum", {"methods": [FT, {"method": "not", **QUICK}, {"method": "eu_k", **QUICK}]}, mask)
    for name, weight in task.model.named_parameters():
        held = ~mask[name]
        assert torch.equal(weight[held], trained.weights[name][held]), name


def test_holdout_needs_validation_images(task: Task) -> None:
    task.validation = task.validation.take(torch.arange(0))
    with pytest.raises(SalunError, match="'rum': proxy 'holdout': there are no validation images"):
        unlearn(task, "rum", {"proxy": "holdout"})


def entry(methods: Any, **more: Any) -> dict[str, Any]:
    return {"method": "rum", "dataset": "digits", "methods": methods, **({"unlearning_rate": 0.1} | more)}


@pytest.mark.parametrize(
    ("methods", "reason"),
    [
        (["ft", "ftt"], "part 2: method 'ftt': unknown; did you mean 'ft'?"),
        ([{"method": "ft", "epoch": 1}], "part 1: method 'ft': setting 'epoch': unknown; did you mean 'epochs'?"),
        ([{"method": "ft", "lr": -1}], "part 1: method 'ft': setting 'lr': -1: input should be greater than 0"),
        ([{"method": "ft", "epochs": 1.5}], "setting 'epochs': 1.5: input should be a valid integer"),
        ([{"lr": 0.1}], "part 1: must be a method's name, or an object of 'method' and its settings"),
        ([{"method": 3}], "part 1: must be a method's name"),
        ([{"method": "nothing", "lr": 0.1}], "part 1: method 'nothing': has no settings, but 'lr' is given"),
        (["ft", "rum"], "part 2: method 'rum': cannot unlearn a part"),
        (["retrain"], "part 1: method 'retrain': cannot unlearn a part"),
        ([], "at least 1 item"),
        ("ft", "should be a valid list"),
        ([3], "should be a valid string"),
    ],
)
def test_methods_are_checked_where_the_list_is_read(methods: Any, reason: str) -> None:
    with pytest.raises(SalunErrors) as caught:
        validate([entry(methods)], "list.json")
    (line,) = caught.value.lines
    assert line.startswith("list.json: entry 1: methods: ")
    assert reason in line
    assert "\n" not in line


def test_what_forgets_whole_classes_needs_one(monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    monkeypatch.setitem(METHODS, "negate", replace(METHODS["negate"], classwise=True))
    refusal = "part 1: method 'negate': forgets whole classes only; give class_to_forget"
    with pytest.raises(SalunErrors, match=refusal):
        validate([entry(["negate"])], "list.json")
    chosen = entry(["negate"], unlearning_rate=None, class_to_forget=0)
    assert validate([chosen], "list.json")[0].settings["methods"][0]["method"] == "negate"
    task.forgotten = ()
    with pytest.raises(SalunError, match=refusal):
        unlearn(task, "rum", {"methods": ["negate"]})
    assert task.passes.total == 0


def check(methods: Any) -> list[dict[str, Any]]:
    split: list[dict[str, Any]] = validate([entry(methods)], "list.json")[0].settings["methods"]
    return split


def test_settings_are_filled_in() -> None:
    defaults = {key: default for key, (_, default) in METHODS["ft"].settings.items()}
    found = check(["nothing", {"method": "ft", "lr": 0.5, "momentum": None}, "not"])
    assert found[0] == {"method": "nothing"}
    assert found[1] == {"method": "ft", **defaults, "lr": 0.5}
    assert (found[2]["method"], found[2]["lr"]) == ("negate", METHODS["negate"].settings["lr"][1])
    assert check(found) == found
    assert [part["method"] for part in check(None)] == ["nothing", "ft", "rl"]
    assert check(None)[2]["labels"] == "any"


def test_the_schema_tells_what_a_part_may_be() -> None:
    shape = json_schema()["$defs"]["rum_entry"]["properties"]["methods"]
    kinds = [choice["type"] for choice in shape["anyOf"][0]["items"]["anyOf"]]
    assert kinds == ["string", "object"]


def test_a_budget_holds_for_the_proxy_too(sets: Sets, trained: Checkpoint) -> None:
    task = make_task(trained, sets)
    task.passes.budget = 2000
    unlearn(task, "rum", {"methods": [FT, "nothing"], "proxy": "holdout", "proxy_epochs": 100})
    assert 2000 - 2 < task.passes.total <= 2000
