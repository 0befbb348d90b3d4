"""Experiments as Python gives them: entries, or where a list of them lies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from salun.errors import SalunError
from salun.experiments.config import Experiment
from salun.experiments.schema import load_experiments, validate
from salun.experiments.source import find_list, source_of

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
    if isinstance(experiments, str | Path):
        source = find_list(str(experiments))
        return load_experiments(Path(source)), source, source
    if not isinstance(experiments, dict | Sequence) or not experiments:
        given = "an empty list" if isinstance(experiments, Sequence) else f"a {type(experiments).__name__}"
        raise SalunError(f"experiments: {given}; must be entries as JSON has them, or the path of a list")
    entries: list[Any] = [experiments] if isinstance(experiments, dict) else list(experiments)
    return validate(entries, _EXPERIMENTS), source_of(entries), _EXPERIMENTS
