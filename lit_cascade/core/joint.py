"""Several thresholds chosen jointly: which of all their combinations are worth a test.

The combinations have no order of their own, so one is made on other samples than those of the test:
the Pareto front of what is promised against what is wanted (Laufer-Goldshtein et al.,
arXiv:2210.07913).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_cascade.core.paths import Behaviour
from lit_cascade.core.promise import Promise

__all__ = ["joint_path"]

_COMBINATIONS = 2**16

# How many standard errors of a loss count as a loss, when combinations are put in order.
_SPREADS = 3.0


def _levels(scores: Tensor, most: int) -> Tensor:
    """At most so many thresholds between the scores (N,), rising, with both infinities."""
    distinct = scores.double().unique()
    if len(distinct) > most - 2:
        distinct = distinct[torch.linspace(0, len(distinct) - 1, most - 2).round().long()]
    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    levels: Tensor = torch.cat([ends[:1], distinct[distinct.isfinite()], ends[1:]]).unique()
    return levels


class _Grid:
    """All combinations of some thresholds per deferring stage.

    Args:
        scores: of the deferring stages, (N, K - 1).
    """

    def __init__(self, scores: Tensor) -> None:
        deferring = scores.shape[1]
        most = max(4, int(_COMBINATIONS ** (1 / deferring)))
        columns = scores.double().unbind(dim=1)
        self.levels = [_levels(column, most) for column in columns]
        # a sample is deferred at the levels from this number on
        self._cells = [
            torch.searchsorted(levels, column.contiguous(), right=True)
            for levels, column in zip(self.levels, columns, strict=True)
        ]

    def mean(self, values: Tensor) -> Tensor:
        """The mean at every combination of what each stage adds where it answers, (N, K).

        Returns:
            float64 of one dimension per deferring stage.
        """
        n, stages = values.shape
        shape = [len(levels) for levels in self.levels]
        total = torch.zeros(shape, dtype=torch.float64)
        for k in range(stages):
            through = min(k + 1, stages - 1)  # the last stage answers whatever it is given
            total += self._where_answered(k, values[:, k].double(), through, stages - 1 == k)
        return total / n

    def _where_answered(self, k: int, values: Tensor, through: int, last: bool) -> Tensor:  # noqa: FBT001
        sizes = [len(levels) + 1 for levels in self.levels[:through]]
        cell = torch.zeros(len(values), dtype=torch.int64)
        for size, cells in zip(sizes, self._cells[:through], strict=True):
            cell = cell * size + cells
        sums = torch.zeros(math.prod(sizes), dtype=torch.float64)
        sums.index_add_(0, cell, values)
        sums = sums.view(sizes)
        for stage, size in enumerate(sizes):
            deferred = sums.cumsum(dim=stage)
            if stage == k and not last:
                deferred = deferred.narrow(stage, size - 1, 1) - deferred
            sums = deferred.narrow(stage, 0, size - 1)
        return sums.view(*sums.shape, *[1] * (len(self.levels) - through))

    def thresholds(self, flat: Tensor) -> Tensor:
        """The thresholds of combinations by their number, (M, K - 1) float64."""
        where = torch.unravel_index(flat, [len(levels) for levels in self.levels])
        chosen = zip(self.levels, where, strict=True)
        return torch.stack([levels[index] for levels, index in chosen], dim=1)


def joint_path(behaviour: Behaviour, promise: Promise) -> Tensor:
    """The combinations of thresholds that are worth a test, the safest first.

    None of them is worse than another in both what is promised and what is wanted: cost, where
    quality is promised, and accuracy, where cost is.

    Args:
        behaviour: of samples that the promise is not tested on.
        promise: to be kept.

    Returns:
        Thresholds (M, K - 1) float64.

    Raises:
        CascadeError: labels or answers that the promise needs are unknown.

    Example:
        >>> right = torch.tensor([[False, True, True], [True, True, True]])
        >>> scores = torch.tensor([[0.2, 0.5], [0.7, 0.5]])
        >>> costs = torch.tensor([[1.0, 2.0, 4.0]] * 2)
        >>> there = Behaviour(scores, costs, right, right[:, -1])
        >>> joint_path(there, Promise("accuracy_drop", 0.1)).tolist()
        [[0.699999988079071, -inf], [-inf, -inf]]
    """
    grid = _Grid(behaviour.scores)
    cost = grid.mean(behaviour.costs.double().cumsum(dim=1))
    if promise.of_cost:
        risk = cost
        if promise.target == "deferral_rate":
            risk = grid.mean(behaviour.losses(promise.target)[0])
        right = behaviour.right
        wanted = cost if right is None else -grid.mean(right)
    else:
        lost, won = (grid.mean(part) for part in behaviour.losses(promise.target))
        # what evidence is against is the difference and its spread, not the difference alone
        risk = lost - won + _SPREADS * ((lost + won) / len(behaviour)).sqrt()
        wanted = cost
    risk, wanted = risk.flatten(), wanted.flatten()
    # the safest first, and of the equally safe the best
    order = wanted.sort(stable=True).indices
    order = order[risk[order].sort(stable=True).indices]
    before = torch.cat([torch.tensor([math.inf]).double(), wanted[order].cummin(0).values[:-1]])
    return grid.thresholds(order[wanted[order] < before - 1e-12])
