"""Every threshold at once: the exact accuracy and cost of a cascade, and what to compare it with.

Accuracy and cost change only where the threshold passes a sample's score, so the distinct scores
are all there is to see: the curve is exact, and nothing between its points exists.

A threshold for a target, chosen from a curve.

These are the plain empirical choices: they describe the samples that they were found on, and
promise nothing about others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.core.metrics import Answers
from lit_cascade.errors import CascadeError

__all__ = [
    "Curve",
    "Deferral",
    "OperatingPoint",
    "best",
    "cheapest",
    "operating_points",
    "oracle_deferral",
    "random_deferral",
    "sweep",
]


@dataclass(frozen=True)
class Curve:
    """A cascade at every distinct threshold, from nothing deferred to everything.

    All tensors are float64. Row 0 has threshold -inf: the first stage alone. The last row has
    threshold +inf: every sample went through every stage.

    Attributes:
        thresholds: shape (M,), strictly rising.
        deferral_rate: share of the samples that the first stage did not answer, (M,).
        accuracy: share of correct answers, (M,).
        cost: mean cost per sample, in the unit of the costs given, (M,).
        stage_accuracy: of each stage alone, (K,).
        stage_cost: mean cost per sample of each stage alone, (K,).
        least_score: the least score, up to which a threshold defers nothing.
        n: number of samples.
        metric: name of another metric, a name in `lit_cascade.core.metrics.METRICS`, if the curve
            was made with one.
        by_metric: that metric of the cascade, (M,).
        stage_by_metric: of each stage alone, (K,).
    """

    thresholds: Tensor
    deferral_rate: Tensor
    accuracy: Tensor
    cost: Tensor
    stage_accuracy: Tensor
    stage_cost: Tensor
    least_score: float
    n: int
    metric: str | None = None
    by_metric: Tensor | None = None
    stage_by_metric: Tensor | None = None

    def __len__(self) -> int:
        return len(self.thresholds)

    def judged_by(self, metric: str) -> tuple[Tensor, Tensor]:
        """How good the cascade is at each threshold, (M,), and each stage alone, (K,).

        Args:
            metric: `accuracy`, or the metric that the curve was made with.

        Raises:
            CascadeError: the curve was not made with it.
        """
        if metric == "accuracy":
            return self.accuracy, self.stage_accuracy
        if metric != self.metric or self.by_metric is None or self.stage_by_metric is None:
            known = "accuracy" if self.metric is None else f"accuracy and {self.metric}"
            raise CascadeError(f"the curve was made without {metric}: it has {known}.")
        return self.by_metric, self.stage_by_metric


def _check(scores: Tensor, correct: Tensor, costs: Tensor, answers: Answers | None) -> None:
    n, stages = correct.shape if correct.ndim == 2 else (len(correct), 1)
    if stages < 2:
        raise CascadeError(f"a cascade needs at least 2 stages, got {stages}.")
    if n == 0:
        raise CascadeError("no samples to sweep.")
    if scores.shape != (n, stages - 1) or costs.shape != (n, stages):
        raise CascadeError(
            f"for {n} samples and {stages} stages, expected scores of shape {(n, stages - 1)} and "
            f"costs of shape {(n, stages)}, got {tuple(scores.shape)} and {tuple(costs.shape)}."
        )
    if answers is not None and not correct.shape == answers.after.shape == answers.alone.shape:
        raise CascadeError(
            f"for {n} samples and {stages} stages, expected answers of shape {(n, stages)}, "
            f"got {tuple(answers.after.shape)} and {tuple(answers.alone.shape)}."
        )
    if not float(costs[:, -1].sum()) > 0:
        raise CascadeError("the last stage costs nothing: a cascade cannot save anything.")
    if scores.isnan().any():
        row = int(scores.isnan().any(dim=1).nonzero()[0, 0])
        raise CascadeError(f"the score of sample {row} is NaN: it has no place on the curve.")


def sweep(
    scores: Tensor,
    correct: Tensor,
    costs: Tensor,
    alone: Tensor | None = None,
    answers: Answers | None = None,
) -> Curve:
    """Accuracy and cost at every distinct threshold, exactly, in one sort.

    With K = 2 stages this is every cascade there is. With K > 2, one threshold is shared by all
    deferring stages.

    Args:
        scores: of the deferring stages, shape (N, K - 1), or (N,) for two stages. Where it is +inf,
            as below a floor, a stage answers at every threshold.
        correct: whether the cascade is right if it stops after each stage, booleans of shape
            (N, K).
        costs: cost of each stage on each sample, shape (N, K).
        alone: whether each stage is right alone, (N, K); by default the same as `correct`.
        answers: what `correct` was made from, for a metric beside accuracy.

    Raises:
        CascadeError: fewer than two stages, no samples, NaN scores, or shapes that do not fit.

    Example:
        >>> curve = sweep(
        ...     scores=torch.tensor([0.75, 0.5]),
        ...     correct=torch.tensor([[True, True], [False, True]]),
        ...     costs=torch.tensor([[1.0, 10.0], [1.0, 10.0]]),
        ... )
        >>> curve.thresholds.tolist(), curve.accuracy.tolist(), curve.cost.tolist()
        ([-inf, 0.75, inf], [0.5, 1.0, 1.0], [1.0, 6.0, 11.0])
    """
    scores = scores[:, None] if scores.ndim == 1 else scores
    _check(scores, correct, costs, answers)
    n = len(correct)
    right, costs = correct.long(), costs.double()

    # A sample leaves stage k once the shared threshold exceeds the best score seen up to k. Each
    # such departure is an event at that score; equal scores leave together.
    leaves_at = scores.double().cummax(dim=1).values
    first = torch.zeros_like(leaves_at, dtype=torch.int64)
    first[:, 0] = 1
    values, order = leaves_at.flatten().sort(stable=True)
    values = values[: int((values < math.inf).sum())]
    order = order[: len(values)]
    distinct, counts = torch.unique_consecutive(values, return_counts=True)
    passed = counts.cumsum(0) - 1

    def after(start: Tensor, change: Tensor) -> Tensor:
        total = change.flatten()[order].cumsum(0)[passed]
        return torch.cat([start[None], start + total]).double() / n

    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64, device=scores.device)
    last = ends[1:] if len(distinct) else ends[:0]  # if nothing is ever deferred, one row says it
    alone = correct if alone is None else alone
    return Curve(
        thresholds=torch.cat([ends[:1], distinct[1:], last]),
        deferral_rate=after(first.new_zeros(()), first),
        accuracy=after(right[:, 0].sum(), right.diff(dim=1)),
        cost=after(costs[:, 0].sum(), costs[:, 1:]),
        stage_accuracy=alone.sum(dim=0).double() / n,
        stage_cost=costs.sum(dim=0) / n,
        least_score=float(distinct[0]) if len(distinct) else math.inf,
        n=n,
        metric=None if answers is None else answers.metric,
        by_metric=None if answers is None else answers.along(order, passed),
        stage_by_metric=None if answers is None else answers.of_stages(),
    )


@dataclass(frozen=True)
class Deferral:
    """What another way to choose the deferred samples would reach, as points (cost, accuracy).

    Attributes:
        cost: mean cost per sample, (M,) float64, rising.
        accuracy: (M,) float64.
    """

    cost: Tensor
    accuracy: Tensor


def random_deferral(curve: Curve) -> Deferral:
    """Expected accuracy if a coin decided which samples to defer: a line between two points.

    The line joins the first stage alone with everything deferred. A score is worth having as far
    as its curve lies above it.

    Example:
        >>> curve = sweep(torch.tensor([0.9]), torch.tensor([[False, True]]), torch.ones(1, 2))
        >>> random_deferral(curve)
        Deferral(cost=tensor([1., 2.], ...), accuracy=tensor([0., 1.], ...))
    """
    return Deferral(curve.cost[[0, -1]], curve.accuracy[[0, -1]])


def oracle_deferral(correct: Tensor, costs: Tensor) -> Deferral:
    """The best that any score could do with two stages, knowing the labels.

    Defers first the samples that only the second stage gets right, cheapest first, then those
    where it makes no difference, and last those that it would spoil.

    Args:
        correct: whether each of the two stages is right, booleans of shape (N, 2).
        costs: of the two stages on each sample, shape (N, 2).

    Returns:
        N + 1 points, from nothing deferred to everything.

    Raises:
        CascadeError: not two stages, or shapes that do not fit.

    Example:
        >>> correct = torch.tensor([[True, True], [False, True]])
        >>> oracle_deferral(correct, torch.tensor([[1.0, 9.0], [1.0, 9.0]])).accuracy.tolist()
        [0.5, 1.0, 1.0]
    """
    if correct.ndim != 2 or correct.shape[1] != 2 or costs.shape != correct.shape:
        raise CascadeError(
            "expected correctness and costs of shape (N, 2), "
            f"got {tuple(correct.shape)} and {tuple(costs.shape)}."
        )
    n = len(correct)
    right, costs = correct.long(), costs.double()
    gain = right[:, 1] - right[:, 0]
    by_cost = costs[:, 1].sort(stable=True).indices
    order = by_cost[gain[by_cost].sort(descending=True, stable=True).indices]
    start = torch.zeros(1, dtype=torch.int64, device=correct.device)
    gained = torch.cat([start, gain[order].cumsum(0)]) + right[:, 0].sum()
    spent = torch.cat([start.double(), costs[order, 1].cumsum(0)]) + costs[:, 0].sum()
    return Deferral(spent / n, gained.double() / n)


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
