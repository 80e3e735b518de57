"""What the terminal says of a learned score."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from lit_cascade.analysis import FittedHead
from lit_cascade.report.console import new_table, results_console

__all__ = ["print_heads"]


def print_heads(found: Mapping[str, FittedHead]) -> None:
    """Print what a head was fitted to, and how much better it orders these samples."""
    console = results_console()
    table = new_table(
        "Learned score: what the last stage puts right",
        "stage", "samples", "put right", "inverse penalty", "area of max_softmax", "learned",
    )  # fmt: skip
    for name, one in found.items():
        areas = (f"{area:.3f}" if isfinite(area) else "" for area in (one.area_before, one.area))
        table.add_row(name, f"{one.n:,}", f"{one.fixed:,}", f"{one.strength:g}", *areas)
    console.print(table)
    console.print(
        "Area: 0 is random deferral, 1 the oracle; on the samples fitted on, which flatters the "
        "learned score. On others: lit-cascade compare-scores.",
        soft_wrap=True,
    )
