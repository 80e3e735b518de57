"""The result of `flops`: what published architectures cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lit_cascade.report.text import Column, Table, cost_cells, cost_columns, csv_text, show
from lit_cascade.utilities.units import counted, quantity

if TYPE_CHECKING:
    from lit_cascade.models import ArchitectureCost


def print_flops(costs: Sequence[ArchitectureCost], failed: Collection[str] = ()) -> None:
    """Print the architectures in the order given, and how many could not be counted."""
    table = Table(
        f"Cost of {counted(len(costs), 'architecture')} for one image, at batch size 1",
        "model", *cost_columns("flops"), "parameters", "image size", Column("source", detail=1),
    )  # fmt: skip
    for one in costs:
        cells = cost_cells(one.flops, "flops")
        table.add_row(one.model, *cells, quantity(one.parameters), one.img_size, one.source)
    left_out = f"{counted(len(failed), 'architecture')} could not be counted; see above."
    show(table, *[left_out] * bool(failed))


def flops_csv(costs: Sequence[ArchitectureCost]) -> str:
    """The content of `flops.csv`: `model, flops, parameters, img_size, source`."""
    rows = [asdict(one) for one in costs]
    return csv_text(list(rows[0]), [list(row.values()) for row in rows])


def flops_summary(costs: Sequence[ArchitectureCost], failed: Mapping[str, str]) -> dict[str, Any]:
    """The same figures for `--json`, and why the others could not be counted."""
    return {"models": [asdict(one) for one in costs], "not_counted": dict(failed)}
