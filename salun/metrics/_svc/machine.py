"""Training and decision of the machine in compiled code, and whether it equals libsvm here."""

import functools
import os
from dataclasses import dataclass

import numpy as np
from numba.extending import get_cython_function_address
from sklearn.svm import SVC

from salun.metrics._svc import smo

_BOUND = 3.0
_STORE_BYTES = 64 * 1024**2
_NEAR = 1e-9


@dataclass(frozen=True)
class _Machine:
    """A trained machine, whose decision function is positive for non-members."""

    points: np.ndarray  # (S, D) float32, the support vectors, non-members first
    weights: np.ndarray  # (S,) float64, dual variables with the sign of their class: 1 for non-members
    offset: float  # taken from the weighted sum of kernels
    gamma: float  # of the kernel exp(-gamma |x - x'|^2)
    steps: int  # pairs of points that were moved


def fit(members: np.ndarray, non_members: np.ndarray) -> _Machine:
    """Train the machine on the path that libsvm takes, bit for bit.

    Args:
        members: (N, D) finite float32 features, N > 0.
        non_members: (M, D) finite float32 features, M > 0.

    Returns:
        The machine.

    Source:
        Fan, Chen and Lin, "Working set selection using second order information for training support
        vector machines", JMLR 2005; Chang and Lin, "LIBSVM", ACM TIST 2011, section 5 for shrinking.
    """
    known = np.concatenate([non_members, members]).astype(np.float32)
    labels = np.repeat([1.0, -1.0], [len(non_members), len(members)])
    gamma = 1 / known.shape[1]
    kernel = _make_kernel(known, gamma)
    state = _make_state(known, labels, kernel)
    offset, steps = smo.optimise(state, _make_store(state), kernel, _BOUND)
    alpha = np.empty(len(known))
    alpha[state.order] = state.alpha
    places = np.flatnonzero(alpha)
    return _Machine(known[places], (alpha * labels)[places], offset, gamma, steps)


def _make_kernel(known: np.ndarray, gamma: float) -> smo.Kernel:
    """Say how entries of the kernel matrix are computed."""
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


def _make_state(known: np.ndarray, labels: np.ndarray, kernel: smo.Kernel) -> smo.State:
    """Put the optimisation at its beginning."""
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


def _make_store(state: smo.State) -> smo.Store:
    """Make an empty store of columns, of at most `_STORE_BYTES` or three columns."""
    count, groups = len(state.groups), int(state.groups.max()) + 1
    slots = min(max(_STORE_BYTES // (4 * count), 3), max(groups, 3))
    return smo.Store(
        columns=np.empty((slots, count), np.float32),
        lengths=np.zeros(slots, np.int64),
        owners=np.full(slots, -1),
        slots=np.full(groups, -1),
        turn=np.zeros(1, np.int64),
    )


def decide(machine: _Machine, targets: np.ndarray) -> np.ndarray:
    """Compute the decision function; what lies near zero is computed as libsvm does.

    Args:
        machine: a trained one.
        targets: (K, D) finite float32 features.

    Returns:
        (K,) float64, positive for non-members.
    """
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


@functools.cache
def follows_libsvm() -> bool:
    """Tell whether `fit` equals scikit-learn bit for bit on this machine, by two small problems.

    Returns:
        Whether it does, as where libsvm was compiled without contracted multiplications and additions (x86-64).
    """
    random = np.random.default_rng(0)
    for width in (1, 10):
        members, others = (random.random((120, width), np.float32) ** power for power in (0.5, 1))
        ours = fit(members, others)
        theirs = SVC(C=_BOUND, kernel="rbf", gamma="auto").fit(
            np.concatenate([members, others]), np.repeat([1, 0], 120)
        )
        same = np.array_equal(-ours.weights, theirs.dual_coef_[0]) and ours.offset == theirs.intercept_[0]
        if not same or ours.steps != theirs.n_iter_[0]:
            return False
    return True


def _compile_all() -> None:
    """Compile everything that `fit` and `decide` call, by a problem whose points lie on the boundary."""
    os.nice(19)
    if follows_libsvm():
        same = np.ones((2, 120, 1), np.float32)
        decide(fit(*same), same[0])


if __name__ == "__main__":
    _compile_all()
