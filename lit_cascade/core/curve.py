"""The exact accuracy and cost of a cascade at every threshold, and operating points on that curve.

Accuracy and cost change only where the threshold passes the score of a sample, so one sort of the
scores gives the whole curve and no interpolation is needed. An operating point chosen here is an
empirical choice: it describes the samples that it was chosen on. `lit_cascade.core.guarantee`
chooses thresholds that hold on new samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lit_cascade.core.metrics import Answers
from lit_cascade.errors import CascadeError
from lit_cascade.utilities.drawing import BLUE, along_cost, axes_of, mark, quiet
from lit_cascade.utilities.tabular import Tabular, described, html_of, listed, spanned
from lit_cascade.utilities.units import (
    cost_figure,
    cost_heading,
    counted,
    metric_axis,
    metric_figure,
    metric_label,
    percent,
    times,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Curve(Tabular):
    """Accuracy and cost of a cascade at each distinct threshold; all tensors are float64.

    Row 0 has threshold -inf, where the first stage answers everything. The last row has threshold
    +inf, where every sample passes through every stage.

    Attributes:
        thresholds: strictly increasing, (M,).
        reached: fraction of samples that reach each stage but the first, (M, K - 1).
        accuracy: fraction of correct answers, (M,).
        cost: mean cost per sample, in the unit of the given costs, (M,).
        stage_accuracy: accuracy of each stage alone, (K,).
        stage_cost: mean cost per sample of each stage alone, (K,).
        least_score: smallest score; a threshold up to it defers nothing.
        n: number of samples.
        metric: name of a second metric in `lit_cascade.core.metrics.METRICS`, or None.
        by_metric: second metric of the cascade, (M,), or None.
        stage_by_metric: second metric of each stage alone, (K,), or None.
        unit: of the costs.
        names: of the stages; empty if they are unknown.
    """

    thresholds: Tensor
    reached: Tensor
    accuracy: Tensor
    cost: Tensor
    stage_accuracy: Tensor
    stage_cost: Tensor
    least_score: float
    n: int
    metric: str | None = None
    by_metric: Tensor | None = None
    stage_by_metric: Tensor | None = None
    unit: str = "cost"
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.thresholds)

    @property
    def deferral_rate(self) -> Tensor:
        """Fraction of samples that the first stage defers, (M,)."""
        return self.reached[:, 0]

    def judged_by(self, metric: str) -> tuple[Tensor, Tensor]:
        """Return a metric of the cascade at each threshold, (M,), and of each stage alone, (K,).

        Args:
            metric: `accuracy`, or the second metric of the curve.

        Raises:
            CascadeError: the curve has no such metric.
        """
        if metric == "accuracy":
            return self.accuracy, self.stage_accuracy
        if metric != self.metric or self.by_metric is None or self.stage_by_metric is None:
            known = "accuracy" if self.metric is None else f"accuracy and {self.metric}"
            raise CascadeError(f"the curve was made without {metric}: it has {known}.")
        return self.by_metric, self.stage_by_metric

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per distinct threshold, as in `curve.csv`.

        `threshold, deferral_rate, accuracy`, the second metric if there is one, and the cost with
        its ratio to that of the last stage alone, named after the unit: `flops, flops_ratio`. With
        three stages or more `reach_last` follows the deferral rate, which is of the first stage. In
        the first row (threshold -inf) the first stage answers everything; in the last one (inf)
        every sample is deferred to the last stage.
        """
        columns = {"threshold": self.thresholds, "deferral_rate": self.deferral_rate}
        if self.reached.shape[1] > 1:
            columns["reach_last"] = self.reached[:, -1]
        for metric in self._metrics:
            columns[metric] = self.judged_by(metric)[0]
        ratio = self.cost / self.stage_cost[-1]
        columns |= {self.unit: self.cost, f"{self.unit}_ratio": ratio}
        return {name: column.tolist() for name, column in columns.items()}

    def plot(
        self,
        ax: Axes | None = None,
        *,
        by: str = "accuracy",
        stages: bool = True,
        **style: Any,
    ) -> Axes:
        """Draw accuracy against cost, and each stage alone as a dot.

        Args:
            ax: axes to draw on; by default those of a new figure.
            by: `accuracy`, or the second metric of the curve.
            stages: whether to draw the stages.
            style: of the line, such as `label` and `color`, as for matplotlib's `Axes.plot`.

        Returns:
            The axes.

        Raises:
            CascadeError: the curve has no such metric.
        """
        reached, alone = self.judged_by(by)
        axes, cost = axes_of(ax), self.cost.tolist()
        # between two points there is no cascade, so the curve is a step
        look: dict[str, Any] = {
            "drawstyle": "steps-post",
            "color": BLUE,
            "linewidth": 1.8,
            "zorder": 3,
        }
        axes.plot(cost, (100 * reached).tolist(), **(look | style))
        if stages:
            points = zip(self.stage_cost.tolist(), (100 * alone).tolist(), strict=True)
            for name, point in zip(self._stage_names, points, strict=True):
                mark(axes, name, point)
        along_cost(axes, self.unit, log=min(cost) > 0)
        axes.set_ylabel(metric_axis(by))
        quiet(axes, "both")
        axes.margins(x=0.08, y=0.1)
        return axes

    @property
    def _metrics(self) -> tuple[str, ...]:
        return ("accuracy",) if self.metric is None else ("accuracy", self.metric)

    @property
    def _stage_names(self) -> tuple[str, ...]:
        return self.names or tuple(f"stage{k}" for k in range(len(self.stage_cost)))

    def __repr__(self) -> str:
        reached = []
        for metric in self._metrics:
            values, _ = self.judged_by(metric)
            ends = (metric_figure(metric, float(end)) for end in (values.min(), values.max()))
            reached.append(f"{metric_label(metric)} {spanned(*ends)}")
        costs = spanned(*(cost_figure(float(self.cost[end]), self.unit) for end in (0, -1)))
        return described(
            "Curve",
            listed(self._stage_names, " → "),
            counted(self.n, "sample"),
            counted(len(self), "threshold"),
            *reached,
            f"{cost_heading(self.unit)} {costs}",
        )

    def _repr_html_(self) -> str:
        return html_of(repr(self), operating_points(self).to_pandas())


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


class ScoreOrder(NamedTuple):
    """Positions in order of increasing score, in groups of equal scores.

    Attributes:
        order: positions in the scores, (E,) int64; the order within a group is that of the scores.
        ends: index into `order` of the last member of each group, (M,) int64.
        values: score of each group, strictly increasing, (M,).
    """

    order: Tensor
    ends: Tensor
    values: Tensor

    @classmethod
    def of(cls, scores: Tensor) -> ScoreOrder:
        """Sort scores (E,)."""
        ordered, order = scores.sort(stable=True)
        values, counts = torch.unique_consecutive(ordered, return_counts=True)
        return cls(order, counts.cumsum(0) - 1, values)

    def sums(self, values: Tensor) -> Tensor:
        """Sum values over the first 0, 1, ..., M groups.

        Args:
            values: a value for each score, (..., E).

        Returns:
            (..., M + 1).

        Examples:
            >>> ScoreOrder.of(torch.tensor([0.5, 0.2, 0.5])).sums(torch.tensor([1, 10, 100]))
            tensor([  0,  10, 111])
        """
        # gather: an index of the last dimension alone takes five times as long
        sums = values.gather(-1, self.order.expand(*values.shape[:-1], -1)).cumsum(-1)
        if len(self.ends) < len(self.order):
            sums = sums.gather(-1, self.ends.expand(*values.shape[:-1], -1))
        return torch.cat([sums.new_zeros(*sums.shape[:-1], 1), sums], dim=-1)


def departures(scores: Tensor) -> ScoreOrder:
    """Order in which samples leave stages while one shared threshold rises.

    A sample leaves stage k once the threshold exceeds its largest score up to k; where that is +inf
    it never does.

    Args:
        scores: scores of the deferring stages, (N, K - 1).

    Returns:
        The order of positions in the flattened scores.
    """
    order, ends, values = ScoreOrder.of(scores.double().cummax(dim=1).values.flatten())
    count = int((values < math.inf).sum())
    size = int(ends[count - 1]) + 1 if count else 0
    return ScoreOrder(order[:size], ends[:count], values[:count])


def sweep(
    scores: Tensor,
    correct: Tensor,
    costs: Tensor,
    alone: Tensor | None = None,
    answers: Answers | None = None,
) -> Curve:
    """Compute the exact accuracy and cost at each distinct threshold.

    For K = 2 stages these are all cascades there are. For K > 2, one threshold is shared by all
    deferring stages.

    Args:
        scores: scores of the deferring stages, (N, K - 1), or (N,) for two stages. A stage answers
            a score of +inf at every threshold; scores below a floor are set to it.
        correct: whether the cascade is right if it stops after each stage, (N, K) bool.
        costs: cost of each stage, (N, K).
        alone: whether each stage alone is right, (N, K) bool; by default `correct`.
        answers: answers and labels, for a metric besides accuracy.

    Raises:
        CascadeError: fewer than two stages, no samples, NaN scores, or shapes that do not fit.

    Examples:
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
    leave = departures(scores)
    # each deferring stage is left for the next one
    onward = torch.eye(scores.shape[1], dtype=torch.int64, device=scores.device)

    def mean(start: Tensor, change: Tensor) -> Tensor:
        return (start + leave.sums(change.flatten())).double() / n

    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64, device=scores.device)
    last = ends[1:] if len(leave.values) else ends[:0]  # nothing is ever deferred: a single row
    alone = correct if alone is None else alone
    return Curve(
        thresholds=torch.cat([ends[:1], leave.values[1:], last]),
        reached=torch.stack(
            [mean(right.new_zeros(()), row.expand_as(scores)) for row in onward], dim=1
        ),
        accuracy=mean(right[:, 0].sum(), right.diff(dim=1)),
        cost=mean(costs[:, 0].sum(), costs[:, 1:]),
        stage_accuracy=alone.sum(dim=0).double() / n,
        stage_cost=costs.sum(dim=0) / n,
        least_score=float(leave.values[0]) if len(leave.values) else math.inf,
        n=n,
        metric=None if answers is None else answers.metric,
        by_metric=None if answers is None else answers.along(leave.order, leave.ends),
        stage_by_metric=None if answers is None else answers.of_stages(),
    )


@dataclass(frozen=True)
class ReferenceCurve:
    """Accuracy against cost of a reference rule that chooses the deferred samples.

    Attributes:
        cost: mean cost per sample, increasing, (M,) float64.
        accuracy: fraction of correct answers, (M,) float64.
    """

    cost: Tensor
    accuracy: Tensor


def oracle_deferral(correct: Tensor, costs: Tensor) -> ReferenceCurve:
    """Upper bound for any score of a two-stage cascade, computed from the labels.

    Defers first the samples that only the second stage gets right, cheapest first, then those
    where the stages agree in correctness, and last those that only the first stage gets right.

    Args:
        correct: whether each of the two stages is right, (N, 2) bool.
        costs: cost of the two stages, (N, 2).

    Returns:
        N + 1 points, from nothing deferred to everything deferred.

    Raises:
        CascadeError: not two stages, or shapes that do not fit.

    Examples:
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
    return ReferenceCurve(spent / n, gained.double() / n)


# Absorbs the rounding of a target such as 0.985 - 0.005 and admits no sample too few: an accuracy
# is a count over n, and two F1 differ by at least 1 / (4 n^2).
_TOLERANCE = 1e-12

# Relative rounding of a sum of costs.
_COST_TOLERANCE = 1e-9


def readable_threshold(threshold: float, below: float) -> str:
    """The shortest decimal that defers the same samples as `threshold`.

    Any threshold above the next smaller score and up to `threshold` does, so a person can type
    this one and get the same cascade.

    Args:
        threshold: a score.
        below: the next smaller score, or -inf.

    Examples:
        >>> readable_threshold(0.87312, below=0.86901)
        '0.87'
    """
    if not math.isfinite(threshold):
        return {math.inf: "inf", -math.inf: "-inf"}[threshold]
    for digits in range(1, 10):
        scale = 10.0**digits
        candidate = math.floor(threshold * scale) / scale
        if (
            below < torch.tensor(candidate, dtype=torch.float32).item() <= threshold
        ):  # the precision of scores
            return f"{candidate:.{digits}f}"
    return repr(threshold)


@dataclass(frozen=True)
class OperatingPoint:
    """A cascade at given thresholds, measured on N samples.

    Attributes:
        thresholds: one per deferring stage; a stage answers at this score or above.
        n: number of samples.
        accuracy: fraction of correct answers; NaN without labels.
        deferral_rate: fraction of samples that the first stage defers.
        cost: mean cost per sample.
        cost_ratio: `cost` over the cost of the last stage alone; below 1 is a saving.
        metric: second metric of the answers, or None.
        answered: fraction of samples that each stage answers.
        below: next smaller score than a threshold shared by all stages: thresholds above it and up
            to this one defer the same samples. None if unknown.
        value: value of a promised target, for points chosen to keep a promise.
    """

    thresholds: tuple[float, ...]
    n: int
    accuracy: float
    deferral_rate: float
    cost: float
    cost_ratio: float
    answered: tuple[float, ...]
    metric: float | None = None
    below: float | None = None
    value: float | None = None

    @property
    def deferral(self) -> str:
        """The share that reaches the last stage, in words: with two stages, what is deferred."""
        last = percent(self.answered[-1])
        return f"{last} deferred" if len(self.answered) == 2 else f"{last} reach the last stage"

    @property
    def threshold(self) -> float:
        """Threshold of the first stage, which is that of all stages on a curve."""
        return self.thresholds[0]

    @property
    def typed_thresholds(self) -> tuple[float, ...]:
        """The thresholds as people type them: shortest decimals that defer the same samples.

        Where `below` is unknown they are the exact ones.
        """
        if self.below is None:
            return self.thresholds
        return (float(readable_threshold(self.threshold, self.below)),) * len(self.thresholds)

    @classmethod
    def averaged(
        cls,
        thresholds: Sequence[float],
        n: int,
        reached: Tensor,
        accuracy: Tensor,
        cost: Tensor,
        last_cost: float,
        **more: float | None,
    ) -> OperatingPoint:
        """Describe a cascade by means over N samples.

        Args:
            thresholds: one per deferring stage.
            n: number of samples.
            reached: fraction of them that reaches each stage but the first, (K - 1,).
            accuracy: fraction of correct answers, a scalar.
            cost: mean cost per sample, a scalar.
            last_cost: that of the last stage alone.
            more: `metric`, `below` and `value`.
        """
        counts = [n, *(reached * n).round().long().tolist(), 0]
        return cls(
            thresholds=tuple(thresholds),
            n=n,
            accuracy=float(accuracy),
            deferral_rate=float(reached[0]),
            cost=float(cost),
            cost_ratio=float(cost) / last_cost,
            answered=tuple((here - later) / n for here, later in pairwise(counts)),
            **more,
        )

    @classmethod
    def measured(
        cls,
        thresholds: Sequence[float],
        stage: Tensor,
        correct: Tensor | None,
        costs: Tensor,
        last_cost: Tensor,
        metric: float | None = None,
    ) -> OperatingPoint:
        """Summarise a run or a replay of a cascade.

        Args:
            thresholds: one per deferring stage.
            stage: stage that answered each sample, (N,) int64.
            correct: whether its answer is right, (N,) bool; None without labels.
            costs: cost of each stage that ran, 0 for the others, (N, K).
            last_cost: cost of the last stage alone, (N,).
            metric: second metric of the answers.

        Raises:
            CascadeError: the last stage costs nothing.

        Examples:
            >>> costs = torch.tensor([[1.0, 0.0], [1.0, 10.0]])
            >>> right = torch.tensor([True, True])
            >>> point = OperatingPoint.measured([0.5], torch.tensor([0, 1]), right, costs, costs[1])
            >>> point.accuracy, point.deferral_rate, point.cost
            (1.0, 0.5, 6.0)
        """
        n, stages = costs.shape
        counts = torch.bincount(stage, minlength=stages).tolist()
        total, alone = float(costs.sum()), float(last_cost.sum())
        if not alone > 0:
            raise CascadeError("the last stage costs nothing: a cascade cannot save anything.")
        return cls(
            thresholds=tuple(thresholds),
            n=n,
            accuracy=math.nan if correct is None else int(correct.sum()) / n,
            deferral_rate=(n - counts[0]) / n,
            cost=total / n,
            cost_ratio=total / alone,
            metric=metric,
            answered=tuple(count / n for count in counts),
        )

    def figures(self, unit: str = "cost") -> list[str]:
        """Thresholds, accuracy, share of the last stage, cost and saving, in words."""
        thresholds = listed([f"{threshold:.6g}" for threshold in self.thresholds])
        unknown = math.isnan(self.accuracy)
        return [
            f"threshold{'s' if len(self.thresholds) > 1 else ''} {thresholds}",
            f"accuracy {'unknown' if unknown else percent(self.accuracy, 2)}",
            self.deferral,
            f"{cost_heading(unit)} {cost_figure(self.cost, unit)}",
            f"{times(self.cost_ratio)} than the last stage",
        ]

    def __repr__(self) -> str:
        return described("OperatingPoint", counted(self.n, "sample"), *self.figures())


class OperatingPoints(dict[str, OperatingPoint | None], Tabular):
    """Operating points of a curve by name; None where there is no such threshold.

    Args:
        points: the points.
        unit: of the costs.
        metric: name of the second metric of the points, or None.
    """

    def __init__(
        self,
        points: Mapping[str, OperatingPoint | None],
        unit: str = "cost",
        metric: str | None = None,
    ) -> None:
        super().__init__(points)
        self.unit = unit
        self.metric = metric

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per point: its name, and columns as of a curve."""
        second = {} if self.metric is None else {self.metric: "metric"}
        fields = {
            "threshold": "threshold",
            "deferral_rate": "deferral_rate",
            "accuracy": "accuracy",
            **second,
            self.unit: "cost",
            f"{self.unit}_ratio": "cost_ratio",
        }
        found = list(self.values())
        return {"point": list(self)} | {
            column: [math.nan if point is None else getattr(point, name) for point in found]
            for column, name in fields.items()
        }

    def __repr__(self) -> str:
        shown = [
            "none" if point is None else ", ".join(point.figures()[:3]) for point in self.values()
        ]
        lines = (f"{name}: {text}" for name, text in zip(self, shown, strict=True))
        return f"OperatingPoints({_NEXT_LINE.join(lines)})"


_NEXT_LINE = ";\n" + " " * len("OperatingPoints(")


def _row(curve: Curve, row: int) -> OperatingPoint:
    return OperatingPoint.averaged(
        (float(curve.thresholds[row]),) * (len(curve.stage_cost) - 1),
        curve.n,
        curve.reached[row],
        curve.accuracy[row],
        curve.cost[row],
        float(curve.stage_cost[-1]),
        metric=None if curve.by_metric is None else float(curve.by_metric[row]),
        below=float(curve.thresholds[row - 1]) if row > 1 else curve.least_score,
    )


def _least(rows: Tensor, *columns: Tensor) -> int:
    """Return the first of `rows` that is minimal in the columns, compared lexicographically."""
    for column in columns:
        rows = rows[column[rows] == column[rows].min()]
    return int(rows[0])


def cheapest(curve: Curve, least: float, by: str = "accuracy") -> OperatingPoint | None:
    """Find the cheapest threshold that reaches a metric value and costs less than the last stage.

    Ties in cost go to the better metric value, then to the lower threshold.

    Args:
        curve: the cascade.
        least: smallest acceptable value of the metric.
        by: `accuracy`, or the second metric of the curve.

    Returns:
        The operating point; None if there is none, and the last stage alone is the better choice.

    Raises:
        CascadeError: the curve has no such metric.
    """
    reached, _ = curve.judged_by(by)
    cheaper = curve.cost < curve.stage_cost[-1] * (1 - _COST_TOLERANCE)
    rows = ((reached >= least - _TOLERANCE) & cheaper).nonzero().squeeze(1)
    return _row(curve, _least(rows, curve.cost, -reached)) if len(rows) else None


def operating_points(curve: Curve, by: str = "accuracy") -> OperatingPoints:
    """Find the named operating points of a curve.

    `same_accuracy`, `drop_0.5` and `drop_1.0` are the cheapest thresholds with at least the last
    stage's accuracy less 0, 0.5 and 1 percentage points that cost less than the last stage;
    `best_accuracy` is the most accurate at any cost, the cheapest of several. By another metric,
    such as f1, the first and the last are named `same_f1` and `best_f1`, and a drop of 1.0 is 0.01
    of the metric.

    Args:
        curve: the cascade.
        by: `accuracy`, or the second metric of the curve.

    Returns:
        The operating point of each name; None where there is no such threshold.

    Raises:
        CascadeError: the curve has no such metric.
    """
    reached, of_stages = curve.judged_by(by)
    last, every_row = float(of_stages[-1]), torch.arange(len(curve))
    points = {
        f"same_{by}": cheapest(curve, last, by),
        f"best_{by}": _row(curve, _least(every_row, -reached, curve.cost)),
        "drop_0.5": cheapest(curve, last - 0.005, by),
        "drop_1.0": cheapest(curve, last - 0.010, by),
    }
    return OperatingPoints(points, curve.unit, curve.metric)
