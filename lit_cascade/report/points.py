"""Operating points as table cells and as JSON."""

from __future__ import annotations

import math
from typing import Any

from lit_cascade.core import OperatingPoint, readable_threshold
from lit_cascade.report.text import Column, cost_cells, cost_columns
from lit_cascade.utilities.units import metric_figure, metric_label, percent, times


def shown_thresholds(point: OperatingPoint) -> str:
    """The thresholds of a point, as the shortest decimal that defers the same samples if known."""
    if point.below is None:
        return ", ".join(f"{threshold:.6g}" for threshold in point.thresholds)
    return readable_threshold(point.threshold, point.below)


THAN = "than last stage"
"""Heading of a saving."""


def point_headings(unit: str, metric: str | None) -> list[str | Column]:
    """Headings of `point_cells`."""
    second = [] if metric is None else [metric_label(metric)]
    return ["deferred", "accuracy", *second, *cost_columns(unit), THAN]


def point_cells(point: OperatingPoint | None, unit: str, metric: str | None = None) -> list[str]:
    """Deferral rate, accuracy, second metric, cost and saving; empty cells without a point."""
    if point is None:
        return [""] * len(point_headings(unit, metric))
    second = [] if metric is None else [metric_figure(metric, point.metric or 0.0)]
    return [
        percent(point.deferral_rate),
        "unknown" if math.isnan(point.accuracy) else percent(point.accuracy, 2),
        *second,
        *cost_cells(point.cost, unit),
        times(point.cost_ratio),
    ]


def point_summary(point: OperatingPoint, unit: str, metric: str | None = None) -> dict[str, Any]:
    """Deferral rate, accuracy, second metric, cost and its ratio, by name."""
    return {
        "deferral_rate": point.deferral_rate,
        "accuracy": point.accuracy,
        **({} if metric is None else {metric: point.metric}),
        unit: point.cost,
        f"{unit}_ratio": point.cost_ratio,
    }
