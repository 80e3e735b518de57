"""A threshold for a target, chosen from a curve.

These are the plain empirical choices: they describe the samples that they were found on, and
promise nothing about others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.core.sweep import Curve

__all__ = ["OperatingPoint", "best", "cheapest", "operating_points"]

# This absorbs the rounding of a target such as 0.985 - 0.005. It is too small to admit one sample
# too few: an accuracy is a count over n, and two F1 differ by at least 1 / (4 n^2).
_TOLERANCE = 1e-12

# What a sum of costs may round, as a share of it.
_COST_TOLERANCE = 1e-9


@dataclass(frozen=True)
class OperatingPoint:
    """One row of a curve.

    Attributes:
        threshold: the stage answers at this score or above.
        deferral_rate: share of the samples that the first stage does not answer.
        accuracy: share of correct answers.
        cost: mean cost per sample, in the unit of the curve.
        cost_ratio: `cost` over that of the last stage alone; below 1 is a saving.
        metric: by the curve's other metric, if it has one.
    """

    threshold: float
    deferral_rate: float
    accuracy: float
    cost: float
    cost_ratio: float
    metric: float | None = None


def _row(curve: Curve, row: int) -> OperatingPoint:
    cost = float(curve.cost[row])
    return OperatingPoint(
        threshold=float(curve.thresholds[row]),
        deferral_rate=float(curve.deferral_rate[row]),
        accuracy=float(curve.accuracy[row]),
        cost=cost,
        cost_ratio=cost / float(curve.stage_cost[-1]),
        metric=None if curve.by_metric is None else float(curve.by_metric[row]),
    )


def _least(rows: Tensor, *columns: Tensor) -> int:
    """The first of `rows` that is least in the columns, the earlier ones counting more."""
    for column in columns:
        rows = rows[column[rows] == column[rows].min()]
    return int(rows[0])


def cheapest(curve: Curve, least: float, by: str = "accuracy") -> OperatingPoint | None:
    """The cheapest threshold that reaches `least`, if it is cheaper than the last stage.

    Where even that costs as much as the last stage alone there is nothing to choose: run that
    stage. Ties in cost go to the better, then to the lower threshold.

    Args:
        curve: the cascade.
        least: how good it must be.
        by: `accuracy`, or the metric that the curve was made with.

    Returns:
        The operating point, or None.

    Raises:
        CascadeError: a metric that the curve was made without.
    """
    reached, _ = curve.judged_by(by)
    cheaper = curve.cost < curve.stage_cost[-1] * (1 - _COST_TOLERANCE)
    rows = ((reached >= least - _TOLERANCE) & cheaper).nonzero().squeeze(1)
    return _row(curve, _least(rows, curve.cost, -reached)) if len(rows) else None


def best(curve: Curve, by: str = "accuracy") -> OperatingPoint:
    """The best threshold; ties go to the cheaper, then to the lower threshold.

    Args:
        curve: the cascade.
        by: `accuracy`, or the metric that the curve was made with.

    Raises:
        CascadeError: a metric that the curve was made without.
    """
    reached, _ = curve.judged_by(by)
    return _row(curve, _least(torch.arange(len(curve)), -reached, curve.cost))


def operating_points(curve: Curve, by: str = "accuracy") -> dict[str, OperatingPoint | None]:
    """The named operating points of a curve.

    `same_accuracy`, `drop_0.5` and `drop_1.0` are the cheapest thresholds with at least the last
    stage's accuracy, less 0, 0.5 and 1 percentage points, that cost less than it;
    `best_accuracy` is the most accurate at any cost. By another metric, such as f1, the names are
    `same_f1` and `best_f1`, and a point is a hundredth.

    Args:
        curve: the cascade.
        by: `accuracy`, or the metric that the curve was made with.

    Returns:
        One entry per name; None where there is no such threshold.

    Raises:
        CascadeError: a metric that the curve was made without.
    """
    last = float(curve.judged_by(by)[1][-1])
    return {
        f"same_{by}": cheapest(curve, last, by),
        f"best_{by}": best(curve, by),
        "drop_0.5": cheapest(curve, last - 0.005, by),
        "drop_1.0": cheapest(curve, last - 0.010, by),
    }
