"""A threshold for a target, chosen from a curve.

These are the plain empirical choices: they describe the samples that they were found on, and
promise nothing about others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.core.sweep import Curve

__all__ = ["OperatingPoint", "cheapest", "most_accurate", "operating_points"]

# An accuracy is a count over n: this absorbs the rounding of a target such as 0.985 - 0.005, and is
# too small to admit one sample too few below n = 10^8. For costs it is what a sum may round.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class OperatingPoint:
    """One row of a curve.

    Attributes:
        threshold: the stage answers at this score or above.
        deferral_rate: share of the samples that the first stage does not answer.
        accuracy: share of correct answers.
        cost: mean cost per sample, in the unit of the curve.
        cost_ratio: `cost` over that of the last stage alone; below 1 is a saving.
    """

    threshold: float
    deferral_rate: float
    accuracy: float
    cost: float
    cost_ratio: float


def _row(curve: Curve, row: int) -> OperatingPoint:
    cost = float(curve.cost[row])
    return OperatingPoint(
        threshold=float(curve.thresholds[row]),
        deferral_rate=float(curve.deferral_rate[row]),
        accuracy=float(curve.accuracy[row]),
        cost=cost,
        cost_ratio=cost / float(curve.stage_cost[-1]),
    )


def _least(rows: Tensor, *columns: Tensor) -> int:
    """The first of `rows` that is least in the columns, the earlier ones counting more."""
    for column in columns:
        rows = rows[column[rows] == column[rows].min()]
    return int(rows[0])


def cheapest(curve: Curve, min_accuracy: float) -> OperatingPoint | None:
    """The cheapest threshold with at least `min_accuracy`, if it is cheaper than the last stage.

    Where even that costs as much as the last stage alone there is nothing to choose: run that
    stage. Ties in cost go to the more accurate, then to the lower threshold.

    Returns:
        The operating point, or None.
    """
    cheaper = curve.cost < curve.stage_cost[-1] * (1 - _TOLERANCE)
    rows = ((curve.accuracy >= min_accuracy - _TOLERANCE) & cheaper).nonzero().squeeze(1)
    return _row(curve, _least(rows, curve.cost, -curve.accuracy)) if len(rows) else None


def most_accurate(curve: Curve) -> OperatingPoint:
    """The most accurate threshold; ties go to the cheaper, then to the lower threshold."""
    rows = torch.arange(len(curve))
    return _row(curve, _least(rows, -curve.accuracy, curve.cost))


def operating_points(curve: Curve) -> dict[str, OperatingPoint | None]:
    """The named operating points of a curve.

    `same_accuracy`, `drop_0.5` and `drop_1.0` are the cheapest thresholds with at least the last
    stage's accuracy, less 0, 0.5 and 1 percentage points, that cost less than it;
    `best_accuracy` is the most accurate at any cost.

    Returns:
        One entry per name; None where there is no such threshold.
    """
    last = float(curve.stage_accuracy[-1])
    return {
        "same_accuracy": cheapest(curve, last),
        "best_accuracy": most_accurate(curve),
        "drop_0.5": cheapest(curve, last - 0.005),
        "drop_1.0": cheapest(curve, last - 0.010),
    }
