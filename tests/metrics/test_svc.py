"""The support vector machine calls what scikit-learn's calls: above 3,000 points it is our own compiled code."""

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from salun.metrics.scores import correctness, entropy, modified_entropy, probabilities, true_confidence
from salun.metrics.svc_mia import called_members
from salun.training.evaluate import Outputs

ROOT = Path(__file__).parents[2]
FEATURES = [correctness, true_confidence, entropy, modified_entropy, probabilities]
Draw = Callable[[np.random.Generator, int], np.ndarray]
Attack = tuple[np.ndarray, np.ndarray, np.ndarray]


def called(members: np.ndarray, others: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return called_members({"attack": (members, others, targets)})["attack"]


def wanted(members: np.ndarray, others: np.ndarray, targets: np.ndarray) -> np.ndarray:
    known = np.repeat([1, 0], [len(members), len(others)])
    machine = SVC(C=3, kernel="rbf", gamma="auto").fit(np.concatenate([members, others]), known)
    return machine.predict(targets) == 1


def check(*sets: np.ndarray) -> None:
    attack = tuple(part.astype(np.float32) for part in sets)
    assert np.array_equal(called(*attack), wanted(*attack))


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


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_calls_what_scikit_learn_calls(draw: Draw) -> None:
    random = np.random.default_rng(len(DRAWS))
    members, others, targets = (draw(random, count) for count in (*random.integers(1501, 1800, 2), 300))
    check(members, others, np.concatenate([targets, members, others, (members + others.mean(0)) / 2]))


ONE, NIL = np.ones((1, 1)), np.zeros((1, 1))


@pytest.mark.parametrize(
    ("members", "others"),
    [
        (ONE.repeat(300, 0), ONE.repeat(300, 0)), (ONE.repeat(300, 0), ONE.repeat(200, 0)),
        (ONE.repeat(200, 0), ONE.repeat(300, 0)), (ONE.repeat(300, 0), NIL.repeat(200, 0)), (ONE, NIL), (ONE, ONE),
        (np.ones((200, 10)), np.ones((200, 10))), (np.array([[0.0], [-0.0], [1.0]]), np.array([[0.0], [1.0]])),
    ],
    ids=["equal", "more members", "fewer members", "apart", "two points", "one point twice", "equal, ten", "two zeros"],
)  # fmt: skip
def test_calls_what_scikit_learn_calls_of_degenerate_points(members: np.ndarray, others: np.ndarray) -> None:
    repeated = (part.repeat(10 if len(part) > 9 else 3200, 0) for part in (members, others))
    check(*repeated, np.concatenate([members, others, members / 2]))


def outputs(count: int, margin: float, spread: float, seed: int) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (count,), generator=generator)
    logits = 2 * torch.randn(count, 10, generator=generator)
    logits[torch.arange(count), labels] += margin + spread * torch.randn(count, generator=generator)
    return Outputs(logits, labels)


def attacks(sharp: float) -> dict[str, Attack]:
    sets = outputs(1600, 9 * sharp, 2, 0), outputs(1600, 7 * sharp, 4, 1), outputs(500, 8 * sharp, 3, 2)
    return {
        feature.__name__: tuple(feature(part).reshape(len(part.labels), -1) for part in sets) for feature in FEATURES
    }


@pytest.mark.parametrize(("sharp", "threads"), [(1, 2), (2.5, 1)], ids=["smooth", "saturated"])
def test_predicts_what_scikit_learn_predicts_on_any_number_of_threads(sharp: float, threads: int) -> None:
    given, before = attacks(sharp), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = called_members(given)
    finally:
        torch.set_num_threads(before)
    assert list(found) == list(given)
    for name, attack in given.items():
        assert np.array_equal(found[name], wanted(*attack)), name
    assert any(0 < share.mean() < 1 for share in found.values())


AHEAD = """
import numpy as np
from salun.metrics.svc_mia import called_members, prepare_attacks
prepare_attacks(["UA", "RMIA_auc"], 9000, 9000)
prepare_attacks(["UA", "MIA"], 1000, 9000)
assert not list(__import__("pathlib").Path("cache").rglob("*.nbi"))
prepare_attacks(["UA", "MIA"], 2000, 9000)
members, others, targets = np.random.default_rng(0).random((3, 2000, 1), np.float32)
print(called_members({"attack": (members, others, targets)})["attack"].sum())
"""


@pytest.mark.slow
def test_what_was_compiled_ahead_is_not_compiled_in_the_attack(tmp_path: Path) -> None:
    more = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_DEBUG_CACHE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", AHEAD]
    done = subprocess.run(command, env={**os.environ, **more}, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "data loaded from" in done.stdout
    assert "data saved to" not in done.stdout


# Run before anything is loaded: libsvm as it may be elsewhere, and a compiler that can keep nothing.
OTHER_LIBSVM = """
from sklearn import svm
class SVC(svm.SVC):
    def fit(self, *given):
        super().fit(*given)
        self.n_iter_ = self.n_iter_ + 1
        if len(given[0]) > 3000:
            print("fitted")
        return self
svm.SVC = SVC
"""
NOTHING_KEPT = """
import numba
compiled = numba.njit
def refuse(function):
    raise RuntimeError("no locator")
numba.njit = lambda cache=False, **settings: refuse if cache else compiled(**settings)
"""
CALL = """
from salun.metrics.svc_mia import called_members
random = np.random.default_rng(0)
members, others = (random.random((1600, 1)).astype(np.float32) ** power for power in (0.5, 1))
targets = np.linspace(0, 1, 400, dtype=np.float32)[:, None]
found = called_members({"": (members, others, targets)})[""]
"""


@pytest.mark.parametrize(
    ("code", "told"), [(OTHER_LIBSVM, ["fitted"]), pytest.param(NOTHING_KEPT, [], marks=pytest.mark.slow)]
)
def test_works_on_every_machine(code: str, told: list[str]) -> None:
    here: dict[str, np.ndarray] = {"np": np}  # type: ignore[dict-item]
    exec(CALL, here)
    command = [sys.executable, "-c", f"import numpy as np{code}{CALL}print(*found.astype(int), sep='')"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [*told, "".join(map(str, here["found"].astype(int)))]
    assert 0 < here["found"].mean() < 1


def test_memory_is_bounded_and_columns_that_were_given_up_change_nothing() -> None:
    random = np.random.default_rng(0)
    members, others, targets = (random.random((count, 1)).astype(np.float32) for count in (5000, 5000, 300))
    attack = members**0.7, others, targets
    called(*attack)
    tracemalloc.start()
    found = called(*attack)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 * 2**20 < 4 * 10_000**2
    assert np.array_equal(found, wanted(*attack))


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
