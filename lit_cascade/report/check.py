"""The verdict of `check`: the promise of a policy on new samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lit_cascade.analysis import Verdict
from lit_cascade.report.text import Table, show
from lit_cascade.utilities.units import cost_figure, counted, percent


def verdict_line(verdict: Verdict, unit: str) -> str:
    """The verdict in one sentence."""
    what = verdict.promise.text(unit)
    sure = f"{100 * verdict.confidence:.3g} % confidence"
    shown = {
        "kept": f"the promise {what} is kept, with {sure}",
        "broken": f"the promise {what} is broken, with {sure}",
        "open": f"these samples neither confirm nor refute the promise {what}",
        "unknown": f"without labels the promise {what} cannot be tested itself",
    }[verdict.outcome]
    if verdict.value is not None:
        of_cost = verdict.promise.target == "cost"
        value = cost_figure(verdict.value, unit) if of_cost else percent(verdict.value, 2)
        shown += f" ({counted(verdict.n, 'sample')}, observed {value})"
    moved = (
        f"the scores show other data than those it was chosen on, with {sure}"
        if verdict.drifted
        else "the scores show no other data than those it was chosen on"
    )
    return f"{shown}; {moved}."


def _p_value(value: float | None) -> str:
    if value is None:
        return "not tested"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def print_check(verdict: Verdict, unit: str, notes: Sequence[str] = ()) -> None:
    """Print the shift of each stage's scores, the verdict and the notes."""
    table = Table(
        f"{verdict.promise.text(unit)}, on {counted(verdict.n, 'new sample')}",
        "stage", "reached", "deferred then", "now", "p-value", "p-value of its scores",
    )  # fmt: skip
    for one in verdict.shifts:
        table.add_row(
            one.stage,
            f"{one.n:,}",
            percent(one.reference_rate),
            percent(one.rate),
            _p_value(one.rate_p_value),
            _p_value(one.scores_p_value),
        )
    line = verdict_line(verdict, unit)
    show(table, line[0].upper() + line[1:], *notes)


def check_summary(verdict: Verdict) -> dict[str, Any]:
    """The content of `check.json`."""
    return {
        "target": verdict.promise.target,
        "limit": verdict.promise.limit,
        "confidence": verdict.confidence,
        "n": verdict.n,
        "value": verdict.value,
        "outcome": verdict.outcome,
        "drifted": verdict.drifted,
        "passed": verdict.passed,
        "stages": [asdict(one) for one in verdict.shifts],
    }
