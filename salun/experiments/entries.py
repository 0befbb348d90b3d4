"""Experiments as Python gives them: entries, or where a list of them lies."""

from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

from salun.errors import SalunError
from salun.experiments.config import Experiment
from salun.experiments.own_model import check_callback
from salun.experiments.schema import load_experiments, validate
from salun.experiments.source import find_list, source_of
from salun.io.limits import read_plain

Keep = Literal["all", "last", "none"]
_EXPERIMENTS = "experiments"


def read_list(
    experiments: Sequence[dict[str, Any]] | dict[str, Any] | str | Path,
) -> tuple[list[Experiment], str, str]:
    """Read experiments as Python gives them.

    Args:
        experiments: entries, one of them, the path of a list, or the name of one that comes along.

    Returns:
        The experiments, their source, and what errors begin with.

    Raises:
        SalunErrors: every mistake, a line each.
        SalunError: there are none.
    """
    entries, source, where = listed_entries(experiments)
    return load_experiments(Path(source)) if where == source else validate(entries, where), source, where


def listed_entries(experiments: Sequence[dict[str, Any]] | dict[str, Any] | str | Path) -> tuple[list[Any], str, str]:
    """Read entries as Python gives them, without validating them.

    Args:
        experiments: entries, one of them, the path of a list, or the name of one that comes along.

    Returns:
        The entries, their source, and what errors begin with.

    Raises:
        SalunError: there are none, or the file cannot be read.
    """
    if isinstance(experiments, str | Path):
        source = find_list(str(experiments))
        content = read_plain(Path(source))
        return content if isinstance(content, list) else [content], source, source
    if not isinstance(experiments, dict | Sequence) or not experiments:
        given = "an empty list" if isinstance(experiments, Sequence) else f"a {type(experiments).__name__}"
        raise SalunError(f"experiments: {given}; must be entries as JSON has them, or the path of a list")
    entries: list[Any] = [experiments] if isinstance(experiments, dict) else list(experiments)
    return entries, source_of(entries), _EXPERIMENTS


def check_run(keep: str, utility_floor: float | None, callback: object) -> None:
    """Check what `run` is told beside its experiments.

    Args:
        keep: which unlearned models are kept.
        utility_floor: points of RA or TA.
        callback: to be called with a `Progress`.

    Raises:
        SalunError: one is not accepted.
    """
    if keep not in get_args(Keep):
        raise SalunError(f"keep={keep!r}: accepted: {', '.join(get_args(Keep))}")
    if utility_floor is not None and not (isinstance(utility_floor, Real) and utility_floor >= 0):
        raise SalunError(f"utility_floor={utility_floor!r}: must be points from 0, or None")
    check_callback(callback)
