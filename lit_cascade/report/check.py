"""The verdict of `check`: the promise of a policy on new samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lit_cascade.analysis import Monitor, Verdict, Window
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
    since = "" if verdict.since is None else f", since {verdict.since}"
    return f"{shown}; {moved}{since}."


_SHORT = {"accuracy_drop": "drop", "disagreement": "differ", "deferral_rate": "rate"}


def watch_heading(monitor: Monitor) -> str:
    """Heading of the lines of `watch_line`."""
    deferred = "deferred".rjust(8 * len(monitor.thresholds) + 2)
    of_cost = monitor.promise.target in {"cost", "cost_ratio"}
    target = "cost" if of_cost else _SHORT.get(monitor.promise.target, monitor.promise.target)
    return f"{'answers':>11}{deferred}{target:>11}{'e: promise':>13}{'e: scores':>12}"


def watch_line(monitor: Monitor, window: Window) -> str:
    """One window of answers: its share deferred by each stage, and the evidence up to its end.

    The promised quantity is that of all answers so far.
    """
    shares = (
        f"{percent(window.deferred[k] / window.reached(k)):>8}"
        if window.reached(k)
        else f"{'-':>8}"
        for k in range(len(monitor.thresholds))
    )
    value, shown = monitor.value, "-"
    if value is not None:
        of_cost = monitor.promise.target == "cost"
        shown = cost_figure(value, monitor.unit) if of_cost else percent(value, 2)
    promise, scores = (f"{e:,.3g}" if e < 1e6 else f"{e:.0e}" for e in monitor.e_values)
    alarm = "" if monitor.verdict().passed else " ALARM"
    return f"{monitor.n:>11,}  {''.join(shares)}{shown:>11}{promise:>13}{scores:>12}{alarm}"


def watch_advice(verdict: Verdict) -> str:
    """What to do about the verdict on a cascade that runs."""
    if verdict.outcome == "broken":
        return (
            "Raise the thresholds, or let the last stage answer, until `lit-cascade select` has "
            "chosen again on new samples."
        )
    if verdict.drifted:
        return (
            "Label or audit answers from there on, which tells whether the promise still holds, "
            "and choose again on them with `lit-cascade select`."
        )
    if verdict.outcome == "unknown" and verdict.promise.counted:
        return "Labels or audits of some answers would test the promise itself."
    return "Nothing needs to be done."


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
        "since": verdict.since,
        "stages": [asdict(one) for one in verdict.shifts],
    }
