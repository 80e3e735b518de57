"""Cascades of two models at many thresholds, with exact counts of correct answers.

The samples are sorted by the first model's score. A threshold then defers the beginning of that
order, and the correct answers of a second model there are a running sum: one gather and one sum
over blocks serve all second models at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from lit_cascade.core.search.points import ParetoArchive
from lit_cascade.core.search.zoo import Zoo

Progress = Callable[[int, int], None]
"""Called with the number of steps done and their total."""

_EXACT_HALF = 2048  # float16 holds every integer up to here
_SHRINK_EVERY = 32


class Cuts(NamedTuple):
    """Thresholds of a model, and how many samples each defers.

    Attributes:
        order: sample numbers by rising score, (N,) int64.
        at: number of samples that each threshold defers, the first of `order`; (T,) int64, from 0
            to N.
        thresholds: (T,) float64, from -inf to +inf.
    """

    order: Tensor
    at: Tensor
    thresholds: Tensor


def cuts_of(scores: Tensor, levels: int | Tensor) -> Iterator[Cuts]:
    """Yield the thresholds of each model.

    Args:
        scores: (M, N).
        levels: every distinct threshold is used, or `levels` + 1 evenly spaced ones if there are
            more; or the thresholds of all models, (T,) float64, rising from -inf to +inf.

    Examples:
        >>> [cuts] = cuts_of(torch.tensor([[0.5, 0.2, 0.5]]), 10)
        >>> cuts.thresholds
        tensor([  -inf, 0.5000,    inf], dtype=torch.float64)
        >>> cuts.at
        tensor([0, 1, 3])
    """
    for values, order in zip(*scores.sort(dim=1), strict=True):
        yield _cuts(values, order, levels)


def zoo_cuts(zoo: Zoo, model: int, levels: int | Tensor, earlier: Sequence[int] = ()) -> Cuts:
    """Return the thresholds of a model of a zoo after earlier ones, as `cuts_of`."""
    return _cuts(*zoo.ranked(earlier, model), levels)


def _cuts(values: Tensor, order: Tensor, levels: int | Tensor) -> Cuts:
    if isinstance(levels, Tensor):
        # in the precision of the scores, as the contract compares them
        at, thresholds = torch.searchsorted(values, levels.to(values.dtype)), levels
    else:
        at, thresholds = _distinct(values, levels)
    return Cuts(order, at, thresholds)


def _distinct(values: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    n = len(values)
    starts = torch.ones(n, dtype=torch.bool)
    torch.gt(values[1:], values[:-1], out=starts[1:])
    at = torch.cat([starts.nonzero().squeeze(1), torch.tensor([n])])
    if len(at) > levels + 1:
        at = at[torch.linspace(0, len(at) - 1, levels + 1, dtype=torch.float64).round().long()]
    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    return at, torch.cat([ends[:1], values[at[1:-1]].double(), ends[1:]])


def block_sums(table: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Sum the rows of a table over consecutive blocks of an order; a block may be empty.

    Args:
        table: (N, J): float16 zeros and ones, or float64 costs.
        order: (N,) int64.
        starts: first position of each block, (B,) int64, rising from 0.

    Returns:
        Shape (B, J): int32 for a float16 table, else float64.

    Examples:
        >>> ones = torch.ones(3, 1, dtype=torch.float16)
        >>> block_sums(ones, torch.arange(3), torch.tensor([0, 2, 2])).squeeze(1)
        tensor([2, 0, 1], dtype=torch.int32)
    """
    if table.dtype != torch.float16:
        return embedding_bag(order, table, starts, mode="sum")
    n = len(order)
    if int(torch.diff(starts, append=starts.new_tensor([n])).max()) <= _EXACT_HALF:
        return embedding_bag(order, table, starts, mode="sum").int()
    # long blocks are divided, so that sums of ones are exact in float16
    fine = torch.cat([starts, torch.arange(0, n, _EXACT_HALF)]).unique()
    parts = embedding_bag(order, table, fine, mode="sum").int()
    sums = torch.zeros(len(starts), table.shape[1], dtype=parts.dtype)
    return sums.index_add_(0, torch.searchsorted(starts, fine, right=True) - 1, parts)


def running_sums(table: Tensor, order: Tensor, at: Tensor) -> Tensor:
    """Sum the rows of a table over the beginnings of an order.

    Args:
        table: as for `block_sums`.
        order: (N,) int64.
        at: number of rows in each sum, (T,) int64, rising from 0 to N.

    Returns:
        Shape (T, J), with the dtype of `block_sums`.
    """
    blocks = block_sums(table, order, at[:-1])
    sums = torch.zeros(len(at), table.shape[1], dtype=blocks.dtype)
    torch.cumsum(blocks, dim=0, dtype=blocks.dtype, out=sums[1:])
    return sums


class PairSums(NamedTuple):
    """J cascades of two models, at T thresholds.

    Attributes:
        firsts: numbers of the first models, (J,) int64.
        seconds: numbers of the second models, (J,) int64.
        thresholds: (T,) float64, from -inf to +inf.
        correct: numbers of correct answers, (T, J) int32.
        cost: mean cost per sample, (T, J) float64.
    """

    firsts: Tensor
    seconds: Tensor
    thresholds: Tensor
    correct: Tensor
    cost: Tensor

    @property
    def first(self) -> int:
        """Number of the first model, where it is one."""
        return int(self.firsts[0])

    @classmethod
    def joined(cls, parts: Sequence[PairSums]) -> PairSums:
        """Join the cascades of parts with the same thresholds."""
        columns = zip(
            *((one.firsts, one.seconds, one.correct, one.cost) for one in parts), strict=True
        )
        firsts, seconds, correct, cost = (torch.cat(column, dim=-1) for column in columns)
        return cls(firsts, seconds, parts[0].thresholds, correct, cost)

    def offer_to(
        self, archive: ParetoArchive, start: int, stop: int | None = None, floor: int = 0
    ) -> None:
        """Offer the cascades with a range of thresholds above one floor.

        Args:
            archive: takes the points.
            start: first threshold.
            stop: end of the thresholds; by default all that follow.
            floor: number of the threshold that is the floor; by default -inf.
        """
        correct, cost = self.correct[start:stop], self.cost[start:stop]
        if floor:  # the first model answers below the floor too
            correct = correct - (self.correct[floor] - self.correct[0])
            cost = cost - (self.cost[floor] - self.cost[0])

        def describe(rows: Tensor) -> tuple[Tensor, Tensor]:
            thresholds = self.thresholds[start + rows // len(self.seconds)]
            pair = rows % len(self.seconds)
            floors = torch.full_like(thresholds, float(self.thresholds[floor]))
            stages = torch.stack([self.firsts[pair], self.seconds[pair]], dim=1)
            return stages, torch.stack([thresholds, floors], dim=1)

        archive.offer(correct, cost, describe)


def by_beginning(cascades: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """Group the last stages of cascades by the stages before them, both in rising order."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for *beginning, last in sorted(set(cascades)):
        groups.setdefault(tuple(beginning), []).append(last)
    return groups


def pair_sums(
    zoo: Zoo, levels: int | Tensor, pairs: Iterable[tuple[int, int]] | None = None
) -> Iterator[PairSums]:
    """Yield correct answers and costs of cascades of two, one first model at a time.

    Args:
        zoo: models in order of cost.
        levels: thresholds per first model, as for `cuts_of`.
        pairs: (first, second) to try; by default all.
    """
    groups: dict[tuple[int, ...], list[int]] = (
        {(i,): list(range(i + 1, len(zoo))) for i in range(len(zoo) - 1)}
        if pairs is None
        else by_beginning(pairs)
    )
    shared = zoo.combine == "later" and pairs is None  # one table serves several first models
    for (first,), seconds in groups.items():
        cuts = zoo_cuts(zoo, first, levels)
        if not shared or first % _SHRINK_EVERY == 0:
            base, table = first, zoo.correct_after([first], seconds).t().half().contiguous()
        gain = running_sums(table, cuts.order, cuts.at)[:, first - base :]
        own = zoo.correct[first]
        gain = gain - running_sums(own[:, None].half(), cuts.order, cuts.at)
        if zoo.constant:
            spent = cuts.at[:, None].double() / zoo.n * zoo.costs[seconds, 0]
        else:
            costs = zoo.costs[seconds].t().contiguous()
            spent = running_sums(costs, cuts.order, cuts.at) / zoo.n
        yield PairSums(
            firsts=torch.full((len(seconds),), first),
            seconds=torch.tensor(seconds),
            thresholds=cuts.thresholds,
            correct=gain + int(zoo.right[first]),
            cost=spent + float(zoo.mean_cost[first]),
        )


def add_pairs(
    zoo: Zoo,
    archive: ParetoArchive,
    *,
    levels: int,
    window: int = 0,
    pairs: Iterable[tuple[int, int]] | None = None,
    progress: Progress | None = None,
) -> None:
    """Archive the cascades of two models that are on the front.

    Args:
        zoo: models in order of cost.
        archive: takes the points.
        levels: thresholds per first model, as for `cuts_of`.
        window: floors to try under each threshold; 0 tries none.
        pairs: (first, second) to try; by default all.
        progress: called with the number of first models done.
    """
    for done, sums in enumerate(pair_sums(zoo, levels, pairs), start=1):
        sums.offer_to(archive, 1)  # row 0 has threshold -inf: the first model alone
        if window:
            last = len(sums.thresholds) - 1
            floors = torch.linspace(0, last, min(window, last - 1) + 2).round().long().unique()
            for floor in floors[1:-1].tolist():
                sums.offer_to(archive, floor + 1, floor=floor)
        if progress is not None:
            progress(done, len(zoo) - 1)
