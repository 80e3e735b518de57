"""Sums over what a threshold defers, for many thresholds and many models at once.

Every cascade of two models of a zoo, at many thresholds, exactly at those.

The samples are put in the order of the first model's score. What a threshold defers is then the
beginning of that order, and what any second model gets right there is a running sum: one gather and
one sum over blocks answer for all second models at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from lit_cascade.core.search.points import BestSoFar
from lit_cascade.core.search.zoo import Zoo

__all__ = [
    "Cuts",
    "PairSums",
    "Progress",
    "add_pairs",
    "add_singles",
    "block_sums",
    "cuts_at",
    "cuts_of",
    "cuts_of_each",
    "pair_sums",
    "running_sums",
]


_AT_ONCE = 16
_EXACT_HALF = 2048  # up to here float16 holds every integer


class Cuts(NamedTuple):
    """Where thresholds cut the samples of a model, in rising order of its score.

    Attributes:
        order: the samples in that order, (N,) int64.
        at: how many of them each threshold defers, (T,) int64, from 0 to N.
        thresholds: (T,) float64, from -inf to +inf.
    """

    order: Tensor
    at: Tensor
    thresholds: Tensor


def cuts_of(scores: Tensor, levels: int) -> Cuts:
    """The thresholds of one model: all that differ, or `levels` + 1 of them at even distances.

    Args:
        scores: (N,).
        levels: at least 1.

    Example:
        >>> cuts_of(torch.tensor([0.5, 0.2, 0.5]), 10).thresholds
        tensor([  -inf, 0.5000,    inf], dtype=torch.float64)
    """
    return next(cuts_of_each(scores[None], levels))


def cuts_of_each(scores: Tensor, levels: int) -> Iterator[Cuts]:
    """The thresholds of many models, sorted some at a time.

    Args:
        scores: (M, N).
        levels: as for `cuts_of`.
    """
    for some in scores.split(_AT_ONCE):
        ordered, orders = some.sort(dim=1)
        for values, order in zip(ordered, orders, strict=True):
            yield _cut(values, order, levels)


def _cut(values: Tensor, order: Tensor, levels: int) -> Cuts:
    n = len(values)
    starts = torch.ones(n, dtype=torch.bool)
    torch.gt(values[1:], values[:-1], out=starts[1:])
    at = torch.cat([starts.nonzero().squeeze(1), torch.tensor([n])])
    if len(at) > levels + 1:
        at = at[torch.linspace(0, len(at) - 1, levels + 1, dtype=torch.float64).round().long()]
    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    return Cuts(order, at, torch.cat([ends[:1], values[at[1:-1]].double(), ends[1:]]))


def cuts_at(scores: Tensor, thresholds: Tensor) -> Cuts:
    """Where given thresholds cut the samples of a model.

    Args:
        scores: (N,).
        thresholds: (T,) float64, rising, from -inf to +inf.

    Example:
        >>> inf = float("inf")
        >>> cuts_at(torch.tensor([0.5, 0.2]), torch.tensor([-inf, 0.5, inf])).at
        tensor([0, 1, 2])
    """
    values, order = scores.sort()
    # in the precision of the scores, as the contract compares them
    return Cuts(order, torch.searchsorted(values, thresholds.to(values.dtype)), thresholds)


def block_sums(table: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Sums over consecutive blocks of an order; a block may be empty.

    Args:
        table: (N, J): float16 zeros and ones, or float64 costs.
        order: (N,) int64.
        starts: where each block begins, (B,) int64, rising from 0.

    Returns:
        Shape (B, J): int32 of a float16 table, float64 of another.

    Example:
        >>> ones = torch.ones(3, 1, dtype=torch.float16)
        >>> block_sums(ones, torch.arange(3), torch.tensor([0, 2, 2])).squeeze(1)
        tensor([2, 0, 1], dtype=torch.int32)
    """
    if table.dtype != torch.float16:
        return embedding_bag(order, table, starts, mode="sum")
    # a long block is split: sums of ones are exact in float16 up to a point
    lengths = torch.cat([starts[1:], starts.new_tensor([len(order)])]) - starts
    long = (lengths > _EXACT_HALF).nonzero().squeeze(1).tolist()
    if not long:
        return embedding_bag(order, table, starts, mode="sum").int()
    splits = [
        (block, at)
        for block in long
        for at in range(
            int(starts[block]) + _EXACT_HALF, int(starts[block] + lengths[block]), _EXACT_HALF
        )
    ]
    owner, begins = torch.tensor(splits).t()
    fine, place = torch.cat([starts, begins]).sort(stable=True)
    sums = embedding_bag(order, table, fine, mode="sum").int()
    whole = place < len(starts)
    # equal beginnings are of empty blocks, which stay in front of the one that is split
    return sums[whole].index_add_(0, owner, sums[~whole])


def running_sums(table: Tensor, order: Tensor, at: Tensor) -> Tensor:
    """Sums over the beginnings of an order.

    Args:
        table: as for `block_sums`.
        order: (N,) int64.
        at: how many rows each sum takes, (T,) int64, rising from 0 to N.

    Returns:
        Shape (T, J), of the type that `block_sums` has.

    Example:
        >>> ones = torch.ones(3, 1, dtype=torch.float16)
        >>> running_sums(ones, torch.arange(3), torch.tensor([0, 2, 3])).squeeze(1)
        tensor([0, 2, 3], dtype=torch.int32)
    """
    blocks = block_sums(table, order, at[:-1])
    sums = torch.zeros(len(at), table.shape[1], dtype=blocks.dtype)
    torch.cumsum(blocks, dim=0, dtype=blocks.dtype, out=sums[1:])
    return sums


Progress = Callable[[int, int], None]
"""Called with how much is done, and how much there is."""

_SHRINK_EVERY = 32


class PairSums(NamedTuple):
    """The cascades of one first model with J second ones, at T thresholds.

    Attributes:
        first: number of the first model.
        seconds: numbers of the second ones, (J,) int64.
        thresholds: (T,) float64, from -inf to +inf.
        correct: numbers of correct answers, (T, J) int32.
        cost: mean cost per sample, (T, J) float64.
    """

    first: int
    seconds: Tensor
    thresholds: Tensor
    correct: Tensor
    cost: Tensor

    def add_row(self, best: BestSoFar, row: int) -> None:
        """Offer the cascades with one of the thresholds."""
        one = slice(row, row + 1)
        _offer(best, self, row, self.correct[one], self.cost[one])


def add_singles(zoo: Zoo, best: BestSoFar) -> None:
    """Let the single models take part, as cascades of one stage."""
    correct, cost = zoo.correct.sum(dim=1), zoo.mean_cost
    for model in range(len(zoo)):  # one by one: of equal ones the first stays
        one = slice(model, model + 1)
        if len(best.compare(correct[one, None].int(), cost[one, None])[0]):
            best.add(correct[one], cost[one], torch.tensor([[model]]), torch.zeros(1, 0))


def _by_first(zoo: Zoo, pairs: Iterable[tuple[int, int]] | None) -> dict[int, list[int]]:
    if pairs is None:
        return {i: list(range(i + 1, len(zoo))) for i in range(len(zoo) - 1)}
    found: dict[int, list[int]] = {}
    for first, second in sorted(set(pairs)):
        found.setdefault(first, []).append(second)
    return found


def pair_sums(
    zoo: Zoo, levels: int | Tensor, pairs: Iterable[tuple[int, int]] | None = None
) -> Iterator[PairSums]:
    """Correct answers and costs of cascades of two, one first model at a time.

    Args:
        zoo: in order of cost; the second stage comes after the first in it.
        levels: thresholds per first model, as for `cuts_of`; or the thresholds of all of them, as
            for `cuts_at`.
        pairs: (first, second) to try; by default all.
    """
    whole = zoo.correct.t().half() if zoo.combine == "later" and pairs is None else None
    base = 0  # the first model that `whole` still has a column for
    firsts = _by_first(zoo, pairs)
    scores = zoo.scores[list(firsts)]
    every_cut = (
        (cuts_at(row, levels) for row in scores)
        if isinstance(levels, Tensor)
        else cuts_of_each(scores, levels)
    )
    for (first, seconds), cuts in zip(firsts.items(), every_cut, strict=True):
        if whole is None:
            table = zoo.after([first], seconds).t().half().contiguous()
            gain = running_sums(table, cuts.order, cuts.at)
        else:
            if first + 1 - base >= _SHRINK_EVERY or base == 0:  # columns no longer needed
                whole, base = whole[:, first + 1 - base :].contiguous(), first + 1
            gain = running_sums(whole, cuts.order, cuts.at)[:, first + 1 - base :]
        own = zoo.correct[first]
        gain = gain - running_sums(own[:, None].half(), cuts.order, cuts.at)
        if zoo.constant:
            spent = cuts.at[:, None].double() / zoo.n * zoo.costs[seconds, 0]
        else:
            costs = zoo.costs[seconds].t().contiguous()
            spent = running_sums(costs, cuts.order, cuts.at) / zoo.n
        yield PairSums(
            first=first,
            seconds=torch.tensor(seconds),
            thresholds=cuts.thresholds,
            correct=gain + int(own.sum()),
            cost=spent + float(zoo.mean_cost[first]),
        )


def add_pairs(
    zoo: Zoo,
    best: BestSoFar,
    *,
    levels: int,
    window: int = 0,
    pairs: Iterable[tuple[int, int]] | None = None,
    progress: Progress | None = None,
) -> None:
    """Let cascades of two models take part.

    Args:
        zoo: in order of cost; the second stage comes after the first in it.
        best: takes the points that are better than all so far.
        levels: thresholds per first model, as for `cuts_of`.
        window: floors to try under each threshold; 0 tries none.
        pairs: (first, second) to try; by default all.
        progress: is told how many first models are done.
    """
    for done, sums in enumerate(pair_sums(zoo, levels, pairs), start=1):
        # row 0 has threshold -inf: the first model alone
        _offer(best, sums, 1, sums.correct[1:], sums.cost[1:])
        last = len(sums.thresholds) - 1
        floors = torch.linspace(0, last, min(window, last - 1) + 2).round().long().unique()
        for floor in floors[1:-1].tolist() if window else []:
            # what lies below the floor is answered by the first model after all
            _offer(
                best,
                sums,
                floor + 1,
                sums.correct[floor + 1 :] - (sums.correct[floor] - sums.correct[0]),
                sums.cost[floor + 1 :] - (sums.cost[floor] - sums.cost[0]),
                float(sums.thresholds[floor]),
            )
        if progress is not None:
            progress(done, len(zoo) - 1)


def _offer(
    best: BestSoFar,
    sums: PairSums,
    start: int,
    correct: Tensor,
    cost: Tensor,
    floor: float = -math.inf,
) -> None:
    rows, _ = best.compare(correct, cost)
    if len(rows) == 0:
        return
    thresholds = sums.thresholds[start + rows // correct.shape[1]]
    seconds = sums.seconds[rows % correct.shape[1]]
    best.add(
        correct.flatten()[rows],
        cost.flatten()[rows],
        torch.stack([torch.full_like(seconds, sums.first), seconds], dim=1),
        torch.stack([thresholds, torch.full_like(thresholds, floor)], dim=1),
    )
