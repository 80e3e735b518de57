"""Tables and sentences for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lit_cascade.analysis import Outcome, StageCalibration
from lit_cascade.core.selection import OperatingPoint, operating_points
from lit_cascade.core.sweep import Curve
from lit_cascade.report.card import Card
from lit_cascade.report.console import cost_cells, cost_columns, new_table, results_console
from lit_cascade.report.summary import Validation
from lit_cascade.report.text import percent, quantity, readable_threshold, times
from lit_cascade.units import unit_label

__all__ = [
    "print_calibration",
    "print_card",
    "print_execution",
    "print_validation",
    "print_written",
    "verdict",
]

_POINTS = {
    "same_accuracy": "same accuracy as {last}",
    "best_accuracy": "best accuracy",
    "drop_0.5": "at most 0.5 points below",
    "drop_1.0": "at most 1.0 points below",
}


def _below(curve: Curve, threshold: float) -> float:
    """The next smaller score on the curve: thresholds above it defer the same samples."""
    row = int((curve.thresholds >= threshold).nonzero()[0, 0])
    return float(curve.thresholds[row - 1]) if row > 1 else curve.least_score


def _shown(curve: Curve, threshold: float) -> str:
    return readable_threshold(threshold, _below(curve, threshold))


def _point_row(label: str, curve: Curve, point: OperatingPoint | None, unit: str) -> list[str]:
    if point is None:
        return [label, "none", "", "", *[""] * len(cost_columns(unit)), ""]
    return [
        label,
        _shown(curve, point.threshold),
        percent(point.deferral_rate),
        percent(point.accuracy, 2),
        *cost_cells(point.cost, unit),
        times(point.cost_ratio),
    ]


def _split_of(found: Validation) -> str:
    data = found.records[0].data
    name, split = data.get("name", "records"), data.get("split")
    return f"{name}, split {split!r}" if split else str(name)


def _rule_of(found: Validation) -> str:
    """Who answers, in words."""
    parts = ["a stage answers at its threshold or above"]
    if any(floor > -math.inf for floor in found.rule.floors):
        floors = (f"{floor:.6g}" for floor in found.rule.floors)
        parts.append(f"and below its floor ({', '.join(floors)})")
    if found.rule.combine != "later":
        parts.append(f"answers combined: {found.rule.combine}")
    return ", ".join(parts)


def verdict(curve: Curve, names: Sequence[str], unit: str = "flops") -> str:
    """One sentence a person can act on.

    Args:
        curve: the cascade.
        names: of its stages.
        unit: of the cost.
    """
    first, last, what = names[0], names[-1], unit_label(unit)
    point = operating_points(curve)["same_accuracy"]
    if point is None:
        return (
            f"No threshold keeps the accuracy of {last!r} for fewer {what} than {last!r} alone: "
            "on this split the cascade does not pay without losing accuracy."
        )
    fall = f"{1 / point.cost_ratio:.1f}x" if point.cost_ratio else "to 0"
    if point.cost_ratio > 0.9:
        fall = f"by {percent(1 - point.cost_ratio)} only: it hardly pays"
    if point.deferral_rate == 0:
        return (
            f"{first!r} alone is as accurate as {last!r} on this split: "
            f"nothing needs to be deferred and {what} fall {fall}."
        )
    shared = "" if len(names) == 2 else " at every stage but the last"
    return (
        f"For the accuracy of {last!r}, defer below {_shown(curve, point.threshold)}{shared}: "
        f"{percent(point.deferral_rate)} of inputs are deferred and {what} fall {fall}."
    )


def print_validation(found: Validation, notes: Sequence[str] = ()) -> None:
    """Print stages, operating points and the verdict."""
    console, curve, last, unit = results_console(), found.curve, found.names[-1], found.unit
    stages = new_table(
        f"Stages on {_split_of(found)}: {curve.n:,} samples",
        "stage", "accuracy", *cost_columns(unit), "parameters", "temperature",
    )  # fmt: skip
    for k, record in enumerate(found.records):
        stages.add_row(
            record.name,
            percent(float(curve.stage_accuracy[k]), 2),
            *cost_cells(float(curve.stage_cost[k]), unit),
            quantity(record.parameters) if record.parameters else "unknown",
            f"{found.rule.temperatures[k]:.3f}" if k < len(found.records) - 1 else "",
        )
    console.print(stages)
    points = new_table(
        f"The cascade by {found.rule.score}, {_rule_of(found)}",
        "operating point", "threshold", "deferred", "accuracy", *cost_columns(unit),
        f"than {last!r}",
    )  # fmt: skip
    for name, label in _POINTS.items():
        points.add_row(*_point_row(label.format(last=repr(last)), curve, found.points[name], unit))
    if found.uncalibrated is not None:
        points.add_section()
        for name, point in operating_points(found.uncalibrated).items():
            label = _POINTS[name].format(last=repr(last))
            points.add_row(*_point_row(f"{label} (T = 1)", found.uncalibrated, point, unit))
    if found.policy is not None and found.thresholds is not None:
        points.add_section()
        points.add_row(*_policy_row("the thresholds given", found.thresholds, found.policy, unit))
    console.print(points)
    if len(found.names) > 2:
        console.print("Each listed threshold is shared by all stages but the last.")
    console.print(verdict(curve, found.names, unit), soft_wrap=True)
    console.print(
        "The operating points above describe the very samples that they were found on; on others "
        "they will do\na little worse. Choose a threshold on one split (--split calibration) and "
        "judge it on another."
        + (
            " If the\nthresholds given were chosen on these samples, their row flatters too."
            if found.policy is not None
            else ""
        ),
        soft_wrap=True,
    )
    for note in notes:
        console.print(note, soft_wrap=True)


def _policy_row(label: str, thresholds: Sequence[float], found: Outcome, unit: str) -> list[str]:
    return [
        label,
        ", ".join(f"{threshold:.6g}" for threshold in thresholds),
        percent(found.deferral_rate),
        percent(found.accuracy, 2),
        *cost_cells(found.cost, unit),
        times(found.cost_ratio),
    ]


def print_calibration(
    found: Mapping[str, StageCalibration], split: str, notes: Sequence[str] = ()
) -> None:
    """Print what the temperatures do to each stage's confidence."""
    console = results_console()
    table = new_table(
        f"Temperatures fitted on {split}",
        "stage", "samples", "temperature", "NLL before", "after", "ECE before", "after",
    )  # fmt: skip
    for name, stage in found.items():
        table.add_row(
            name,
            f"{stage.n:,}",
            f"{stage.fit.temperature:.4f}" + (" (at its bound)" if stage.fit.at_bound else ""),
            f"{stage.fit.nll_before:.4f}",
            f"{stage.fit.nll_after:.4f}",
            f"{stage.ece_before:.4f}",
            f"{stage.ece_after:.4f}",
        )
    console.print(table)
    console.print("NLL in nats; ECE over 15 bins of equal width; both on the samples fitted on.")
    for note in notes:
        console.print(note, soft_wrap=True)


def print_execution(
    found: Outcome,
    names: Sequence[str],
    thresholds: Sequence[float],
    flops: Sequence[float],
    where: str,
    notes: Sequence[str] = (),
) -> None:
    """Print what a cascade did when it ran.

    Args:
        found: accuracy, deferral and cost.
        names: of the stages.
        thresholds: of the deferring stages.
        flops: FLOPs that each stage spent per sample of the split, in stage order.
        where: the data and split.
        notes: what the reader must know about the figures.
    """
    console = results_console()
    table = new_table(
        f"The cascade, run on {where}: {found.n:,} samples",
        "stage", "threshold", "ran on", "answered", "FLOPs per sample",
    )  # fmt: skip
    reached = 1.0
    for k, name in enumerate(names):
        table.add_row(
            name,
            f"{thresholds[k]:.6g}" if k < len(thresholds) else "",
            percent(reached),
            percent(found.answered[k]),
            quantity(flops[k]),
        )
        reached -= found.answered[k]
    console.print(table)
    console.print(
        f"Accuracy {percent(found.accuracy, 2)}, {percent(found.deferral_rate)} deferred, "
        f"{quantity(found.cost)} FLOPs executed per sample "
        f"({quantity(found.cost / 2)} MACs), {times(found.cost_ratio)} than {names[-1]!r} alone.",
        soft_wrap=True,
    )
    for note in notes:
        console.print(note, soft_wrap=True)


def print_card(card: Card) -> None:
    """Print how good a trained stage is."""
    console = results_console()
    table = new_table(f"{card.name}, trained on {card.data}", "split", "samples", "accuracy")
    for split, (accuracy, n) in card.splits.items():
        table.add_row(split, f"{n:,}", percent(accuracy, 2))
    console.print(table)
    flops = f"{quantity(card.flops)} FLOPs ({quantity(card.flops / 2)} MACs) per sample"
    console.print(f"{flops}, {quantity(card.parameters)} parameters.")


def print_written(paths: Sequence[str]) -> None:
    """Say which files were written."""
    results_console().print("Wrote " + ", ".join(paths), soft_wrap=True)
