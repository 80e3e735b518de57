"""The result of `select`: the policy, its promise and the price of the promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lit_cascade.analysis import HeldOutPolicy, Selection
from lit_cascade.core import OperatingPoint
from lit_cascade.core.guarantee import Promise
from lit_cascade.records import Record
from lit_cascade.report.check import verdict_line
from lit_cascade.report.pictures import figure_of, png_of
from lit_cascade.report.points import (
    point_cells,
    point_headings,
    point_summary,
    shown_thresholds,
)
from lit_cascade.report.text import Table, columns_csv, show
from lit_cascade.report.validation import provenance
from lit_cascade.utilities.drawing import literal
from lit_cascade.utilities.units import cost_change, cost_figure, counted, fewer, percent


def _observed(promise: Promise, choice: OperatingPoint, unit: str) -> str:
    """The observed value of the target, in words."""
    value = choice.value or 0.0
    if promise.target == "accuracy_drop":
        return f"observed drop {100 * value:.2f}"
    if promise.target == "cost":
        return f"observed {cost_figure(value, unit)}"
    return f"observed {percent(value, 2)}"


def policy_line(result: Selection) -> str:
    """The selected policy in one line."""
    choice, promise = result.chosen, result.promise
    if choice is None:
        return "No policy that saves anything qualifies."
    label = "threshold" if len(choice.thresholds) == 1 else "thresholds"
    saving = fewer(choice.cost_ratio, result.unit)
    if change := cost_change(choice.cost, choice.cost_ratio, result.unit):
        saving += f" ({change})"
    sure = (
        "chosen, not promised"
        if promise.confidence is None
        else f"with {100 * promise.confidence:.3g} % confidence"
    )
    what = promise.text(result.unit)
    return (
        f"{label} {shown_thresholds(choice, result.score)}: {choice.deferral}, {saving}; {what} "
        f"{sure} (calibrated on {result.n + result.tuned_on:,}, "
        f"{_observed(promise, choice, result.unit)})"
    )


def print_selection(result: Selection, notes: Sequence[str] = ()) -> None:
    """Print the selected policy beside the plain empirical choice."""
    promise = result.promise
    table = Table(
        f"{promise.text(result.unit)}: {' → '.join(result.names)} by {result.score}",
        "choice", "threshold" if len(result.names) == 2 else "thresholds",
        *point_headings(result.unit, len(result.names), None, "target"),
    )  # fmt: skip
    if promise.confidence is not None:
        label = f"{100 * promise.confidence:.3g} % confidence"
        table.add_row(*_row(result, label, result.chosen))
    table.add_row(*_row(result, "plain empirical", result.empirical))
    chosen = [] if result.chosen is None else [policy_line(result), *result.caveats, _price(result)]
    if result.held_out is not None:
        table.add_section()
        row = _row(result, "held out", result.held_out.point)
        if result.chosen is not None:
            row[1] = shown_thresholds(result.chosen, result.score)
        table.add_row(*row)
        chosen += held_out_lines(result.held_out)
    chosen += _shares(result)
    show(table, *chosen, *notes)


def _shares(result: Selection) -> list[str]:
    """Which share of samples each of three or more stages answers."""
    point = result.chosen if result.held_out is None else result.held_out.point
    if point is None or len(result.names) < 3:
        return []
    parts = zip(result.names, point.answered, strict=True)
    where = "" if result.held_out is None else " of the held-out samples"
    return [f"Answered{where} by {', '.join(f'{name} {percent(share)}' for name, share in parts)}."]


def held_out_lines(result: HeldOutPolicy) -> list[str]:
    """The figures of a policy on held-out samples, and the verdict on its promise."""
    ends = result.intervals

    def share(name: str, digits: int = 1) -> str:
        low, high = ends[name]
        return f"({percent(low, digits)} to {percent(high, digits)})"

    parts = []
    if result.drop is not None:
        low, high = (100 * end for end in ends["drop"])
        parts += [
            f"accuracy {percent(result.point.accuracy, 2)} {share('accuracy', 2)}",
            f"drop {100 * result.drop:+.2f} points ({low:+.2f} to {high:+.2f})",
        ]
    parts += [
        f"{result.point.deferral} {share('reach_last')}",
        f"{percent(result.point.cost_ratio)} of the last stage's cost {share('cost_ratio')}",
    ]
    line = verdict_line(result.verdict, result.verdict.unit)
    figures = (
        f"Held out, on {counted(result.point.n, 'sample')} that nothing was chosen on: "
        f"{', '.join(parts)}; 95 % bootstrap intervals."
    )
    return [figures, f"There {line}"]


def _row(result: Selection, label: str, choice: OperatingPoint | None) -> list[str]:
    deferred, accuracy, *rest = point_cells(choice, result.unit)
    if choice is None:
        return [label, "none", deferred, accuracy, "", *rest]
    target = _observed(result.promise, choice, result.unit).removeprefix("observed ")
    return [label, shown_thresholds(choice, result.score), deferred, accuracy, target, *rest]


def _price(result: Selection) -> str:
    """The price of the guarantee, in a sentence."""
    if result.promise.confidence is None:
        return (
            "The plain choice meets the target on these samples; on others it misses it about as "
            "often as not. --confidence 0.95 gives one that holds."
        )
    chosen, plain = result.chosen, result.empirical
    if chosen is None or plain is None or result.promise.of_cost:
        return "The plain choice has no guarantee: on other samples it often misses the target."
    saved, lost = 1 - plain.cost_ratio, chosen.cost_ratio - plain.cost_ratio
    if lost <= 0:
        return "Here the guarantee costs nothing: the plain choice saves no more."
    return (
        f"The guarantee costs {percent(lost / saved)} of the saving; the plain choice has none: on "
        "other samples it misses the target about as often as not."
    )


def selection_summary(result: Selection, records: Sequence[Record]) -> dict[str, Any]:
    """The content of `summary.json`."""
    return {
        **asdict(result.promise),
        "unit": result.unit,
        "score": result.score,
        "stages": _stages_summary(result),
        "n": result.n + result.tuned_on,
        "tested_on": result.n,
        "policies_tested": len(result.candidates),
        "policies_certified": result.certified,
        "left_out": result.left_out,
        "caveats": list(result.caveats),
        "chosen": _choice_summary(result, result.chosen),
        "empirical": _choice_summary(result, result.empirical),
        "held_out": None if result.held_out is None else _held_out_summary(result.held_out),
        "provenance": provenance(records),
    }


def _stages_summary(result: Selection) -> list[dict[str, Any]]:
    """Accuracy and cost of each stage alone, on the samples tested on."""
    outcomes = result.candidates.outcomes
    costs = outcomes.costs.double().mean(dim=0).tolist()
    alone = outcomes.alone
    accuracy = [None] * len(costs) if alone is None else alone.double().mean(dim=0).tolist()
    return [
        {"name": name, "accuracy": share, result.unit: cost}
        for name, share, cost in zip(result.names, accuracy, costs, strict=True)
    ]


def candidates_csv(result: Selection) -> str:
    """The content of `candidates.csv`: one row per candidate, in testing order.

    Several thresholds are joined by semicolons.
    """
    columns = result.columns()
    if "thresholds" in columns:
        columns["thresholds"] = [";".join(map(str, row)) for row in columns["thresholds"]]
    return columns_csv(columns)


def _held_out_summary(result: HeldOutPolicy) -> dict[str, Any]:
    return {
        "n": result.point.n,
        "value": result.point.value,
        "answered": list(result.point.answered),
        **point_summary(result.point, result.verdict.unit),
        "accuracy_drop": result.drop,
        "intervals_95": dict(result.intervals),
        "outcome": result.verdict.outcome,
        "drifted": result.verdict.drifted,
    }


def _choice_summary(result: Selection, choice: OperatingPoint | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    return {
        "thresholds": dict(zip(result.names, choice.typed_thresholds, strict=False)),
        "value": choice.value,
        "answered": dict(zip(result.names, choice.answered, strict=True)),
        **point_summary(choice, result.unit),
    }


def draw_selection(result: Selection) -> bytes:
    """The target against the cost of every candidate, as a PNG."""
    figure = figure_of(6.4, 4.2)
    axes = result.plot(figure.add_subplot())
    title = f"{result.promise.text(result.unit)}: {' → '.join(result.names)}"
    axes.set_title(literal(f"{title} ({counted(result.n, 'sample')})"), fontsize=10)
    return png_of(figure)
