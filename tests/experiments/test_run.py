import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lists import trained_base

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError
from salun.experiments import run as run_module
from salun.experiments.base_training import save_with_forget
from salun.experiments.config import Experiment
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.problem import base_checkpoint, check_problem
from salun.experiments.record import ForgettingProblem, Record, resolved_settings, run_id, weights_path
from salun.experiments.records import append, read
from salun.experiments.runner import run_experiment
from salun.experiments.schema import validate
from salun.metrics import METRICS, check_metrics
from salun.models.architecture import TINY
from salun.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from salun.reports.summary import summarise
from salun.reports.tables import lines_of
from salun.training.recipe import Recipe
from salun.unlearning.mask import save_mask

CPU = torch.device("cpu")
SHORT = {"epochs": 1, "batch_size": 64, "schedule": "cosine"}
SMALL_DATA = "synthetic:n=60,size=8,classes=3"
TINY_DATA = "synthetic:n=60,size=32,classes=3"


def entry(checkpoint: Path | None, **keys: Any) -> Experiment:
    given = {"checkpoint": str(checkpoint)} if checkpoint else {}
    keys = given | {"method": "ga_small", "class_to_forget": 0, "metrics": ["UA"]} | keys
    if keys["method"] != "retrain":
        keys = {"epochs": 1} | keys
    return validate([{key: value for key, value in keys.items() if value is not None}], "test")[0]


Run = Callable[..., tuple[Record, Checkpoint]]


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(RunContext(CPU, tmp_path / "data", tmp_path / "checkpoints"))


@pytest.fixture
def run(cache: ModelCache, base_file: Path) -> Run:
    """Runs an entry on the trained model with a seed."""

    def go(seed: int = 0, checkpoint: Path | None = base_file, **keys: Any) -> tuple[Record, Checkpoint]:
        experiment = entry(checkpoint, **keys)
        result = run_experiment(experiment, seed, cache)
        return result.record, result.checkpoint

    return go


def same_weights(first: Checkpoint, second: Checkpoint) -> bool:
    return first.weights.keys() == second.weights.keys() and all(
        torch.equal(first.weights[name], second.weights[name]) for name in first.weights
    )


# What a record holds


@pytest.fixture(scope="module")
def example(trained_file: Path) -> tuple[Record, Checkpoint, ForgettingProblem]:
    """One real run: random labels with a mask, two epochs."""
    cache = ModelCache(RunContext(CPU))
    keys = {"method": "rl", "epochs": 2, "lr": 0.05, "use_mask": True, "mask_thr": 0.25, "tag": "a name"}
    experiment = entry(trained_file, metrics=None, **keys)
    problem = check_problem(experiment, cache)
    result = run_experiment(experiment, 7, cache)
    return result.record, result.checkpoint, problem


Example = tuple[Record, Checkpoint, ForgettingProblem]


def test_a_record_holds_the_settings_as_resolved(example: Example, trained: Checkpoint) -> None:
    record, _, problem = example
    assert (record.seed, record.tag) == (7, "a name")
    settings = record.settings
    assert settings["method"] == "rl"
    given = {"lr": 0.05, "epochs": 2}
    defaults = {"batch_size": 256, "momentum": 0.9, "weight_decay": 5e-4, "labels": "any", "grad_clip": None}
    assert settings["settings"] == defaults | given | {"schedule": "constant"}
    assert settings["mask"] == {"keep": 0.25, "score": "sum", "batches": None, "file": None}
    assert settings["base"]["model"] == TINY
    assert settings["base"]["dataset"] == "digits"
    assert settings["base"]["recipe"] == trained.config["recipe"]
    assert settings["base"]["identity"] == f"weights {trained.fingerprint}"
    assert settings["forget"]["classes"] == [0]
    assert settings["forget"]["fingerprint"] == problem.split.forget_fingerprint


def test_a_record_holds_every_metric_of_the_model_and_of_its_base(example: Example) -> None:
    record, _, _ = example
    for found in (record.metrics, record.base_metrics):
        assert list(found) == [name for name in check_metrics(()) if "retrained" not in METRICS[name].against]
        assert all(0 <= found[name] <= 1 for name in found if METRICS[name].unit == "%")
    assert record.base_metrics["RTE"] is None
    assert record.base_metrics["UA"] < 0.1
    assert record.base_metrics["TUA"] > 0.9
    assert record.metrics != record.base_metrics


def test_a_record_holds_the_curve_and_seconds_apart_and_rte_is_mask_and_method(example: Example) -> None:
    record, _, _ = example
    assert [point.epoch for point in record.curve] == [1, 2]
    assert all(point.loss > 0 and point.lr == 0.05 and point.seconds > 0 for point in record.curve)
    assert set(record.seconds) == {"mask", "method", "evaluation"}
    assert all(value > 0 for value in record.seconds.values())
    assert record.metrics["RTE"] == pytest.approx(record.seconds["mask"] + record.seconds["method"])
    assert record.seconds["method"] >= sum(point.seconds for point in record.curve)


def test_a_record_holds_image_passes_apart(example: Example) -> None:
    record, _, problem = example
    forget, images = len(problem.split.forget), len(problem.split.train)
    assert record.passes == {
        "mask": {"forward": forget, "backward": forget},
        "method": {"forward": 2 * images, "backward": 2 * images},
    }
    assert record.metrics["passes"] == record.unlearning_passes == 2 * forget + 4 * images
    assert record.base_metrics["passes"] is None


def test_retraining_costs_its_steps_and_not_the_looks_at_the_validation_set(cache: ModelCache) -> None:
    recipe = SHORT | {"epochs": 2}
    experiment = entry(None, model=TINY, dataset=SMALL_DATA, recipe=recipe, method="retrain", metrics=["RTE"])
    record = run_experiment(experiment, 0, cache).record
    seen = 2 * len(check_problem(experiment, cache).split.retain)
    assert record.passes["method"] == {"forward": seen, "backward": seen}
    assert [point.epoch for point in record.curve] == [1, 2]
    assert all(point.validation is not None and point.evaluation_seconds > 0 for point in record.curve)
    steps = sum(point.seconds for point in record.curve)
    assert steps <= record.metrics["RTE"] <= steps + 1


def test_what_is_measured_of_the_machine_is_no_part_of_rte(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    time = [0.0]

    def precision_for(*_: object) -> str:
        time[0] += 100
        return "float32"

    monkeypatch.setattr(run_module, "precision_for", precision_for)
    monkeypatch.setattr(run_module, "clock", lambda _: time[0])
    record, _ = run()
    assert time[0] == 100
    assert record.unlearning_seconds <= 0


def test_a_budget_ends_the_method_and_makes_another_run(cache: ModelCache, trained_file: Path) -> None:
    plain, short = (entry(trained_file, method="ft", epochs=3, batch_size=64, budget=each) for each in (None, 1000))
    problem = check_problem(plain, cache)
    record = run_experiment(short, 0, cache).record
    assert record.unlearning_passes == 1000
    assert len(record.curve) == 1
    assert record.settings["budget"] == 1000
    assert run_id(resolved_settings(plain, problem), 0) != run_id(resolved_settings(short, problem), 0)
    assert not {"budget", "budget_rule"} & resolved_settings(plain, problem).keys()
    assert {"budget", "budget_rule"} <= resolved_settings(short, problem).keys()


@pytest.mark.parametrize("method", ["ft", "ga", "rl_split"])
def test_the_mask_counts_into_the_budget(cache: ModelCache, trained_file: Path, method: str) -> None:
    keys = {"method": method, "epochs": 3, "batch_size": 64, "use_mask": True, "budget": 1000}
    experiment = entry(trained_file, metrics=["passes"], **keys)
    mask = 2 * len(check_problem(experiment, cache).split.forget)
    record = run_experiment(experiment, 0, cache).record
    assert sum(record.passes["mask"].values()) == mask
    assert sum(record.passes["method"].values()) == 1000 - mask
    assert record.unlearning_passes == record.metrics["passes"] == 1000


def test_a_mask_that_spends_the_budget_alone_is_refused(cache: ModelCache, trained_file: Path) -> None:
    forget = len(check_problem(entry(trained_file), cache).split.forget)
    asked = {"method": "ft", "batch_size": 32, "use_mask": True}
    with pytest.raises(SalunError, match=rf"budget: {2 * forget + 1}: the mask alone takes {2 * forget} image passes"):
        check_problem(entry(trained_file, **asked, budget=2 * forget + 1), cache)
    for room in ({"budget": 2 * forget + 2}, {"budget": 66, "mask_batches": 1}, {"budget": 2, "mask_score": "random"}):
        experiment = entry(trained_file, **asked, **room)
        assert run_experiment(experiment, 0, cache).record.unlearning_passes == room["budget"]


def test_a_stratified_share_is_told_by_settings_and_name(run: Run) -> None:
    record, _ = run(class_to_forget=None, unlearning_rate=0.1, stratified=True)
    assert record.settings["forget"]["stratified"] is True
    assert weights_path(Path(), record).name.startswith("ga_small_share0.1-stratified_seed0_")
    assert record.settings["forget"]["request"] == "0.1 of the training split, stratified"


def test_a_method_whose_loss_is_no_number_is_recorded_with_its_epoch(run: Run) -> None:
    record, _ = run(lr=1e4, epochs=50, metrics=None)
    assert record.diverged
    assert record.diverged_epoch == len(record.curve) < 50
    assert set(record.metrics.values()) == {None}


def test_what_a_certified_method_guarantees_is_recorded(run: Run, tmp_path: Path) -> None:
    clips = {"init_clip": 1.0, "step_clip": 0.5, "epsilon": 2.0, "delta": 1e-4}
    record, _ = run(method="noisy_ft", metrics=None, **clips)
    append(tmp_path / "records.jsonl", record)
    certificate = read(tmp_path / "records.jsonl")[0][record.id].certificate
    assert certificate is not None
    assert certificate["epsilon"] == pytest.approx(2.0, rel=1e-4)
    assert certificate.items() >= {"delta": 1e-4, "init_clip": 1.0, "step_clip": 0.5, "steps": 11}.items()
    assert run(method="ft", metrics=None)[0].certificate is None


def test_a_model_is_pruned_before_the_method_and_stays_so(cache: ModelCache, trained_file: Path) -> None:
    keys = {"method": "ft", "epochs": 1, "weight_decay": 0.1, "prune": 0.8, "prune_epochs": 1}
    experiment = entry(trained_file, metrics=["TA", "RTE"], **keys)
    problem = check_problem(experiment, cache)
    results = [run_experiment(experiment, seed, cache) for seed in (0, 1)]
    for result in results:
        weights = [w for name, w in result.checkpoint.weights.items() if w.ndim == 4]
        share = sum(int((w == 0).sum()) for w in weights) / sum(map(torch.numel, weights))
        assert share == pytest.approx(0.8, abs=0.001)
        assert bool((result.checkpoint.weights["fc.weight"] != 0).all())
        seen = len(problem.split.train)
        assert result.record.passes["prune"] == {"forward": seen, "backward": seen}
        assert result.record.settings["prune"] == {"share": 0.8, "epochs": 1}
        assert result.record.metrics["RTE"] < sum(result.record.seconds.values()) - result.record.seconds["evaluation"]
        assert result.record.metrics["TA"] > 0.8
    assert results[0].record.seconds["prune"] == results[1].record.seconds["prune"] > 0
    zeros = [{name: w == 0 for name, w in each.checkpoint.weights.items() if w.ndim == 4} for each in results]
    assert all(torch.equal(zeros[0][name], zeros[1][name]) for name in zeros[0])


def test_pruning_and_a_mask_hold_together(run: Run, trained: Checkpoint) -> None:
    _, result = run(method="rl", lr=0.05, prune=0.5, prune_epochs=0, use_mask=True, mask_thr=0.3)
    moved = still = 0
    for name, chosen in result.mask.items():
        after, start = result.weights[name], trained.weights[name]
        held = ~chosen
        assert bool(((after == start) | (after == 0))[held].all()), name
        moved, still = moved + int((after != start)[chosen].sum()), still + int((after == start)[held].sum())
    assert moved
    assert still


def test_a_record_tells_where_and_with_what_it_was_made(example: Example) -> None:
    record, _, problem = example
    assert record.device == f"cpu: {torch.get_num_threads()} thread"
    assert 10 * 2**20 < record.peak_memory < 2**40
    assert record.versions["torch"] == torch.__version__
    assert {"salun", "python", "timm", "numpy", "scikit-learn"} <= set(record.versions)
    assert re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?|\d+\.\d+\.\d+.*", record.revision)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.finished)
    assert record.diverged is False
    assert record.split["fingerprint"] == problem.split.fingerprint
    counts = {name: record.split[name] for name in ("train", "forget", "retain", "validation", "test")}
    assert counts["forget"] + counts["retain"] == counts["train"]
    assert counts == {name: len(getattr(problem.split, name)) for name in counts}


# Identity

CHANGES: list[dict[str, Any]] = [
    {"lr": 0.02},
    {"epochs": 2},
    {"batch_size": 128},
    {"momentum": 0.8},
    {"weight_decay": 0.0},
    {"grad_clip": 1.0},
    {"schedule": "cosine"},
    {"labels": "other"},
    {"method": "rl_split"},
    {"use_mask": True},
    {"use_mask": True, "mask_thr": 0.4},
    {"use_mask": True, "mask_score": "random"},
    {"use_mask": True, "mask_batches": 1},
    {"class_to_forget": 1},
    {"class_to_forget": [0, 1]},
    {"class_to_forget": None, "unlearning_rate": 0.1},
    {"class_to_forget": None, "unlearning_rate": 0.1, "forget_seed": 1},
    {"class_to_forget": None, "unlearning_rate": 0.11},
    {"class_to_forget": None, "idxs_to_forget": "list.json"},
    {"checkpoint": None, "model": TINY, "dataset": "digits"},
    {"checkpoint": None, "model": TINY, "dataset": "digits", "recipe": SHORT},
    {"checkpoint": None, "model": TINY, "dataset": "digits", "recipe": SHORT | {"seed": 1}},
    {"checkpoint": None, "model": TINY, "dataset": "digits", "split_seed": 1},
]


def id_of(cache: ModelCache, base_file: Path, run_seed: int = 0, **keys: Any) -> str:
    experiment = entry(**({"checkpoint": base_file, "method": "rl"} | keys))
    return run_id(resolved_settings(experiment, check_problem(experiment, cache)), run_seed)


def test_every_setting_and_the_seed_change_the_id(cache: ModelCache, base_file: Path) -> None:
    Path("list.json").write_text(json.dumps([5, 6, 7, 8, 9, 10]))
    ids = [id_of(cache, base_file), id_of(cache, base_file, run_seed=1)]
    ids += [id_of(cache, base_file, **change) for change in CHANGES]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "change", [{"tag": "name"}, {"seed": 5}, {"metrics": ["UA"]}, {"lr": 0.013}, {"use_mask": False, "mask_thr": 0.1}]
)
def test_what_does_not_change_the_outcome_does_not_change_the_id(
    cache: ModelCache, base_file: Path, change: dict[str, Any]
) -> None:
    assert id_of(cache, base_file, **change) == id_of(cache, base_file)


def test_what_a_forget_file_and_a_mask_hold_changes_the_id_and_their_place_does_not(
    cache: ModelCache, base_file: Path, trained: Checkpoint
) -> None:
    keys: dict[str, Any] = {"class_to_forget": None, "idxs_to_forget": "list.json", "load_mask": "mask.pt"}
    model = trained.restore()
    mask = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in model.named_parameters()}
    Path("list.json").write_text("[5, 6, 7]")
    save_mask(Path("mask.pt"), mask)
    ids = [id_of(cache, base_file, **keys)]
    Path("list.json").write_text("[5, 6, 8]")
    ids.append(id_of(cache, base_file, **keys))
    save_mask(Path("mask.pt"), {name: ~chosen for name, chosen in mask.items()})
    ids.append(id_of(cache, base_file, **keys))
    assert len(set(ids)) == 3
    for name in ("list.json", "mask.pt"):
        Path(name).rename(f"moved-{name}")
    moved = keys | {"idxs_to_forget": "moved-list.json", "load_mask": "moved-mask.pt"}
    assert id_of(cache, base_file, **moved) == ids[-1]


# The same again


def timeless(record: Record) -> dict[str, Any]:
    told = asdict(record)
    for point in told["curve"]:
        del point["seconds"]
    told["metrics"].pop("RTE", None)
    return {key: value for key, value in told.items() if key not in ("seconds", "peak_memory", "finished")}


@pytest.mark.parametrize(
    "keys",
    [
        {"method": "rl", "use_mask": True},
        {"method": "rl_split", "use_mask": True, "mask_score": "random", "labels": "remaining"},
        {"method": "ga_small", "class_to_forget": None, "unlearning_rate": 0.4},
    ],
)
def test_the_same_seed_gives_the_same_whatever_ran_before(keys: dict[str, Any]) -> None:
    base = {"model": TINY, "dataset": "synthetic:n=200,size=8,classes=3", "recipe": SHORT}
    experiment = entry(None, metrics=["UA", "RA", "TA", "RTE"], batch_size=32, **base, **keys)
    alone, later = ModelCache(RunContext(CPU)), ModelCache(RunContext(CPU))
    found = []
    for seed, cache in ((3, alone), (4, later), (3, later)):
        torch.rand(seed)
        found.append(run_experiment(experiment, seed, cache))
    first, other, again = found
    assert same_weights(first.checkpoint, again.checkpoint)
    assert timeless(first.record) == timeless(again.record)
    assert not same_weights(first.checkpoint, other.checkpoint)
    assert first.record.id != other.record.id


# The base model


def test_a_run_leaves_the_base_model_alone(cache: ModelCache, run: Run, base_file: Path, trained: Checkpoint) -> None:
    before = base_file.read_bytes()
    for method in ("rl", "ga_small"):
        _, after = run(method=method, lr=0.5, use_mask=True)
        assert not same_weights(after, trained)
    held = base_checkpoint(check_problem(entry(base_file), cache).spec, cache)
    assert same_weights(held, trained)
    assert base_file.read_bytes() == before


def test_the_base_models_metrics_are_those_of_the_base_model(run: Run) -> None:
    whole, _ = run(metrics=["UA", "RA", "TA"])
    other, _ = run(metrics=["UA", "RA", "TA"], class_to_forget=3)
    again, _ = run(metrics=["UA", "RA", "TA"], lr=0.5)
    assert whole.base_metrics == again.base_metrics
    assert whole.base_metrics["UA"] == pytest.approx(0, abs=0.05)
    assert whole.base_metrics["TA"] > 0.9
    assert other.base_metrics["TA"] != whole.base_metrics["TA"]


@pytest.mark.parametrize("dataset", ["digits", TINY_DATA, "synthetic:n=100,size=8,classes=10"])
def test_a_checkpoint_of_another_split_or_other_data_is_refused(
    cache: ModelCache, base_file: Path, trained: Checkpoint, dataset: str
) -> None:
    config = trained.config | ({"split": "0123456789abcdef"} if dataset == "digits" else {})
    save_checkpoint(base_file, replace(trained, dataset=dataset, config=config))
    told = "was trained on another split of 'digits'" if dataset == "digits" else ""
    with pytest.raises(SalunError, match=rf"resnet_tiny_digits_base\.pt: {told}"):
        check_problem(entry(base_file), cache)


def test_a_checkpoint_brings_its_own_split_seed(
    cache: ModelCache, base_file: Path, trained: Checkpoint, digits: Dataset
) -> None:
    wanted = make_split(digits, ForgetRequest((0,)), split_seed=3)
    config = trained.config | {"split_seed": 3, "split": wanted.fingerprint}
    save_checkpoint(base_file, replace(trained, config=config))
    split = check_problem(entry(base_file), cache).split
    for name in ("train", "validation", "forget", "retain"):
        assert torch.equal(getattr(split, name), getattr(wanted, name))
    assert not torch.equal(split.validation, make_split(digits, ForgetRequest((0,))).validation)


def test_the_same_weights_with_other_images_unseen_are_another_base(
    cache: ModelCache, base_file: Path, trained: Checkpoint
) -> None:
    unseen = [(), (5,), (5, 6)]
    for number, excluded in enumerate(unseen):
        save_checkpoint(Path(f"{number}.pt"), replace(trained, excluded=excluded))
    ids = [id_of(cache, Path(f"{number}.pt"), class_to_forget=0) for number in range(len(unseen))]
    assert len(set(ids)) == len(ids)
    assert ids[0] == id_of(cache, base_file, class_to_forget=0)


@pytest.mark.parametrize("forget", [{"class_to_forget": 0}, {"class_to_forget": None, "unlearning_rate": 0.2}])
def test_images_that_the_base_never_saw_are_neither_forgotten_nor_retained(
    cache: ModelCache, base_file: Path, trained: Checkpoint, digits: Dataset, forget: dict[str, Any]
) -> None:
    whole = make_split(digits, ForgetRequest())
    never = whole.train[::7]
    save_checkpoint(base_file, replace(trained, excluded=tuple(never.tolist())))
    split = check_problem(entry(base_file, **forget), cache).split
    for part in (split.forget, split.retain, split.train, split.validation):
        assert len(part)
        assert not torch.isin(part, never).any()
    assert len(split.train) == len(whole.train) - len(never)
    assert split.fingerprint == whole.fingerprint


def test_what_was_unlearned_can_be_unlearned_further(cache: ModelCache, run: Run, digits: Dataset) -> None:
    first, after = run()
    path = weights_path(Path("checkpoints"), first)
    save_with_forget(path, after, check_problem(entry(Path("checkpoints/resnet_tiny_digits_base.pt")), cache).split)
    second, further = run(checkpoint=path, class_to_forget=1, metrics=["UA", "RA", "TUA"])
    assert second.settings["base"]["identity"].startswith(f"weights {after.fingerprint} without ")
    assert second.split["fingerprint"] == first.split["fingerprint"]
    assert second.split["train"] == first.split["retain"]
    gone = {digits.train.labels[index].item() for index in further.excluded}
    assert gone == {0, 1}
    assert set(after.excluded) < set(further.excluded)
    save_checkpoint(Path("further.pt"), further)
    problem = check_problem(entry(Path("further.pt"), class_to_forget=2), cache)
    assert not torch.isin(problem.split.train, torch.tensor(further.excluded)).any()
    with pytest.raises(SalunError, match="class 0: none of these images"):
        check_problem(entry(Path("further.pt"), class_to_forget=0), cache)


def test_a_saved_unlearned_model_is_the_one_that_was_measured(run: Run, tmp_path: Path, digits: Dataset) -> None:
    record, after = run(lr=0.1, metrics=["UA", "RA", "TA"])
    save_checkpoint(tmp_path / "after.pt", replace(after, excluded=()))
    again, _ = run(checkpoint=tmp_path / "after.pt", metrics=["UA", "RA", "TA"])
    assert again.base_metrics == record.metrics
    assert same_weights(load_checkpoint(tmp_path / "after.pt"), after)


# Files of the seed system


@pytest.fixture(scope="module")
def seed_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the seed system writes it: no recipe, no split, no preparation."""
    folder = tmp_path_factory.mktemp("seed")
    cache = ModelCache(RunContext(CPU, folder, folder))
    experiment = entry(None, model=TINY, dataset=TINY_DATA, recipe=SHORT)
    weights = trained_base(check_problem(experiment, cache), cache).weights
    config = {"model": TINY, "dataset": TINY_DATA, "nclasses": 3}
    torch.save({"model": weights, "optimizer": None, "config": config}, folder / "seed.pt")
    return folder / "seed.pt"


def test_a_seed_checkpoint_is_unlearned_and_needs_a_recipe_for_retraining(
    run: Run, cache: ModelCache, seed_file: Path
) -> None:
    with pytest.raises(SalunError, match=r"seed\.pt: records no recipe .* key 'recipe'"):
        check_problem(entry(seed_file, method="retrain"), cache)
    keys: dict[str, Any] = {"checkpoint": seed_file, "metrics": ["UA", "RA", "TA", "MIA"]}
    gold, _ = run(method="retrain", recipe=SHORT, **keys)
    assert gold.settings["base"]["recipe"] == Recipe(**SHORT).model_dump()
    assert len(gold.curve) == 1
    record, _ = run(**keys)
    assert record.settings["base"]["recipe"] is None
    assert None not in (record.metrics["RA"], record.base_metrics["RA"])
    rows = {row.title: row for row in summarise([("retrain", [gold]), ("rl", [record])])}
    assert rows["rl"].group == rows["retrain"].group
    assert rows["rl"].gap.mean is not None


# Masks and runs that go wrong


def test_runs_of_one_problem_have_their_own_masks_and_ids(
    cache: ModelCache, base_file: Path, trained: Checkpoint
) -> None:
    weights = dict(trained.restore().named_parameters())
    mask = {name: torch.full(weight.shape, name.startswith("fc.")) for name, weight in weights.items()}
    save_mask(Path("head.pt"), mask)
    kinds: list[dict[str, Any]] = [{}, {"load_mask": "head.pt"}, {"use_mask": True}, {}]
    for keys in kinds:
        experiment = entry(base_file, lr=0.5, **keys)
        result = run_experiment(experiment, 0, cache)
        assert result.record.id == run_id(resolved_settings(experiment, check_problem(experiment, cache)), 0)
        assert (result.checkpoint.mask is not None) == bool(keys)
        for name, chosen in mask.items() if "load_mask" in keys else ():
            assert torch.equal(result.checkpoint.weights[name], trained.weights[name]) is not bool(chosen.all())
            assert result.record.settings["mask"]["file"] == "head.pt"


@pytest.mark.parametrize("method", ["rl", "ga_small"])
def test_a_computed_mask_holds_the_other_weights(run: Run, trained: Checkpoint, method: str) -> None:
    _, after = run(method=method, use_mask=True, mask_thr=0.1, lr=0.5)
    names = dict(trained.restore().named_parameters())
    moved = sum(int((after.weights[name] != trained.weights[name]).sum()) for name in names)
    total = sum(weight.numel() for weight in names.values())
    assert 0.05 * total < moved <= 0.1 * total


def test_a_mask_of_another_model_is_refused_before_a_base_model_is_trained(cache: ModelCache) -> None:
    save_mask(Path("other.pt"), {"layer.weight": torch.ones(3, 3, dtype=torch.bool)})
    with pytest.raises(SalunError, match=r"'layer\.weight' is no weight of the model"):
        check_problem(entry(None, model=TINY, dataset=TINY_DATA, method="rl", load_mask="other.pt"), cache)
    assert not cache.context.checkpoints.exists()


@pytest.mark.parametrize("keys", [{"epochs": 4, "metrics": None}, {"method": "rl"}, {"epochs": 2, "use_mask": True}])
def test_a_diverged_run_is_recorded_as_such(run: Run, tmp_path: Path, keys: dict[str, Any]) -> None:
    record, _ = run(lr=1e30, **keys)
    assert record.diverged is True
    alone = [name for name in check_metrics(()) if "retrained" not in METRICS[name].against]
    assert list(record.metrics) == (alone if "metrics" in keys else ["UA"])
    assert set(record.metrics.values()) == {None}
    assert record.base_metrics["UA"] is not None
    path = tmp_path / "records.jsonl"
    append(path, record)
    json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} was written"))
    (again,), notices = list(read(path)[0].values()), read(path)[1]
    assert notices == []
    assert again.diverged is True
    assert "1 (1 diverged in epoch " in lines_of(summarise([("rl", [again])]))[1][-1][-1]


def test_a_mask_is_part_of_the_seeded_randomness(trained: Checkpoint, run: Run) -> None:
    frozen = []
    for seed in (0, 1):
        _, after = run(seed=seed, use_mask=True, mask_score="random", lr=0.5)
        names = dict(trained.restore().named_parameters())
        frozen.append(torch.cat([(after.weights[name] == trained.weights[name]).flatten() for name in names]))
    assert 0.4 < frozen[0].float().mean() < 0.6
    assert 0.4 < (frozen[0] == frozen[1]).float().mean() < 0.6
