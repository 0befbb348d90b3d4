"""The terminal, and tables in the house's look."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 4000


def print_table(console: Console, table: Table) -> None:
    """Print a table below its title, which may be wider."""
    console.print(Text(str(table.title)), soft_wrap=True)
    table.title = None
    console.print(table)


def plain_table(title: str) -> Table:
    """Make an empty table in the house's look."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title=Text(title), title_justify="left")


def make_console() -> Console:
    """Open the terminal; where the output goes elsewhere lines may be as long as they are."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)
