"""The records that were written, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from lit_cascade.records import Written
from lit_cascade.report.console import cost_cells, cost_columns, new_table, results_console
from lit_cascade.report.text import file_size, percent, quantity

__all__ = ["print_records"]


def print_records(
    records: Sequence[Written], notes: Sequence[str] = (), made: str = "recorded"
) -> None:
    """Print how good and how dear each model is, and which records were there already.

    Args:
        records: one or more, of one split.
        notes: what the reader must know.
        made: what was done with the others.
    """
    console, first = results_console(), records[0]
    units = list(dict.fromkeys(unit for record in records for unit in record.costs))
    columns = [column for unit in units for column in cost_columns(unit)]
    several = any(record.top5 is not None for record in records)
    name, split = first.data.get("name", "arrays"), first.data.get("split")
    table = new_table(
        f"Records of {name}{f', split {split!r}' if split else ''}: {first.n:,} samples",
        "model", "accuracy", *(["top-5"] if several else []), *columns,
        "parameters", "file size", "",
    )  # fmt: skip
    for record in records:
        table.add_row(
            record.name,
            "unknown" if record.accuracy is None else percent(record.accuracy, 2),
            *(["" if record.top5 is None else percent(record.top5, 2)] if several else []),
            *[cell for unit in units for cell in _cells(record, unit)],
            quantity(record.parameters) if record.parameters else "unknown",
            file_size(record.size),
            "kept" if record.kept else made,
        )
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True)


def _cells(record: Written, unit: str) -> list[str]:
    if unit not in record.costs:
        return [""] * len(cost_columns(unit))
    return cost_cells(record.costs[unit], unit)
