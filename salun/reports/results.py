"""The results of a list of experiments as Python objects: a table that prints, also in a notebook, and a data frame."""

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from salun.errors import SalunError
from salun.reports.formats import html_table, text_table
from salun.reports.summary import Row, bold_of, grouped
from salun.reports.tables import as_csv, as_long_csv, group_titles, legend, lines_of

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class Results(Sequence[Row]):
    """One row an experiment, each a mean over its runs, compared with retraining where that was run.

    Attributes:
        rows: base models, retraining and methods.
        folder: where records, outputs and summaries lie.
        failures: a line for each run that failed.
    """

    rows: list[Row]
    folder: Path
    failures: tuple[str, ...] = ()

    def __getitem__(self, place: int) -> Row:  # type: ignore[override]
        return self.rows[place]

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        titles = group_titles(self.rows)
        tables = [
            "\n".join([titles[group], text_table(*lines_of(members)), *legend(members)])
            for group, members in grouped(self.rows).items()
        ]
        return "\n\n".join([*tables, *self.failures])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts, titles = [], group_titles(self.rows)
        for group, members in grouped(self.rows).items():
            parts.append(f"<p><b>{html.escape(titles[group])}</b></p>")
            parts.append(html_table(*lines_of(members), bold_of(members)))
            parts += [f"<p>{html.escape(line)}</p>" for line in legend(members)]
        return "\n".join([*parts, *(f"<p>{html.escape(line)}</p>" for line in self.failures)])

    def to_pandas(self, long: bool = False) -> "pandas.DataFrame":
        """Give the table as a data frame.

        Args:
            long: whether to give the columns of `summary.csv`, one row an experiment and metric.

        Returns:
            One row an experiment, with the columns of `summary_wide.csv`; or the long form.

        Raises:
            SalunError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise SalunError("to_pandas: pandas is not installed; pip install pandas does that") from error
        return pandas.read_csv(io.StringIO(as_long_csv(self.rows) if long else as_csv(self.rows)))
