"""Operating points as table cells and as JSON."""

from __future__ import annotations

import math
from typing import Any

from lit_cascade.core import AGREEMENT, OperatingPoint, readable_threshold
from lit_cascade.report.text import Column, cost_cells, cost_columns
from lit_cascade.utilities.units import metric_figure, metric_label, percent, times


def shown_thresholds(point: OperatingPoint, score: str = "") -> str:
    """The thresholds of a point, as the shortest decimal that defers the same samples if known.

    Of several by agreement, +inf is shown as `votes`.
    """
    if point.below is None:
        votes = score == AGREEMENT.name and len(point.thresholds) > 1
        return ", ".join(
            "votes" if votes and threshold == math.inf else f"{threshold:.6g}"
            for threshold in point.thresholds
        )
    return readable_threshold(point.threshold, point.below)


THAN = "than last stage"
"""Heading of a saving."""


def share_heading(stages: int) -> str:
    """Heading of the share that reaches the last of K stages."""
    return "deferred" if stages == 2 else "reach last"


def point_headings(
    unit: str, stages: int, metric: str | None = None, *more: str
) -> list[str | Column]:
    """Headings of `point_cells`.

    Args:
        unit: of the cost.
        stages: number of stages.
        metric: name of the second metric.
        more: headings of columns between accuracy and cost.
    """
    second = [] if metric is None else [metric_label(metric)]
    return [share_heading(stages), "accuracy", *second, *more, *cost_columns(unit), THAN]


def point_cells(point: OperatingPoint | None, unit: str, metric: str | None = None) -> list[str]:
    """Share that reaches the last stage, accuracy, second metric, cost and saving.

    Empty cells without a point.
    """
    if point is None:
        return [""] * len(point_headings(unit, 2, metric))
    second = [] if metric is None else [metric_figure(metric, point.metric or 0.0)]
    return [
        percent(point.answered[-1]),
        "unknown" if math.isnan(point.accuracy) else percent(point.accuracy, 2),
        *second,
        *cost_cells(point.cost, unit),
        times(point.cost_ratio),
    ]


def point_summary(point: OperatingPoint, unit: str, metric: str | None = None) -> dict[str, Any]:
    """Deferral rate, accuracy, second metric, cost and its ratio, by name.

    With three stages or more also the share that reaches the last one.
    """
    return {
        "deferral_rate": point.deferral_rate,
        **({} if len(point.answered) == 2 else {"reach_last": point.answered[-1]}),
        "accuracy": point.accuracy,
        **({} if metric is None else {metric: point.metric}),
        unit: point.cost,
        f"{unit}_ratio": point.cost_ratio,
    }
