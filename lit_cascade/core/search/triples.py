"""Cascades of three models, at a grid of two thresholds.

Two thresholds cut the samples into cells. Per pair of first models one gather and one sum over
cells answer for all third models at once; sums over rectangles of cells then give every pair of
thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lit_cascade.core.search.pairs import (
    Cuts,
    PairSums,
    Progress,
    add_singles,
    block_sums,
    cuts_of,
    pair_sums,
)
from lit_cascade.core.search.points import BestSoFar
from lit_cascade.core.search.zoo import Zoo

__all__ = ["add_triples", "nearest_to_the_front"]


def _cell(cuts: Cuts, n: int) -> Tensor:
    """The block between two cuts that each sample lies in, (N,) int64."""
    block = torch.zeros(n, dtype=torch.int64)
    places = torch.arange(n)
    block[cuts.order] = torch.searchsorted(cuts.at, places, right=True) - 1
    return block


def _rectangles(cells: Tensor) -> Tensor:
    """Sums over all cells before a row and before a column, (A + 1, B + 1, ...) of (A, B, ...)."""
    shape = (cells.shape[0] + 1, cells.shape[1] + 1, *cells.shape[2:])
    sums = torch.zeros(shape, dtype=cells.dtype)
    sums[1:, 1:] = cells.cumsum(dim=0, dtype=cells.dtype).cumsum(dim=1, dtype=cells.dtype)
    return sums


def add_triples(
    zoo: Zoo,
    best: BestSoFar,
    triples: Iterable[tuple[int, int, int]],
    *,
    levels: int,
    progress: Progress | None = None,
) -> dict[tuple[int, int, int], float]:
    """Let cascades of three models take part.

    Args:
        zoo: in order of cost; a later stage comes after an earlier one in it.
        best: takes the points that are better than all so far.
        triples: of model numbers, rising.
        levels: thresholds of each of the two deferring stages, as for `cuts_of`.
        progress: is told how many pairs of first models are done.

    Returns:
        For each triple the least ratio of its cost to the best so far at its accuracy.
    """
    by_pair: dict[tuple[int, int], list[int]] = {}
    for one, two, three in sorted(set(triples)):
        by_pair.setdefault((one, two), []).append(three)
    cuts = {model: cuts_of(zoo.scores[model], levels) for pair in by_pair for model in pair}
    cells = {model: _cell(found, zoo.n) for model, found in cuts.items()}
    ratios: dict[tuple[int, int, int], float] = {}
    for done, ((one, two), thirds) in enumerate(by_pair.items(), start=1):
        grid = _Grid(zoo, (one, two), thirds, (cuts[one], cuts[two]), (cells[one], cells[two]))
        correct, cost = grid.correct(), grid.cost()
        rows, ratio = best.compare(correct.flatten(0, 1), cost.flatten(0, 1))
        ratios |= {(one, two, three): r for three, r in zip(thirds, ratio.tolist(), strict=True)}
        if len(rows):
            best.add(correct.flatten()[rows], cost.flatten()[rows], *grid.describe(rows))
        if progress is not None:
            progress(done, len(by_pair))
    return ratios


class _Grid:
    """The cascades that begin with one pair, at all pairs of thresholds that defer something."""

    def __init__(
        self,
        zoo: Zoo,
        pair: tuple[int, int],
        thirds: Sequence[int],
        cuts: tuple[Cuts, Cuts],
        cells: tuple[Tensor, Tensor],
    ) -> None:
        self._zoo, self._pair, self._thirds, self._cuts = zoo, pair, list(thirds), cuts
        self._shape = (len(cuts[0].at) - 1, len(cuts[1].at) - 1)
        self._cell = cells[0] * self._shape[1] + cells[1]
        self._count = self._sum_cells(torch.ones(zoo.n, dtype=torch.int64))
        size = self._shape[0] * self._shape[1]
        counts = torch.bincount(self._cell, minlength=size)
        self._starts = counts.cumsum(0) - counts
        self._order = self._cell.sort(stable=True).indices

    def _sum_cells(self, values: Tensor) -> Tensor:
        size = self._shape[0] * self._shape[1]
        sums = torch.zeros(size, dtype=values.dtype).index_add_(0, self._cell, values)
        return _rectangles(sums.view(self._shape))

    def _sum_table(self, table: Tensor) -> Tensor:
        sums = block_sums(table.contiguous(), self._order, self._starts)
        return _rectangles(sums.view(*self._shape, -1))

    def correct(self) -> Tensor:
        """Numbers of correct answers, (A, B, J) int32."""
        one, two = self._pair
        own = self._zoo.correct[one].int()
        second = self._sum_cells(self._zoo.after([one], [two])[0].int())
        third = self._sum_table(self._zoo.after([one, two], self._thirds).t().half())
        first = int(own.sum()) - self._sum_cells(own)[1:, -1:]  # what stage one keeps
        answered = second[1:, -1:] - second[1:, 1:]  # what stage two keeps of the rest
        return (first + answered)[:, :, None] + third[1:, 1:]

    def cost(self) -> Tensor:
        """Mean cost per sample, (A, B, J) float64."""
        zoo, (one, two) = self._zoo, self._pair
        if zoo.constant:
            share = self._count[1:].double() / zoo.n
            second = share[:, -1:] * zoo.costs[two, 0]
            third = share[:, 1:, None] * zoo.costs[self._thirds, 0]
        else:
            second = self._sum_cells(zoo.costs[two])[1:, -1:] / zoo.n
            third = self._sum_table(zoo.costs[self._thirds].t())[1:, 1:] / zoo.n
        return (float(zoo.mean_cost[one]) + second)[:, :, None] + third

    def describe(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Stages and limits of points, by their indices into the flattened grid."""
        wide = self._shape[1] * len(self._thirds)
        a, b = 1 + rows // wide, 1 + rows % wide // len(self._thirds)
        thirds = torch.tensor(self._thirds)[rows % len(self._thirds)]
        stages = torch.stack(
            [torch.full_like(rows, self._pair[0]), torch.full_like(rows, self._pair[1]), thirds],
            dim=1,
        )
        thresholds = [self._cuts[0].thresholds[a], self._cuts[1].thresholds[b]]
        none = torch.full_like(thresholds[0], -torch.inf)
        return stages, torch.stack([*thresholds, none, none], dim=1)


def nearest_to_the_front(zoo: Zoo, best: BestSoFar, count: int, levels: int) -> list[int]:
    """The models that come nearest to a front, alone and in any pair, which triples are made of.

    A model's distance in pairs is the least ratio, over all pairs that it is in and their
    thresholds, of the pair's cost to the front's at the pair's accuracy; alone it is that of its
    own cost to the single models' front. The two are multiplied, the fourth root of the latter: of
    models that are about as near in pairs, those that are of use alone make the better triples.

    Args:
        zoo: in order of cost.
        best: the front of singles and pairs.
        count: how many to keep.
        levels: thresholds per pair.

    Returns:
        Model numbers, rising.
    """
    if len(zoo) <= count:
        return list(range(len(zoo)))
    points = (zoo.correct.sum(dim=1).int()[None], zoo.mean_cost[None])
    alone = BestSoFar(zoo.n)
    add_singles(zoo, alone)
    _, from_singles = alone.compare(*points)
    _, distance = best.compare(*points)
    sums: PairSums
    for sums in pair_sums(zoo, levels):
        _, ratio = best.compare(sums.correct[1:], sums.cost[1:])
        distance[sums.first] = torch.minimum(distance[sums.first], ratio.min())
        distance[sums.seconds] = torch.minimum(distance[sums.seconds], ratio)
    distance = distance * from_singles**0.25
    return sorted(distance.sort(stable=True).indices[:count].tolist())
