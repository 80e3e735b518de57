"""Candidate thresholds in a fixed testing order, with the loss and cost of each.

The safest candidate comes first, and the order uses no label of the samples that are tested on. One
threshold has a natural order, in which only the distinct scores matter. Combinations of several
thresholds are ordered on other samples: the Pareto front of the promised quantity against the
wanted one (Laufer-Goldshtein et al., arXiv:2210.07913).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_cascade.core import OperatingPoint, StageOutcomes, at_stage, departures, sweep
from lit_cascade.core.guarantee.promise import Promise
from lit_cascade.utilities.tabular import Tabular, described
from lit_cascade.utilities.units import counted

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Candidates(Tabular):
    """Candidate thresholds in testing order, the safest first, measured on N samples.

    Attributes:
        outcomes: of the N samples.
        promise: what is promised.
        thresholds: (M, K - 1) float64.
        cost: mean cost per sample, (M,) float64.
        reached: fraction of samples that reach each stage but the first, (M, K - 1).
        accuracy: (M,); NaN without labels.
        lost: number of samples that count against the promise, (M,); None for a cost.
        won: number of samples that count for the promise, (M,); None for a cost.
    """

    outcomes: StageOutcomes
    promise: Promise
    thresholds: Tensor
    cost: Tensor
    reached: Tensor
    accuracy: Tensor
    lost: Tensor | None
    won: Tensor | None

    def __len__(self) -> int:
        return len(self.thresholds)

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per candidate, in testing order.

        `threshold`, or `thresholds` where there are several, `deferral_rate` and then `reach_last`
        too, `accuracy`, the cost and its ratio to that of the last stage alone, named after the
        unit, and the value of the promised target.
        """
        one, unit = self.thresholds.shape[1] == 1, self.outcomes.unit
        columns = {
            "deferral_rate": self.reached[:, 0],
            **({} if one else {"reach_last": self.reached[:, -1]}),
            "accuracy": self.accuracy,
            unit: self.cost,
            f"{unit}_ratio": self.cost_ratio,
            self.promise.target: self.value,
        }
        return {
            "threshold" if one else "thresholds": self.thresholds[:, 0].tolist()
            if one
            else list(map(tuple, self.thresholds.tolist())),
            **{name: column.tolist() for name, column in columns.items()},
        }

    def __repr__(self) -> str:
        unit = self.outcomes.unit
        return described(
            "Candidates",
            f"{len(self):,} for {self.promise.text(unit)}",
            counted(len(self.outcomes), "sample"),
        )

    @property
    def value(self) -> Tensor:
        """Value of the promised target, (M,)."""
        if self.lost is None or self.won is None:
            return self.cost_ratio if self.promise.target == "cost_ratio" else self.cost
        share = (self.lost - self.won).double() / len(self.outcomes)
        return 1 - share if self.promise.target == "accuracy" else share

    @property
    def cost_ratio(self) -> Tensor:
        """Cost over that of the last stage alone, (M,)."""
        return self.cost / self.outcomes.last_cost

    @property
    def useful(self) -> Tensor:
        """Whether a candidate costs less than the last stage alone, (M,) bool."""
        return self.cost < self.outcomes.last_cost * (1 - _ROUNDING)

    def point(self, row: int) -> OperatingPoint:
        """Return the operating point of a candidate."""
        thresholds, below = tuple(self.thresholds[row].tolist()), None
        if len(thresholds) == 1:
            scores = self.outcomes.scores[:, 0].double()
            lower = scores[scores < thresholds[0]]
            below = float(lower.max()) if len(lower) else -math.inf
        return OperatingPoint.averaged(
            thresholds,
            len(self.outcomes),
            self.reached[row],
            self.accuracy[row],
            self.cost[row],
            self.outcomes.last_cost,
            below=below,
            value=float(self.value[row]),
        )


def shared_candidates(outcomes: StageOutcomes, promise: Promise) -> Candidates:
    """All distinct thresholds, shared by the deferring stages, from the safe end on.

    The safe end is where everything is deferred, or nothing where the promise limits a cost.

    Raises:
        CascadeError: as for `sweep`, or labels or answers that the target needs are unknown.
    """
    deferring, correct = outcomes.scores.shape[1], outcomes.correct
    known = torch.zeros_like(outcomes.costs, dtype=torch.bool) if correct is None else correct
    curve = sweep(outcomes.scores, known, outcomes.costs)
    order = torch.arange(len(curve))
    order = order if promise.of_cost else order.flip(0)
    lost = won = None
    if promise.counted:
        leave = departures(outcomes.scores)
        lost, won = (
            (flags[:, 0].sum() + leave.sums(flags.long().diff(dim=1).flatten()))[order]
            for flags in outcomes.losses(promise.target)
        )
    return Candidates(
        outcomes,
        promise,
        thresholds=curve.thresholds[order, None].expand(-1, deferring),
        cost=curve.cost[order],
        reached=curve.reached[order],
        accuracy=curve.accuracy[order] * (math.nan if correct is None else 1),
        lost=lost,
        won=won,
    )


def candidates_of(outcomes: StageOutcomes, promise: Promise, thresholds: Tensor) -> Candidates:
    """Measure given thresholds one by one.

    Args:
        outcomes: of the samples to test on.
        promise: what is promised.
        thresholds: (M, K - 1), the safest first, chosen on other samples.

    Raises:
        CascadeError: labels or answers that the target needs are unknown.
    """
    n, correct = len(outcomes), outcomes.correct
    columns = [outcomes.costs.double().cumsum(dim=1)]
    columns += outcomes.losses(promise.target) if promise.counted else ()
    columns += [] if correct is None else [correct]
    sums: list[list[Tensor]] = [[] for _ in columns]
    reached = []
    later = torch.arange(1, outcomes.costs.shape[1])
    for row in thresholds.tolist():  # one by one: (M, N) stages would not fit in memory
        stage = outcomes.route(row)
        reached.append((stage[:, None] >= later).double().mean(dim=0))
        for parts, column in zip(sums, columns, strict=True):
            parts.append(at_stage(column, stage).sum())
    cost, *others = map(torch.stack, sums)
    lost, won = others[:2] if promise.counted else (None, None)
    return Candidates(
        outcomes,
        promise,
        thresholds=thresholds,
        cost=cost / n,
        reached=torch.stack(reached),
        accuracy=cost * math.nan if correct is None else others[-1].double() / n,
        lost=lost,
        won=won,
    )


_COMBINATIONS = 2**16

# Standard errors that are added to a loss when combinations are ordered.
_SPREADS = 3.0


def _levels(scores: Tensor, most: int) -> Tensor:
    """Return at most `most` increasing thresholds, distinct scores (N,) and both infinities."""
    distinct = scores.double().unique()
    if len(distinct) > most - 2:
        distinct = distinct[torch.linspace(0, len(distinct) - 1, most - 2).round().long()]
    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    levels: Tensor = torch.cat([ends[:1], distinct[distinct.isfinite()], ends[1:]]).unique()
    return levels


class _Grid:
    """All combinations of a few thresholds per deferring stage.

    Args:
        scores: scores of the deferring stages, (N, K - 1).
    """

    def __init__(self, scores: Tensor) -> None:
        deferring = scores.shape[1]
        most = max(4, int(_COMBINATIONS ** (1 / deferring)))
        columns = scores.double().unbind(dim=1)
        self.levels = [_levels(column, most) for column in columns]
        # index of the first level that defers a sample
        self._cells = [
            torch.searchsorted(levels, column.contiguous(), right=True)
            for levels, column in zip(self.levels, columns, strict=True)
        ]

    def mean(self, values: Tensor) -> Tensor:
        """Average, for each combination, the value of the stage that answers.

        Args:
            values: value of each stage on each sample, (N, K).

        Returns:
            float64 with one dimension per deferring stage.
        """
        n, stages = values.shape
        shape = [len(levels) for levels in self.levels]
        total = torch.zeros(shape, dtype=torch.float64)
        for k in range(stages):
            sizes = [levels + 1 for levels in shape[: k + 1]]  # the last stage has no threshold
            cell = torch.zeros(n, dtype=torch.int64)
            for size, cells in zip(sizes, self._cells, strict=False):
                cell = cell * size + cells
            sums = torch.zeros(math.prod(sizes), dtype=torch.float64)
            sums = sums.index_add_(0, cell, values[:, k].double()).view(sizes)
            for stage, size in enumerate(sizes):
                deferred = sums.cumsum(dim=stage)
                if stage == k:
                    deferred = deferred.narrow(stage, size - 1, 1) - deferred
                sums = deferred.narrow(stage, 0, size - 1)
            total += sums.view(*sums.shape, *[1] * (len(shape) - len(sizes)))
        return total / n

    def thresholds(self, flat: Tensor) -> Tensor:
        """Return the thresholds (M, K - 1) of combinations, given by flat index (M,)."""
        where = torch.unravel_index(flat, [len(levels) for levels in self.levels])
        chosen = zip(self.levels, where, strict=True)
        return torch.stack([levels[index] for levels, index in chosen], dim=1)


def joint_thresholds(outcomes: StageOutcomes, promise: Promise) -> Tensor:
    """Pareto-optimal combinations of thresholds, the safest first.

    No combination is worse than another in both the promised and the wanted quantity. The wanted
    one is cost, or accuracy where the promise limits a cost.

    Args:
        outcomes: of samples that the promise is not tested on.
        promise: what is promised.

    Returns:
        Thresholds (M, K - 1) float64.

    Raises:
        CascadeError: labels or answers that the target needs are unknown.
    """
    grid = _Grid(outcomes.scores)
    cost = grid.mean(outcomes.costs.double().cumsum(dim=1))
    if promise.of_cost:
        risk = cost
        if promise.target == "deferral_rate":
            risk = grid.mean(outcomes.losses(promise.target)[0])
        wanted = cost if outcomes.correct is None else -grid.mean(outcomes.correct)
    else:
        lost, won = (grid.mean(part) for part in outcomes.losses(promise.target))
        # the p-value depends on the difference and its spread
        risk = lost - won + _SPREADS * ((lost + won) / len(outcomes)).sqrt()
        wanted = cost
    risk, wanted = risk.flatten(), wanted.flatten()
    order = wanted.sort(stable=True).indices
    order = order[risk[order].sort(stable=True).indices]  # by risk, ties by the wanted quantity
    before = torch.cat([torch.tensor([math.inf]).double(), wanted[order].cummin(0).values[:-1]])
    return grid.thresholds(order[wanted[order] < before - 1e-12])
