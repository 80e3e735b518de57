"""Policies in the order in which they are tested, and what samples say of each.

The safest policy comes first and the order reads no label. With one threshold it is that of all
numbers from one end to the other, of which only those at which something changes have to be looked
at; `core.joint` makes an order of several thresholds.

Several thresholds chosen jointly: which of all their combinations are worth a test.

The combinations have no order of their own, so one is made on other samples than those of the test:
the Pareto front of what is promised against what is wanted (Laufer-Goldshtein et al.,
arXiv:2210.07913).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.core import route, sweep
from lit_cascade.core.guarantee.promise import Promise
from lit_cascade.errors import CascadeError

__all__ = ["Behaviour", "Path", "joint_path", "path_of", "threshold_path"]


@dataclass(frozen=True)
class Behaviour:
    """What the stages of a cascade do on N samples, each drawn independently.

    Attributes:
        scores: confidence of the deferring stages, (N, K - 1).
        costs: of each stage, (N, K).
        right: whether the cascade is right if it stops after each stage, (N, K) bool; None where
            no labels are known.
        last: whether the last stage alone is right, (N,) bool; None likewise.
        agrees: whether the cascade, if it stops after each stage, answers what the last stage alone
            does, (N, K) bool; None where answers are unknown.
    """

    scores: Tensor
    costs: Tensor
    right: Tensor | None = None
    last: Tensor | None = None
    agrees: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def rows(self, rows: Tensor) -> Behaviour:
        """Some of the samples."""
        parts = (self.scores, self.costs, self.right, self.last, self.agrees)
        return Behaviour(*(part if part is None else part[rows] for part in parts))  # type: ignore[arg-type]

    def losses(self, target: str) -> tuple[Tensor, Tensor]:
        """What is lost and what is won if the cascade stops after each stage, (N, K) bool each.

        Raises:
            CascadeError: labels or answers that the target needs are unknown.
        """
        if target == "disagreement":
            if self.agrees is None:
                raise CascadeError("disagreement: it needs the logits of every stage.")
            return ~self.agrees, torch.zeros_like(self.agrees)
        if target == "deferral_rate":
            deferred = torch.ones(self.costs.shape, dtype=torch.bool)
            deferred[:, 0] = False
            return deferred, torch.zeros_like(deferred)
        if self.right is None or self.last is None:
            raise CascadeError(f"{target}: it needs labels; disagreement can be had without.")
        if target == "accuracy":
            return ~self.right, torch.zeros_like(self.right)
        last = self.last[:, None]
        return ~self.right & last, self.right & ~last

    @property
    def last_cost(self) -> float:
        """Mean cost of the last stage alone."""
        return float(self.costs[:, -1].double().mean())

    def spent(self, thresholds: Tensor) -> Tensor:
        """What each sample costs at some thresholds, (N,) float64."""
        stage = route(list(self.scores.unbind(dim=1)), thresholds.tolist())
        return self.costs.double().cumsum(dim=1).gather(1, stage[:, None]).squeeze(1)


@dataclass(frozen=True)
class Path:
    """Policies in the order in which they are tested, the safest first, and what N samples say.

    Attributes:
        thresholds: (M, K - 1) float64.
        value: of the target on the samples, (M,) float64.
        cost: mean cost per sample, (M,).
        deferral_rate: (M,).
        accuracy: (M,); NaN without labels.
        lost: number of samples that count against the promise, (M,); None for a cost.
        won: number of those that count for it, (M,); None for a cost.
        behaviour: of the samples.
    """

    thresholds: Tensor
    value: Tensor
    cost: Tensor
    deferral_rate: Tensor
    accuracy: Tensor
    lost: Tensor | None
    won: Tensor | None
    behaviour: Behaviour

    def __len__(self) -> int:
        return len(self.thresholds)


def _counted(flags: Tensor, behaviour: Behaviour) -> Tensor:
    """How many samples have a flag at each distinct threshold, rising, (M,) int64."""
    curve = sweep(behaviour.scores, flags, behaviour.costs)
    return (curve.accuracy * curve.n).round().long()


def threshold_path(behaviour: Behaviour, promise: Promise) -> Path:
    """All thresholds, of one deferring stage or shared by all, from the safe end on.

    Where quality is promised the safe end is that at which everything is deferred; where cost is,
    that at which nothing is.

    Raises:
        CascadeError: as for `sweep`, or what the target needs is unknown.
    """
    deferring = behaviour.scores.shape[1]
    right = behaviour.right
    known = torch.zeros_like(behaviour.costs, dtype=torch.bool) if right is None else right
    curve = sweep(behaviour.scores, known, behaviour.costs)
    lost = won = None
    if promise.target in {"cost", "cost_ratio"}:
        value = curve.cost / (behaviour.last_cost if promise.target == "cost_ratio" else 1.0)
    else:
        flags = behaviour.losses(promise.target)
        lost, won = _counted(flags[0], behaviour), _counted(flags[1], behaviour)
        value = _value(promise.target, lost, won, len(behaviour))
    path = Path(
        thresholds=curve.thresholds[:, None].expand(-1, deferring),
        value=value,
        cost=curve.cost,
        deferral_rate=curve.deferral_rate,
        accuracy=curve.accuracy if right is not None else curve.accuracy * math.nan,
        lost=lost,
        won=won,
        behaviour=behaviour,
    )
    return path if promise.of_cost else _reversed(path)


def _reversed(path: Path) -> Path:
    return Path(
        path.thresholds.flip(0),
        path.value.flip(0),
        path.cost.flip(0),
        path.deferral_rate.flip(0),
        path.accuracy.flip(0),
        None if path.lost is None else path.lost.flip(0),
        None if path.won is None else path.won.flip(0),
        path.behaviour,
    )


def _value(target: str, lost: Tensor, won: Tensor, n: int) -> Tensor:
    share = (lost - won).double() / n
    return 1 - share if target == "accuracy" else share


def path_of(behaviour: Behaviour, promise: Promise, thresholds: Tensor) -> Path:
    """Policies in a given order, judged one by one.

    Args:
        behaviour: of the samples to test on.
        promise: to be kept.
        thresholds: (M, K - 1), the safest policy first, chosen on other samples.
    """
    n, spent = len(behaviour), behaviour.costs.double().cumsum(dim=1)
    paired = promise.target not in {"cost", "cost_ratio"}
    flags = behaviour.losses(promise.target) if paired else None
    columns: dict[str, list[float]] = {
        name: [] for name in ("cost", "deferral_rate", "accuracy", "lost", "won")
    }
    for row in thresholds.tolist():
        stage = route(list(behaviour.scores.unbind(dim=1)), row)[:, None]
        columns["cost"].append(float(spent.gather(1, stage).sum()) / n)
        columns["deferral_rate"].append(int((stage > 0).sum()) / n)
        right = math.nan
        if behaviour.right is not None:
            right = int(behaviour.right.gather(1, stage).sum()) / n
        columns["accuracy"].append(right)
        if flags is not None:
            columns["lost"].append(int(flags[0].gather(1, stage).sum()))
            columns["won"].append(int(flags[1].gather(1, stage).sum()))
    made = {name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}
    lost, won = (made[name].long() if paired else None for name in ("lost", "won"))
    if lost is not None and won is not None:
        value = _value(promise.target, lost, won, n)
    else:
        value = made["cost"] / (behaviour.last_cost if promise.target == "cost_ratio" else 1.0)
    return Path(
        thresholds, value, made["cost"], made["deferral_rate"], made["accuracy"], lost, won,
        behaviour,
    )  # fmt: skip


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
