"""Scores of one unlearned model beside those of the base and the retrained model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from salun.errors import did_you_mean
from salun.metrics import METRICS, load_metrics
from salun.reports.formats import html_table, text_table
from salun.reports.statistics import estimate
from salun.reports.summary import gap_to, loss_text, lost
from salun.reports.tables import cell

_AVERAGE = "avg_gap"


@dataclass(frozen=True, repr=False)
class Scores(Mapping[str, Any]):
    """What metrics say of an unlearned model: a mapping from their names that prints as a table.

    Attributes:
        unlearned: fractions, seconds, plain numbers or tables by metric; None where a metric does not apply.
        base: of the model before unlearning; empty where it is not given.
        retrained: of the retrained model; empty where it is not given.

    Examples:
        >>> scores = Scores({"UA": 0.95}, retrained={"UA": 1.0})
        >>> scores["UA"]
        0.95
        >>> print(scores)
              unlearned  retrained   gap
        UA %      95.00     100.00  5.00
    """

    unlearned: dict[str, Any]
    base: dict[str, Any] = field(default_factory=dict)
    retrained: dict[str, Any] = field(default_factory=dict)

    @property
    def gaps(self) -> dict[str, float | None]:
        """Absolute differences from the retrained model, of metrics that are best as retrained; and their average."""
        gaps = gap_to(self.unlearned, self.retrained) if self.retrained else {}
        return {_AVERAGE if name == "average" else name: gap for name, gap in gaps.items()}

    def __getitem__(self, name: str) -> Any:
        if name == _AVERAGE:
            return self.gaps.get(name)
        if name not in self.unlearned:
            raise KeyError(f"metric {name!r}: was not measured{did_you_mean(str(name), self)}")
        return self.unlearned[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self.unlearned, *([_AVERAGE] if self.retrained else [])])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __str__(self) -> str:
        return "\n".join([text_table(*self._table()), *self._warnings()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "\n".join([html_table(*self._table()), *(f"<p>{line}</p>" for line in self._warnings())])

    def _warnings(self) -> list[str]:
        """Say that the model lost more of RA or TA than `salun-unlearn` lets pass."""
        losses = lost(self.unlearned, self.base)
        return [loss_text(losses)] if losses else []

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Lay the scores out, a metric a line; tables within are left out."""
        load_metrics()
        columns = {"base": self.base, "unlearned": self.unlearned, "retrained": self.retrained, "gap": self.gaps}
        shown = [(title, values) for title, values in columns.items() if values]
        names = [name for name in self.unlearned if METRICS[name].unit != "table" and self._is_known(name)]
        lines = [
            [f"{name} {METRICS[name].unit}".rstrip(), *(_figure(values.get(name), name) for _, values in shown)]
            for name in names
        ]
        if self[_AVERAGE] is not None:
            lines.append([f"{_AVERAGE} %", *[""] * (len(shown) - 1), _figure(self[_AVERAGE], "UA")])
        return ["", *(title for title, _ in shown)], lines

    def _is_known(self, name: str) -> bool:
        """Tell whether some model has a value of a metric."""
        return any(values.get(name) is not None for values in (self.unlearned, self.base, self.retrained))


def _figure(value: float | None, name: str) -> str:
    """Print a value in its metric's unit, empty where there is none."""
    return "" if value is None else cell(estimate([value]), METRICS[name].unit)
