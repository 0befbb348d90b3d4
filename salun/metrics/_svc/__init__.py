"""The support vector machine of the membership attacks: scikit-learn's predictions at a fraction of the time."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

_BOUND = 3.0

STORE_BYTES = 64 * 1024**2

_SMALL = 3000

_NEAR = 1e-9

Attack = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class _Machine:
    """A trained machine, whose decision function is positive for non-members.

    Attributes:
        points: (S, D) float32, the support vectors, non-members first.
        weights: (S,) float64, their dual variables, with the sign of their class: 1 for non-members.
        places: (S,) int64, where they stood among non-members and then members.
        offset: what is taken from the weighted sum of kernels.
        gamma: of the kernel exp(-gamma |x - x'|^2).
        steps: pairs of points that were moved.
    """

    points: np.ndarray
    weights: np.ndarray
    places: np.ndarray
    offset: float
    gamma: float
    steps: int


def called_members(attacks: dict[str, Attack]) -> dict[str, np.ndarray]:
    """Run several attacks at once, over the cores that this process may use.

    Args:
        attacks: by name the features of members (N, D), of non-members (M, D) and of targets (K, D).

    Returns:
        By name (K,) bool: whether a target is called a member.

    Raises:
        ValueError: an attack without members or without non-members.
    """
    for name, (members, non_members, _) in attacks.items():
        if not len(members) or not len(non_members):
            raise ValueError(f"attack '{name}': no members or no non-members")
    if any(len(members) + len(others) > _SMALL for members, others, _ in attacks.values()):
        follows_libsvm()
    hardest = sorted(attacks, key=lambda name: -attacks[name][0].shape[1])
    with ThreadPoolExecutor(threads()) as pool:
        found = dict(zip(hardest, pool.map(lambda name: called_member(*attacks[name]), hardest), strict=True))
    return {name: found[name] for name in attacks}


def called_member(members: np.ndarray, non_members: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Train an attack on known members and non-members, and ask it of the targets.

    Predictions are those of scikit-learn's `SVC(C=3, kernel="rbf", gamma="auto")`, one for one. It does the
    work itself where there are few points, which is over sooner than the start of the compiled code.

    Args:
        members: (N, D) finite float32 features of images that were trained on.
        non_members: (M, D) finite float32 features of images that were not.
        targets: (K, D) finite float32 features.

    Returns:
        (K,) bool: whether a target is called a member.
    """
    if len(members) + len(non_members) <= _SMALL or not follows_libsvm():
        return _plain(members, non_members, targets)
    return ~(decide(fit(members, non_members), targets) > 0)


def fit(members: np.ndarray, non_members: np.ndarray) -> _Machine:
    """Train the machine, on the path that libsvm takes.

    Args:
        members: (N, D) finite float32 features, N > 0.
        non_members: (M, D) finite float32 features, M > 0.

    Returns:
        The machine, bit for bit that of scikit-learn.

    Source:
        Fan, Chen and Lin, "Working set selection using second order information for training support
        vector machines", JMLR 2005; Chang and Lin, "LIBSVM", ACM TIST 2011, section 5 for shrinking.
    """
    from salun.metrics._svc import smo

    known = np.concatenate([non_members, members]).astype(np.float32)
    labels = np.repeat([1.0, -1.0], [len(non_members), len(members)])
    gamma = 1 / known.shape[1]
    kernel = _make_kernel(known, gamma)
    state = _make_state(known, labels, kernel)
    offset, steps = smo.optimise(state, _make_store(state), kernel, _BOUND)
    alpha = np.empty(len(known))
    alpha[state.order] = state.alpha
    places = np.flatnonzero(alpha)
    return _Machine(known[places], (alpha * labels)[places], places, offset, gamma, steps)


def _make_kernel(known: np.ndarray, gamma: float) -> Any:
    """Say how entries of the kernel matrix are computed."""
    from numba.extending import get_cython_function_address

    from salun.metrics._svc import smo

    width = known.shape[1]
    longest = gamma * float(np.square(known, dtype=np.float64).sum(1).max())
    error = 0.0 if width == 1 else 8 * (width + 4) * longest
    return smo.Kernel(
        gamma=gamma,
        far=5 * longest > smo.NORMAL,
        doubt=smo.ULPS + int(min(error, smo.HALF)),
        address=get_cython_function_address("scipy.linalg.cython_blas", "ddot"),
        size=np.array([width, 1], np.int32),
        pair=np.empty((2, width)),
        products=np.empty(smo.BLOCK),
    )


def _make_state(known: np.ndarray, labels: np.ndarray, kernel: Any) -> Any:
    """Put the optimisation at its beginning."""
    from salun.metrics._svc import smo

    count = len(known)
    groups = np.unique(known, axis=0, return_inverse=True)[1].reshape(-1)
    state = smo.State(
        points=known.T.copy(),
        squares=np.empty(count),
        labels=labels.copy(),
        groups=groups.astype(np.int64),
        order=np.arange(count),
        alpha=np.zeros(count),
        slope=-labels,
        fixed=np.zeros(count),
        up=labels > 0,
        low=labels < 0,
        tops=np.empty(-(-count // smo.BLOCK)),
    )
    smo.measure(state, kernel)
    return state


def _make_store(state: Any) -> Any:
    """Make an empty store of columns, of at most `STORE_BYTES` or three columns."""
    from salun.metrics._svc import smo

    count, groups = len(state.groups), int(state.groups.max()) + 1
    slots = min(max(STORE_BYTES // (4 * count), 3), max(groups, 3))
    return smo.Store(
        columns=np.empty((slots, count), np.float32),
        lengths=np.zeros(slots, np.int64),
        owners=np.full(slots, -1),
        slots=np.full(groups, -1),
        turn=np.zeros(1, np.int64),
    )


def decide(machine: _Machine, targets: np.ndarray) -> np.ndarray:
    """Compute the decision function, whose sign is scikit-learn's beyond doubt.

    Args:
        machine: a trained one.
        targets: (K, D) finite float32 features.

    Returns:
        (K,) float64, positive for non-members; what lies near zero is computed as libsvm does, step by step.
    """
    from salun.metrics._svc import smo

    kernel = _make_kernel(machine.points, machine.gamma)
    points = machine.points.astype(np.float64)
    distinct, back = np.unique(targets.astype(np.float32), axis=0, return_inverse=True)
    distinct = distinct.astype(np.float64)
    merged, group = np.unique(points, axis=0, return_inverse=True)
    weights = np.bincount(group.reshape(-1), machine.weights)
    values = smo.weigh(np.ascontiguousarray(distinct.T), merged, weights, kernel) - machine.offset
    for place in np.flatnonzero(np.abs(values) <= _NEAR * (np.abs(machine.weights).sum() + 1)):
        values[place] = smo.weigh_exactly(distinct[place], points, machine.weights, machine.offset, kernel)
    return values[back.reshape(-1)]


def _plain(members: np.ndarray, non_members: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Do what `called_member` does by scikit-learn itself."""
    known = np.repeat([1, 0], [len(members), len(non_members)])
    machine = _sklearn_machine().fit(np.concatenate([members, non_members]), known)
    return np.asarray(machine.predict(targets) > 0)


def _sklearn_machine() -> Any:
    """Make scikit-learn's machine with the attack's settings."""
    from sklearn.svm import SVC

    return SVC(C=_BOUND, kernel="rbf", gamma="auto")


@functools.cache
def follows_libsvm() -> bool:
    """Tell whether `fit` equals scikit-learn bit for bit on this machine.

    It does where libsvm was compiled without contracted multiplications and additions, as on x86-64;
    elsewhere its own code has to be used.

    Returns:
        Whether it does on two small problems, of one and of ten features.
    """
    random = np.random.default_rng(0)
    for width in (1, 10):
        members, others = (random.random((120, width), np.float32) ** power for power in (0.5, 1))
        ours = fit(members, others)
        theirs = _sklearn_machine().fit(np.concatenate([members, others]), np.repeat([1, 0], 120))
        same = np.array_equal(-ours.weights, theirs.dual_coef_[0]) and ours.offset == theirs.intercept_[0]
        if not same or ours.steps != theirs.n_iter_[0]:
            return False
    return True


def threads() -> int:
    """Count the threads that this process may use."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, torch.get_num_threads())
