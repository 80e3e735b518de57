"""What the terminal says of a cascade at every threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from lit_cascade.analysis import Outcome
from lit_cascade.core import Curve, OperatingPoint, operating_points
from lit_cascade.report.console import cost_cells, cost_columns, new_table, results_console
from lit_cascade.report.summary import Validation
from lit_cascade.report.text import metric_figure, percent, quantity, readable_threshold, times
from lit_cascade.utilities.units import metric_label, unit_label

__all__ = ["print_validation", "verdict"]


def _labels(by: str, last: str) -> dict[str, str]:
    """What the operating points by a metric are called."""
    what, of = metric_label(by), "" if by == "accuracy" else f" of {metric_label(by)}"
    return {
        f"same_{by}": f"same {what} as {last!r}",
        f"best_{by}": f"best {what}",
        "drop_0.5": f"at most 0.5 points{of} below",
        "drop_1.0": f"at most 1.0 points{of} below",
    }


def _metric_column(metric: str | None) -> list[str]:
    return [] if metric is None else [metric_label(metric)]


def _metric_cell(metric: str | None, value: float | None) -> list[str]:
    return [] if metric is None or value is None else [metric_figure(metric, value)]


def _below(curve: Curve, threshold: float) -> float:
    """The next smaller score on the curve: thresholds above it defer the same samples."""
    row = int((curve.thresholds >= threshold).nonzero()[0, 0])
    return float(curve.thresholds[row - 1]) if row > 1 else curve.least_score


def _shown(curve: Curve, threshold: float) -> str:
    return readable_threshold(threshold, _below(curve, threshold))


def _point_row(label: str, curve: Curve, point: OperatingPoint | None, unit: str) -> list[str]:
    if point is None:
        blank = [*_metric_column(curve.metric), *cost_columns(unit)]
        return [label, "none", "", "", *[""] * len(blank), ""]
    return [
        label,
        _shown(curve, point.threshold),
        percent(point.deferral_rate),
        percent(point.accuracy, 2),
        *_metric_cell(curve.metric, point.metric),
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
    """One sentence a person can act on, by the curve's other metric if it has one.

    Args:
        curve: the cascade.
        names: of its stages.
        unit: of the cost.
    """
    first, last, what = names[0], names[-1], unit_label(unit)
    by = curve.metric or "accuracy"
    good = "Matthews correlation" if by == "matthews" else metric_label(by)
    point = operating_points(curve, by)[f"same_{by}"]
    if point is None:
        return (
            f"No threshold keeps the {good} of {last!r} for fewer {what} than {last!r} alone: "
            f"on this split the cascade does not pay without losing {good}."
        )
    fall = f"{1 / point.cost_ratio:.1f}x" if point.cost_ratio else "to 0"
    if point.cost_ratio > 0.9:
        fall = f"by {percent(1 - point.cost_ratio)} only: it hardly pays"
    if point.deferral_rate == 0:
        as_good = "is as accurate as" if by == "accuracy" else f"has at least the {good} of"
        return (
            f"{first!r} alone {as_good} {last!r} on this split: "
            f"nothing needs to be deferred and {what} fall {fall}."
        )
    shared = "" if len(names) == 2 else " at every stage but the last"
    return (
        f"For the {good} of {last!r}, defer below {_shown(curve, point.threshold)}{shared}: "
        f"{percent(point.deferral_rate)} of inputs are deferred and {what} fall {fall}."
    )


def print_validation(found: Validation, notes: Sequence[str] = ()) -> None:
    """Print stages, operating points and the verdict."""
    console, curve = results_console(), found.curve
    console.print(_stages_table(found))
    console.print(_points_table(found))
    if len(found.names) > 2:
        console.print("Each listed threshold is shared by all stages but the last.")
    console.print(verdict(curve, found.names, found.unit), soft_wrap=True)
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


def _stages_table(found: Validation) -> Table:
    curve, metric, unit = found.curve, found.curve.metric, found.unit
    table = new_table(
        f"Stages on {_split_of(found)}: {curve.n:,} samples",
        "stage", "accuracy", *_metric_column(metric), *cost_columns(unit), "parameters",
        "temperature",
    )  # fmt: skip
    for k, record in enumerate(found.records):
        by_metric = None if curve.stage_by_metric is None else float(curve.stage_by_metric[k])
        table.add_row(
            record.name,
            percent(float(curve.stage_accuracy[k]), 2),
            *_metric_cell(metric, by_metric),
            *cost_cells(float(curve.stage_cost[k]), unit),
            quantity(record.parameters) if record.parameters else "unknown",
            f"{found.rule.temperatures[k]:.3f}" if k < len(found.records) - 1 else "",
        )
    return table


def _points_table(found: Validation) -> Table:
    metric, unit, last = found.curve.metric, found.unit, found.names[-1]
    table = new_table(
        f"The cascade by {found.rule.score}, {_rule_of(found)}",
        "operating point", "threshold", "deferred", "accuracy", *_metric_column(metric),
        *cost_columns(unit), f"than {last!r}",
    )  # fmt: skip
    curves = [(found.curve, "")]
    if found.uncalibrated is not None:
        curves.append((found.uncalibrated, " (T = 1)"))
    for curve, note in curves:
        for by in ["accuracy"] if metric is None else ["accuracy", metric]:
            table.add_section()
            labels = _labels(by, last)
            for name, point in operating_points(curve, by).items():
                table.add_row(*_point_row(labels[name] + note, curve, point, unit))
    if found.policy is not None and found.thresholds is not None:
        table.add_section()
        table.add_row(*_policy_row(found.thresholds, found.policy, metric, unit))
    return table


def _policy_row(
    thresholds: Sequence[float], done: Outcome, metric: str | None, unit: str
) -> list[str]:
    return [
        "the thresholds given",
        ", ".join(f"{threshold:.6g}" for threshold in thresholds),
        percent(done.deferral_rate),
        percent(done.accuracy, 2),
        *_metric_cell(metric, done.metric),
        *cost_cells(done.cost, unit),
        times(done.cost_ratio),
    ]
