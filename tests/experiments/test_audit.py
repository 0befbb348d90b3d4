import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError, SalunErrors
from salun.experiments.audit import BASE, Audit, Auditor, Pool, audits_of, name_of
from salun.experiments.base_training import train_checkpoint
from salun.experiments.config import Experiment, PruneRequest
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.problem import LoadedProblem
from salun.experiments.run import UnlearningResult, unlearn_once
from salun.experiments.schema import validate
from salun.models.architecture import Architecture
from salun.models.build import build
from salun.models.checkpoint import load_checkpoint, save_checkpoint
from salun.training.progress import Callback, Progress, no_callback
from salun.training.recipe import Recipe
from salun.unlearning.mask import save_mask

CPU = torch.device("cpu")
DATA = "synthetic:n=90,size=8,classes=4"
SHORT = {"epochs": 1, "batch_size": 32}
COMMON = {"model": "resnet_tiny", "dataset": DATA, "recipe": SHORT, "method": "ft", "epochs": 1}
SHARE = {"unlearning_rate": 0.2}
LISTED = list(range(0, 80, 2))
FOLDER, WEIGHTS = Path("runs/list/audit"), Path("checkpoints/list/shadows")
REQUESTS: dict[str, dict[str, Any]] = {
    "share": SHARE,
    "stratified share": SHARE | {"stratified": True},
    "nearly all": {"unlearning_rate": 0.95},
    "class": {"class_to_forget": 2},
    "classes": {"class_to_forget": [0, 3]},
    "list": {"idxs_to_forget": "list.json"},
}
EACH = pytest.mark.parametrize("request_", REQUESTS)


class Seen:
    """Gives watches that tell which trainings took a step, and interrupts one of them."""

    def __init__(self, interrupted: int | None = None) -> None:
        self.titles: list[str] = []
        self.interrupted = interrupted

    def __call__(self, title: str) -> Callback:
        def callback(progress: Progress) -> None:
            if title not in self.titles:
                self.titles.append(title)
            if len(self.titles) == self.interrupted:
                raise KeyboardInterrupt

        return callback

    @property
    def trained(self) -> list[str]:
        """Shadow models that were trained."""
        return [title for title in self.titles if "," not in title]


@pytest.fixture(autouse=True)
def listed(tmp_path: Path) -> None:
    """A forget-set file in the test's folder."""
    (tmp_path / "list.json").write_text(json.dumps(LISTED))


def audits(*entries: dict[str, Any], cache: ModelCache | None = None) -> list[Audit]:
    given = [{key: value for key, value in (COMMON | entry).items() if value is not None} for entry in entries]
    return audits_of(validate(given, "list"), cache or ModelCache(RunContext(CPU)), "list")


def audit_of(*entries: dict[str, Any], cache: ModelCache | None = None) -> Audit:
    (found,) = audits(*entries, cache=cache)
    return found


def pool(**keys: Any) -> Pool:
    return audit_of(keys).pool


def auditor(cache: ModelCache | None = None) -> Auditor:
    return Auditor(cache or ModelCache(RunContext(CPU)), FOLDER, WEIGHTS)


def do(
    audit: Audit, shadows: int, seen: Callable[[str], Callback] = lambda _: no_callback
) -> list[tuple[int, str | None]]:
    """Do what is missing, as a command of its own would; what was done."""
    worker = auditor()
    done = worker.go(audit, worker.missing(audit, shadows), seen)
    return [(one.number, one.experiment and one.experiment.method) for one in done]


def contents() -> dict[Path, list[list[float]]]:
    """All margins that are kept."""
    return {path: [part.tolist() for part in np.load(path).values()] for path in FOLDER.rglob("*.npz")}


def numbers(tensor: torch.Tensor) -> set[int]:
    return set(tensor.tolist())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished audit of fine-tuning with four shadow models: shared, so it must not be changed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        do(audit_of(SHARE), 4)
    return folder


@pytest.fixture
def kept(finished: Path, tmp_path: Path) -> Iterator[dict[Path, list[list[float]]]]:
    """The same in the test's folder; gives its margins."""
    for name in ("runs", "checkpoints"):
        shutil.copytree(finished / name, tmp_path / name)
    return contents()


# Pools


@EACH
def test_each_candidate_is_trained_on_by_exactly_one_of_each_pair(request_: str) -> None:
    found = pool(**REQUESTS[request_])
    trained = np.stack([found.trained(number) for number in range(8)])
    assert trained.shape == (8, len(found.candidates))
    assert (trained.sum(0) == 4).all()
    assert (trained[::2] != trained[1::2]).all()
    assert np.abs(trained.sum(1) - len(found.candidates) / 2).max() <= 0.5
    assert len({row.tobytes() for row in trained}) > 4


@EACH
def test_sets_of_a_shadow_model(request_: str) -> None:
    found = pool(**REQUESTS[request_])
    candidates, whole = numbers(found.candidates), found.problem.split
    assert candidates <= numbers(whole.train)
    for number in range(6):
        split = found.split(number)
        train, forget, retain = (numbers(part) for part in (split.train, split.forget, split.retain))
        assert forget == set(found.candidates[torch.from_numpy(found.trained(number))].tolist())
        assert train == forget | retain
        assert retain == numbers(whole.train) - candidates
        assert numbers(found.witnesses) <= retain
        assert not candidates & numbers(split.validation)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_a_share_is_one_of_what_a_shadow_model_is_trained_on(share: float) -> None:
    found = pool(unlearning_rate=share)
    split = found.split(0)
    assert len(found.candidates) == round(2 * share * len(found.problem.split.train) / (1 + share))
    assert len(split.forget) / len(split.train) == pytest.approx(share, abs=1 / len(split.train))


def test_of_a_stratified_share_candidates_and_halves_are_stratified() -> None:
    found = pool(**SHARE, stratified=True)
    assert len(found.candidates) == len(pool(**SHARE).candidates)
    labels, train = found.problem.dataset.train.labels, found.problem.split.train
    sizes, asked = (labels[of].bincount(minlength=4) for of in (train, found.candidates))
    assert float((asked - 2 * 0.2 / 1.2 * sizes).abs().max()) < 1
    for number in range(4):
        counts = labels[found.split(number).forget].bincount(minlength=4)
        assert float((counts - asked / 2).abs().max()) < 1


def test_candidates_of_classes_and_lists_are_their_training_images() -> None:
    by_class, by_list = pool(class_to_forget=2), pool(idxs_to_forget="list.json")
    labels = by_class.problem.dataset.train.labels
    train = numbers(by_class.problem.split.train)
    assert numbers(by_class.candidates) == {index for index in train if labels[index] == 2}
    assert numbers(by_list.candidates) == train & set(LISTED) != set(LISTED)


def test_candidates_are_drawn_by_the_forget_seed_alone() -> None:
    found, again, other = pool(**SHARE), pool(**SHARE, seed=5), pool(**SHARE, forget_seed=1)
    assert numbers(found.candidates) == numbers(again.candidates) != numbers(other.candidates)
    assert [found.trained(n).tolist() for n in range(4)] == [again.trained(n).tolist() for n in range(4)]


SAME = [{"method": "ga"}, {"lr": 0.5}, {"seed": 3}, {"tag": "mine"}, {"metrics": ["UA"]}, {"use_mask": True}]
OTHERS: list[dict[str, Any]] = [
    {"unlearning_rate": 0.3},
    {"forget_seed": 1},
    {"stratified": True},
    {"base_seed": 1},
    {"split_seed": 1},
    {"recipe": {"epochs": 2, "batch_size": 32}},
    {"dataset": "synthetic:n=91,size=8,classes=4"},
    {"unlearning_rate": None, "class_to_forget": 1},
]


@pytest.mark.parametrize("change", SAME, ids=str)
def test_shadow_models_are_shared_by_all_methods(change: dict[str, Any]) -> None:
    found = audit_of(SHARE, SHARE | change)
    assert [experiment.number for experiment in found.experiments] == [0, 1, 2]


@pytest.mark.parametrize("change", OTHERS, ids=str)
def test_other_requests_and_base_models_have_their_own_shadow_models(change: dict[str, Any]) -> None:
    one, other = audits(SHARE, SHARE | change)
    assert one.pool.key != other.pool.key
    assert len(one.experiments) == len(other.experiments) == 2


def test_problems_have_titles_of_their_own() -> None:
    found = audits(SHARE, SHARE | {"forget_seed": 1}, SHARE | {"base_seed": 2}, {"class_to_forget": 1})
    assert len({str(audit) for audit in found}) == 4
    whole = f"resnet_tiny on {DATA}, forgetting 0.2 of the training split"
    assert str(found[1]) == f"{whole}, forget_seed 1: {len(found[1].pool.candidates)} images asked for"


def test_a_class_and_the_list_of_its_images_are_two_problems() -> None:
    images = pool(class_to_forget=1).candidates.tolist()
    Path("list.json").write_text(json.dumps(images))
    one, other = audits({"class_to_forget": 1}, {"idxs_to_forget": "list.json"})
    assert one.pool.candidates.tolist() == other.pool.candidates.tolist() == images
    assert one.pool.key != other.pool.key


def test_images_that_a_base_model_never_saw_are_not_asked_for_and_its_recipe_is_needed() -> None:
    split = make_split(load(DATA), ForgetRequest((0,)))
    checkpoint, _ = train_checkpoint("resnet_tiny", load(DATA), split, Recipe(**SHORT), CPU)
    save_checkpoint(Path("partly.pt"), checkpoint)
    own = {"model": None, "dataset": None, "recipe": None, "checkpoint": "partly.pt"}
    one, other = audits({"class_to_forget": 1}, own | {"class_to_forget": 1})
    never = numbers(split.forget)
    assert never <= numbers(one.pool.split(0).train)
    assert not never & (numbers(other.pool.split(0).train) | numbers(other.pool.witnesses))
    save_checkpoint(Path("partly.pt"), replace(checkpoint, config={}))
    with pytest.raises(SalunError, match=r"records no recipe to train shadow models by; .*'recipe'"):
        audits(own | {"class_to_forget": 1})


def test_retraining_is_added_only_where_it_is_missing_without_pruning_and_budget() -> None:
    plain, sparse = (audit_of(SHARE | keys).experiments for keys in ({}, {"prune": 0.5, "budget": 9}))
    assert sparse[0] == plain[0]
    assert (sparse[1].prune, sparse[1].budget) == (PruneRequest(share=0.5), 9)
    assert [one.method for one in audit_of(SHARE, SHARE | {"method": "ga"}).experiments] == ["retrain", "ft", "ga"]
    own = SHARE | {"method": "retrain", "epochs": None, "seed": 7}
    found = audit_of(SHARE, own).experiments
    assert [(one.method, one.seed) for one in found] == [("retrain", 7), ("ft", 0)]


def test_names_depend_on_what_is_done() -> None:
    found = audit_of(SHARE, SHARE | {"seed": 1}, SHARE | {"lr": 0.5}, SHARE | {"use_mask": True}, SHARE | {"tag": "a"})
    _, *names = [name_of(experiment, found.pool) for experiment in found.experiments]
    assert names[-1] == names[0]
    assert len(set(names)) == 4


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"idxs_to_forget": "one.json"}, "the images in one.json: an audit needs at least 2 training images"),
        ({**SHARE, "load_mask": "a.mask"}, "load_mask: a mask belongs to one model; an audit computes one for each"),
        (
            {**SHARE, "unlearning_rate": None, "corrupt": {"kind": "labels"}},
            "corrupt: an audit draws its images itself",
        ),
    ],
)
def test_refusals_name_the_entry(entry: dict[str, Any], text: str) -> None:
    Path("one.json").write_text(json.dumps(pool(**SHARE).problem.split.train[:1].tolist()))
    model = build(Architecture("resnet_tiny", 4, 3, 8))
    mask = {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in model.named_parameters()}
    save_mask(Path("a.mask"), mask)
    with pytest.raises(SalunErrors) as raised:
        audits(SHARE, entry)
    (line,) = raised.value.lines
    assert line.startswith(f"list: entry 2: {text}")


# Models


def test_a_shadow_model_learns_and_unlearns_its_own_images(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def recording(experiment: Experiment, loaded: LoadedProblem, seed: int, *given: Any) -> UnlearningResult:
        done = unlearn_once(experiment, loaded, seed, *given)
        calls.append((experiment.method, loaded.problem.split, loaded.sets, done.mask, seed))
        return done

    monkeypatch.setattr("salun.experiments.audit.unlearn_once", recording)
    audit = audit_of(SHARE | {"seed": 10, "method": "ga", "use_mask": True})
    do(audit, 2)
    candidates, masks = numbers(audit.pool.candidates), []
    for place, (method, split, sets, mask, seed) in enumerate(calls):
        number = place // 2
        forget = numbers(audit.pool.split(number).forget)
        checkpoint = load_checkpoint(WEIGHTS / audit.pool.key / f"shadow_{number}.safetensors")
        assert (method, seed) == (("retrain", number), ("ga", 10 + number))[place % 2]
        assert numbers(split.forget) == numbers(sets.forget.rows) == forget
        assert not candidates & (numbers(sets.retain.rows) | numbers(sets.validation.rows))
        assert set(checkpoint.excluded) == candidates - forget
        masks += [] if mask is None else [mask]
    assert len(masks) == 2
    assert any(not torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())


def test_shadow_models_differ_and_are_the_same_again(finished: Path, kept: dict[Path, Any]) -> None:
    audit = audit_of(SHARE)
    files = sorted((WEIGHTS / audit.pool.key).glob("*.safetensors"))
    assert len(files) == 4
    assert len({load_checkpoint(path).fingerprint for path in files}) == 4
    before = load_checkpoint(files[1]).fingerprint
    files[1].unlink()
    assert auditor().base(audit.pool, 1).fingerprint == before == load_checkpoint(files[1]).fingerprint


def test_margins_are_those_of_all_images_that_are_asked(kept: dict[Path, Any]) -> None:
    audit = audit_of(SHARE)
    for name in audit.named:
        for margins in auditor().margins(audit.pool, name, 4):
            sizes = [len(part) for part in vars(margins).values()]
            split = audit.pool.problem.split
            assert sizes == [len(audit.pool.candidates), len(audit.pool.witnesses), len(split.test)]
            assert margins.candidates.dtype == np.float32


def test_test_images_of_a_forgotten_class_are_asked_too() -> None:
    audit = audit_of({"class_to_forget": 2})
    do(audit, 1)
    (margins,) = auditor().margins(audit.pool, BASE, 1)
    assert len(margins.test) == len(audit.pool.problem.dataset.test.labels)


@pytest.mark.parametrize("step", [1, 3, 5])
def test_an_interrupted_audit_goes_on_and_ends_alike(step: int, kept: dict[Path, Any]) -> None:
    wanted = {path: content for path, content in kept.items() if path.stem[-1] in "01"}
    shutil.rmtree("runs")
    shutil.rmtree("checkpoints")
    audit = audit_of(SHARE)
    with pytest.raises(KeyboardInterrupt):
        do(audit, 2, Seen(interrupted=step))
    assert len(contents()) == step - 1
    before = {path: path.stat().st_mtime_ns for path in (*FOLDER.rglob("*.npz"), *WEIGHTS.rglob("*.safetensors"))}
    assert len(do(audit, 2)) == 6 - (step - 1)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents() == wanted


@pytest.mark.parametrize("content", [b"", b"not an archive", None])
def test_a_damaged_file_of_margins_is_done_again(content: bytes | None, kept: dict[Path, Any]) -> None:
    audit, seen = audit_of(SHARE), Seen()
    path = auditor().path(audit.pool, name_of(audit.experiments[1], audit.pool), 2)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(SalunError, match="not a readable file of margins"):
        auditor().margins(audit_of(SHARE).pool, path.stem.rpartition("_")[0], 4)
    assert do(audit, 4, seen) == [(2, "ft")]
    assert seen.trained == []
    assert contents() == kept


@pytest.mark.parametrize("content", [b"not a checkpoint", None])
def test_a_damaged_shadow_model_is_trained_again(content: bytes | None, kept: dict[Path, Any]) -> None:
    audit, seen = audit_of(SHARE, SHARE | {"method": "ga"}), Seen()
    path = WEIGHTS / audit.pool.key / "shadow_1.safetensors"
    before = load_checkpoint(path).fingerprint
    path.write_bytes(path.read_bytes()[:-1000] if content is None else content)
    assert do(audit, 4, seen) == [(number, "ga") for number in range(4)]
    assert seen.trained == ["shadow model 1"]
    assert load_checkpoint(path).fingerprint == before


def test_a_method_and_shadow_models_added_later_keep_the_earlier_ones(kept: dict[Path, Any]) -> None:
    seen = Seen()
    later = audit_of(SHARE | {"method": "ga"}, SHARE, SHARE | {"use_mask": True})
    assert do(later, 4, seen) == [(number, method) for number in range(4) for method in ("ga", "ft")]
    assert seen.trained == []
    assert do(audit_of(SHARE), 6, seen) == [(number, method) for number in (4, 5) for method in (None, "retrain", "ft")]
    assert seen.trained == ["shadow model 4", "shadow model 5"]
    assert {path: content for path, content in contents().items() if path in kept} == kept
