"""What all tables for the terminal have in common."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table

from lit_cascade.report.text import quantity
from lit_cascade.utilities.units import unit_label

__all__ = ["cost_cells", "cost_columns", "new_table", "results_console"]


def results_console() -> Console:
    """Where results go: stdout. Progress and logs go to stderr."""
    # where the output is no terminal its width is unknown, and a table must not be folded
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 150, highlight=False)


def new_table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number > 0)
    return table


def cost_columns(unit: str) -> list[str]:
    """Headings of a cost: FLOPs are shown as MACs too, which many papers call FLOPs."""
    return ["FLOPs", "MACs"] if unit == "flops" else [unit_label(unit)]


def cost_cells(cost: float, unit: str) -> list[str]:
    """A cost under its headings."""
    return [quantity(cost), quantity(cost / 2)] if unit == "flops" else [quantity(cost)]
