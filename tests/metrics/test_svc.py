import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from salun.metrics import _svc as svc
from salun.metrics.scores import correctness, entropy, modified_entropy, probabilities, true_confidence
from salun.training.evaluate import Outputs

ROOT = Path(__file__).parents[2]
FEATURES = [correctness, true_confidence, entropy, modified_entropy, probabilities]
Draw = Callable[[np.random.Generator, int], np.ndarray]


def sklearns(members: np.ndarray, others: np.ndarray) -> SVC:
    known = np.repeat([1, 0], [len(members), len(others)])
    return SVC(C=3, kernel="rbf", gamma="auto").fit(np.concatenate([members, others]), known)


def check_same_machine(members: np.ndarray, others: np.ndarray, targets: np.ndarray) -> None:
    members, others, targets = (part.astype(np.float32) for part in (members, others, targets))
    ours, theirs = svc.fit(members, others), sklearns(members, others)
    assert ours.steps == theirs.n_iter_[0]
    places = ours.places - np.where(ours.places < len(others), -len(members), len(others))
    assert np.array_equal(places, theirs.support_)
    assert np.array_equal(ours.points, theirs.support_vectors_)
    assert np.array_equal(-ours.weights, theirs.dual_coef_[0])
    assert ours.offset == theirs.intercept_[0]
    assert np.array_equal(svc.decide(ours, targets) > 0, theirs.predict(targets) == 0)


DRAWS: dict[str, Draw] = {
    "smooth": lambda random, count: random.random((count, 1)) ** random.uniform(0.3, 1),
    "ten": lambda random, count: random.random((count, 10)) ** random.uniform(0.5, 1),
    "probabilities": lambda random, count: random.dirichlet(np.full(10, 0.1), count),
    "grid": lambda random, count: random.integers(0, 5, (count, 1)) / 4,
    "grid of three": lambda random, count: random.integers(0, 3, (count, 3)) / 2,
    "saturated": lambda random, count: np.minimum(1, random.normal(0.95, 0.1, (count, 1))),
    "next to one": lambda random, count: 1 - random.exponential(1e-5, (count, 1)),
    "far": lambda random, count: random.exponential(8, (count, 1)),
    "far, ten": lambda random, count: random.normal(0, random.uniform(5, 20), (count, 10)),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_takes_the_path_of_libsvm(draw: Draw, seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = random.integers(100, 800, 2)
    check_same_machine(*(draw(random, count) for count in (*sizes, 300)))


def test_takes_the_path_of_libsvm_through_shrinking() -> None:
    random = np.random.default_rng(0)
    check_same_machine(random.random((1500, 1)) ** 0.5, random.random((1500, 1)), random.random((300, 1)))


ONE, NIL = np.ones((1, 1)), np.zeros((1, 1))


@pytest.mark.parametrize(
    ("members", "others"),
    [
        (ONE.repeat(300, 0), ONE.repeat(300, 0)),
        (ONE.repeat(300, 0), ONE.repeat(200, 0)),
        (ONE.repeat(200, 0), ONE.repeat(300, 0)),
        (ONE.repeat(300, 0), NIL.repeat(200, 0)),
        (ONE, NIL),
        (ONE, ONE),
        (np.ones((200, 10)), np.ones((200, 10))),
        (np.array([[0.0], [-0.0], [1.0]]), np.array([[0.0], [1.0]])),
    ],
    ids=["equal", "more members", "fewer members", "apart", "two points", "one point twice", "equal, ten", "two zeros"],
)
def test_takes_the_path_of_libsvm_on_degenerate_points(members: np.ndarray, others: np.ndarray) -> None:
    check_same_machine(members, others, np.concatenate([members, others, members / 2]))


def outputs(count: int, margin: float, spread: float, seed: int) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (count,), generator=generator)
    logits = 2 * torch.randn(count, 10, generator=generator)
    logits[torch.arange(count), labels] += margin + spread * torch.randn(count, generator=generator)
    return Outputs(logits, labels)


def attacks(sharp: float) -> dict[str, svc.Attack]:
    sets = outputs(2000, 9 * sharp, 2, 0), outputs(2000, 7 * sharp, 4, 1), outputs(900, 8 * sharp, 3, 2)
    return {
        feature.__name__: tuple(feature(part).reshape(len(part.labels), -1) for part in sets) for feature in FEATURES
    }


@pytest.mark.parametrize("sharp", [1, 2.5], ids=["smooth", "saturated"])
def test_predicts_what_scikit_learn_predicts(sharp: float) -> None:
    found, wanted = svc.called_members(attacks(sharp)), {}
    for name, (members, others, targets) in attacks(sharp).items():
        wanted[name] = sklearns(members, others).predict(targets) == 1
        assert np.array_equal(found[name], wanted[name]), name
    assert list(found) == list(wanted)
    assert any(0 < called.mean() < 1 for called in found.values())


@pytest.mark.parametrize("count", [1, 2])
def test_gives_the_same_on_any_number_of_threads(count: int) -> None:
    some = {name: attack for name, attack in attacks(1).items() if name != "modified_entropy"}
    alone = {name: svc.called_member(*attack) for name, attack in some.items()}
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        together = svc.called_members(some)
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(together[name], alone[name]) for name in some)


def test_uses_scikit_learn_where_the_path_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = attacks(1)["true_confidence"]
    ours = svc.called_member(*attack)
    monkeypatch.setattr(svc, "follows_libsvm", lambda: False)
    monkeypatch.setattr(svc, "fit", None)
    assert np.array_equal(svc.called_member(*attack), ours)


def test_follows_libsvm_here() -> None:
    assert svc.follows_libsvm()


def test_order_of_targets_changes_nothing() -> None:
    members, others, targets = attacks(1)["probabilities"]
    order = np.random.default_rng(0).permutation(len(targets))
    assert np.array_equal(
        svc.called_member(members, others, targets)[order], svc.called_member(members, others, targets[order])
    )


def test_no_targets() -> None:
    members, others, targets = attacks(1)["entropy"]
    assert svc.called_member(members, others, targets[:0]).shape == (0,)


@pytest.mark.parametrize("empty", [0, 1])
def test_names_the_attack_that_nothing_is_known_for(empty: int) -> None:
    sets = [np.ones((5, 1), np.float32)] * 3
    sets[empty] = sets[empty][:0]
    with pytest.raises(ValueError, match="entropy"):
        svc.called_members({"confidence": (sets[2],) * 3, "entropy": tuple(sets)})


def test_memory_is_bounded_and_a_small_store_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    members, others, _ = attacks(1)["true_confidence"]
    wanted = svc.fit(members, others)
    monkeypatch.setattr(svc, "STORE_BYTES", 4 * 1024**2)
    tracemalloc.start()
    found = svc.fit(members, others)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(found.weights, wanted.weights)
    assert peak < 8 * 1024**2 < 4 * 4000**2
    monkeypatch.setattr(svc, "STORE_BYTES", 0)
    assert np.array_equal(svc.fit(members, others).weights, wanted.weights)


def test_compiles_where_nothing_can_be_kept() -> None:
    from salun.metrics._svc.smo import compiler

    source = "def double(number):\n    return 2 * number\n"
    places: dict[str, Callable[[int], int]] = {}
    exec(compile(source, "nowhere", "exec"), places)
    assert compiler()(places["double"])(4) == 8


def test_costs_nothing_where_it_is_not_used() -> None:
    code = "import sys; from salun.metrics import load_metrics; load_metrics(); sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.slow
def test_benchmark_counts_no_difference() -> None:
    command = [sys.executable, ROOT / "scripts" / "bench_attacks", "--members=1600", "--targets=100", "--json"]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    rows = [row for shape in found["shapes"].values() for row in shape["attacks"].values()]
    assert len(rows) == 2 * len(FEATURES)
    assert not any(row["differing"] for row in rows)
