"""The support vector machine of the membership attacks: scikit-learn's predictions at a fraction of the time."""

import atexit
import functools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from salun.device import granted_cores

_Attack = tuple[np.ndarray, np.ndarray, np.ndarray]

# Up to so many points scikit-learn is done before the compiled code has started.
_SMALL = 3000


@functools.cache
def _compiling() -> "subprocess.Popen[bytes]":
    """Compile what large attacks run, once a machine, in a process of its own that gives way to others."""
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-P", "-m", "salun.metrics._svc.machine"]  # -P: no module of the user's folder
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    atexit.register(process.terminate)
    return process


def compile_ahead(members: int, non_members: int) -> None:
    """Begin to compile what an attack will run, unless it is small or this machine has it.

    Args:
        members: of the attack.
        non_members: of the attack.
    """
    kept = os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).with_name("__pycache__")
    if members + non_members > _SMALL and not any(Path(kept).rglob("smo.*.nbi")):
        _compiling()


def called_members(attacks: dict[str, _Attack]) -> dict[str, np.ndarray]:
    """Train attacks on known members and non-members, and ask them of targets, over the cores that there are.

    Predictions are those of scikit-learn's `SVC(C=3, kernel="rbf", gamma="auto")`, one for one.

    Args:
        attacks: by name finite float32 features of members (N, D), of non-members (M, D) and of targets (K, D).

    Returns:
        By name (K,) bool: whether a target is called a member.

    Raises:
        ValueError: an attack without members or without non-members.
    """
    for name, (members, non_members, _) in attacks.items():
        if not len(members) or not len(non_members):
            raise ValueError(f"attack '{name}': no members or no non-members")
    if any(len(members) + len(others) > _SMALL for members, others, _ in attacks.values()):
        if _compiling.cache_info().currsize:
            _compiling().wait()
        from salun.metrics._svc.machine import follows_libsvm

        follows_libsvm()  # once, before the threads start
    hardest = sorted(attacks, key=lambda name: -attacks[name][0].shape[1])
    with ThreadPoolExecutor(_threads()) as pool:
        found = dict(zip(hardest, pool.map(lambda name: _called_member(*attacks[name]), hardest), strict=True))
    return {name: found[name] for name in attacks}


def _called_member(members: np.ndarray, non_members: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Run one attack."""
    if len(members) + len(non_members) > _SMALL:
        from salun.metrics._svc.machine import decide, fit, follows_libsvm

        if follows_libsvm():
            return ~(decide(fit(members, non_members), targets) > 0)
    from sklearn.svm import SVC

    known = np.repeat([1, 0], [len(members), len(non_members)])
    machine = SVC(C=3.0, kernel="rbf", gamma="auto").fit(np.concatenate([members, non_members]), known)
    return np.asarray(machine.predict(targets) > 0)


def _threads() -> int:
    """Count the threads that this process may use."""
    import torch

    return min(granted_cores(), torch.get_num_threads())
