"""The result of `select`: the policy, its promise and the price of the promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch

from lit_cascade.analysis import Selection
from lit_cascade.core import OperatingPoint
from lit_cascade.core.guarantee import Promise
from lit_cascade.records import Record
from lit_cascade.report.pictures import BLACK, BLUE, GREY, VERMILION, figure_of, png_of, quiet
from lit_cascade.report.points import point_cells, point_summary, shown_thresholds, typed_thresholds
from lit_cascade.report.text import (
    Table,
    cost_columns,
    percent,
    quantity,
    show,
)
from lit_cascade.report.validation import provenance
from lit_cascade.utilities.units import counted, unit_label


class Subject(NamedTuple):
    """The cascade that thresholds are selected for.

    Attributes:
        names: of the stages.
        unit: of the cost.
        score: name of the score that the thresholds apply to.
    """

    names: Sequence[str]
    unit: str
    score: str


def _points(share: float) -> str:
    return f"{100 * share:.3g}"


def promise_text(promise: Promise, unit: str) -> str:
    """The promise in words.

    Example:
        >>> promise_text(Promise("accuracy_drop", 0.005), "flops")
        'accuracy drop <= 0.5 points'
    """
    limit = promise.limit
    return {
        "accuracy_drop": f"accuracy drop <= {_points(limit)} points",
        "accuracy": f"accuracy >= {_points(limit)} %",
        "disagreement": f"disagreement <= {_points(limit)} %",
        "deferral_rate": f"deferral rate <= {_points(limit)} %",
        "cost": f"{unit_label(unit)} <= {quantity(limit)}",
        "cost_ratio": f"{unit_label(unit)} <= {_points(limit)} % of the last stage's",
    }[promise.target]


def _observed(promise: Promise, choice: OperatingPoint) -> str:
    """The observed value of the target, in words."""
    value = choice.value or 0.0
    if promise.target == "accuracy_drop":
        return f"observed drop {100 * value:.2f}"
    if promise.target == "cost":
        return f"observed {quantity(value)}"
    return f"observed {percent(value, 2)}"


def policy_line(result: Selection, subject: Subject) -> str:
    """The selected policy in one line."""
    choice, promise = result.chosen, result.promise
    if choice is None:
        return "No policy that saves anything qualifies."
    label = "threshold" if len(choice.thresholds) == 1 else "thresholds"
    fewer = f"{1 / choice.cost_ratio:.1f}x fewer {unit_label(subject.unit)}"
    sure = (
        "chosen, not promised"
        if promise.confidence is None
        else f"with {_points(promise.confidence)} % confidence"
    )
    what = promise_text(promise, subject.unit)
    return (
        f"{label} {shown_thresholds(choice)}: {percent(choice.deferral_rate)} deferred, "
        f"{fewer}; {what} "
        f"{sure} (calibrated on {result.n + result.tuned_on:,}, "
        f"{_observed(promise, choice)})"
    )


def none_qualifies(result: Selection, subject: Subject) -> str:
    """The reason why no policy was selected, and what would help."""
    what = promise_text(result.promise, subject.unit)
    n, last = result.n + result.tuned_on, subject.names[-1]
    these = "this sample" if n == 1 else f"these {n:,} samples"
    if result.promise.confidence is None:
        return (
            f"no policy keeps {what} on {these} for less than {last!r} alone costs. "
            f"Relax the limit, or run {last!r} alone."
        )
    sure = f"{_points(result.promise.confidence)} % confidence"
    if result.needed is not None:
        help_ = (
            f"About {counted(result.needed, 'sample')} would do if these are representative; or "
            "relax the limit or the confidence."
        )
    elif result.empirical is None:
        help_ = "None keeps it even on these samples: relax the limit."
    elif result.promise.limit == 0:
        help_ = "No sample can show that nothing at all is lost: allow a small loss, such as 0.005."
    else:
        help_ = "A thousand times as many would not do either: relax the limit."
    return (
        f"no policy that costs less than {last!r} alone can be promised to keep {what} with {sure} "
        f"from {counted(n, 'sample')}. {help_}"
    )


def print_selection(result: Selection, subject: Subject, notes: Sequence[str] = ()) -> None:
    """Print the selected policy beside the plain empirical choice."""
    promise = result.promise
    table = Table(
        f"{promise_text(promise, subject.unit)}: {' → '.join(subject.names)} by {subject.score}",
        "choice", "threshold" if len(subject.names) == 2 else "thresholds", "deferred", "accuracy",
        "target", *cost_columns(subject.unit), f"than {subject.names[-1]!r}",
    )  # fmt: skip
    if promise.confidence is not None:
        label = f"with {_points(promise.confidence)} % confidence"
        table.add_row(*_row(label, result.chosen, promise, subject.unit))
    table.add_row(*_row("plain empirical", result.empirical, promise, subject.unit))
    chosen = [] if result.chosen is None else [policy_line(result, subject), _price(result)]
    show(table, *chosen, *notes)


def _row(label: str, choice: OperatingPoint | None, promise: Promise, unit: str) -> list[str]:
    deferred, accuracy, *rest = point_cells(choice, unit)
    if choice is None:
        return [label, "none", deferred, accuracy, "", *rest]
    target = _observed(promise, choice).removeprefix("observed ")
    return [label, shown_thresholds(choice), deferred, accuracy, target, *rest]


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


def selection_summary(
    result: Selection, subject: Subject, records: Sequence[Record]
) -> dict[str, Any]:
    """The content of `summary.json`."""
    return {
        **asdict(result.promise),
        "unit": subject.unit,
        "score": subject.score,
        "n": result.n + result.tuned_on,
        "tested_on": result.n,
        "policies_tested": len(result.candidates),
        "policies_certified": result.certified,
        "chosen": _choice_summary(result.chosen, subject),
        "empirical": _choice_summary(result.empirical, subject),
        "provenance": provenance(records),
    }


def _choice_summary(choice: OperatingPoint | None, subject: Subject) -> dict[str, Any] | None:
    if choice is None:
        return None
    return {
        "thresholds": dict(zip(subject.names, typed_thresholds(choice), strict=False)),
        "value": choice.value,
        **point_summary(choice, subject.unit),
    }


_AXES = {
    "accuracy_drop": "observed accuracy drop (points)",
    "accuracy": "observed accuracy (%)",
    "disagreement": "observed disagreement (%)",
    "deferral_rate": "deferral rate (%)",
}


def draw_selection(result: Selection, subject: Subject) -> bytes:
    """The target against the cost of every candidate, as a PNG."""
    figure = figure_of(6.4, 4.2)
    axes = figure.add_subplot()
    candidates, promise = result.candidates, result.promise
    of_spending = promise.target in {"cost", "cost_ratio"}
    # if the cost itself is promised, the accuracy is drawn against it
    value = candidates.accuracy if of_spending else candidates.value
    ratio = candidates.cost_ratio
    order = ratio.sort(stable=True).indices
    axes.plot(
        ratio[order], 100 * value[order], color=GREY, linewidth=1.4,
        label="not certified" if promise.confidence is not None else "all thresholds", zorder=2,
    )  # fmt: skip
    if result.certified:
        kept = order[torch.isin(order, torch.arange(result.certified))]
        label = f"certified at {100 * (promise.confidence or 0):g} %"
        axes.plot(ratio[kept], 100 * value[kept], color=BLUE, linewidth=2.4, label=label, zorder=3)
    if promise.target == "cost_ratio":
        axes.axvline(promise.limit, color=BLACK, linestyle=":", linewidth=1.2)
    elif not of_spending:
        axes.axhline(100 * promise.limit, color=BLACK, linestyle=":", linewidth=1.2)
        axes.annotate(
            "limit", (1, 100 * promise.limit), xycoords=("axes fraction", "data"),
            xytext=(-4, 3), textcoords="offset points", ha="right", fontsize=8,
        )  # fmt: skip
    marks = [(result.empirical, "plain empirical choice", VERMILION, "X")]
    if promise.confidence is not None:
        marks.append((result.chosen, "the policy", BLUE, "*"))
    for choice, label, colour, marker in marks:
        if choice is not None:
            height = choice.accuracy if of_spending else choice.value or 0.0
            axes.plot(
                choice.cost_ratio, 100 * height, marker, color=colour, markersize=11,
                markeredgecolor="white", label=label, zorder=5,
            )  # fmt: skip
    axes.axvline(1, color=BLACK, linewidth=0.8, alpha=0.5)
    axes.set_xlabel(f"{unit_label(subject.unit)} of the cascade / of {subject.names[-1]!r} alone")
    axes.set_ylabel("observed accuracy (%)" if of_spending else _AXES[promise.target])
    title = f"{promise_text(promise, subject.unit)}: {' → '.join(subject.names)}"
    axes.set_title(f"{title} ({counted(result.n, 'sample')})", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    quiet(axes)
    return png_of(figure)
