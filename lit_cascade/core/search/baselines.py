"""What a search must beat, and what no search can: simpler ways to make cascades of a zoo."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from lit_cascade.core.search.front import Band, Front, average_compute_reduction, pareto
from lit_cascade.core.search.pairs import add_pairs, add_singles, pair_sums
from lit_cascade.core.search.points import BestSoFar, Cascades
from lit_cascade.core.search.zoo import Zoo

__all__ = ["neighbour_pairs", "oracle_pairs", "random_pairs", "shared_threshold"]

_SHARES = 100
_SHARED = 50


def neighbour_pairs(zoo: Zoo, levels: int) -> Cascades:
    """The front of single models and of cascades of neighbours on the single models' front.

    Args:
        zoo: in order of cost.
        levels: thresholds per pair.
    """
    best = BestSoFar(zoo.n)
    add_singles(zoo, best)
    _, models = zoo.singles()
    pairs = list(itertools.pairwise(models))
    if pairs:
        add_pairs(zoo, best, levels=levels, pairs=pairs)
    return best.front()


def shared_threshold(zoo: Zoo, band: Band) -> tuple[Cascades, float]:
    """The front of all cascades of two under one threshold for all of them, the best one.

    Args:
        zoo: in order of cost.
        band: the threshold with the greatest average compute reduction in it is taken, as far as
            the single models reach into it.

    Returns:
        The front, single models included, and the threshold.
    """
    values = zoo.scores.flatten().sort().values
    some = torch.linspace(0, len(values) - 1, _SHARED, dtype=torch.float64).long()
    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    thresholds = torch.cat([ends[:1], values[some].double().unique(), ends[1:]])
    bests = [BestSoFar(zoo.n) for _ in thresholds[1:-1]]
    for best in bests:
        add_singles(zoo, best)
    for sums in pair_sums(zoo, thresholds):
        for t, best in enumerate(bests, start=1):
            sums.add_row(best, t)
    fronts = [best.front() for best in bests]
    singles, _ = zoo.singles()
    reached = band.within(singles)
    reductions = [average_compute_reduction(singles, front.front, reached) for front in fronts]
    chosen = max(range(len(fronts)), key=reductions.__getitem__)
    return fronts[chosen], float(thresholds[1 + chosen])


def _merged(fronts: list[Front]) -> Front:
    cost = torch.cat([front.cost for front in fronts])
    accuracy = torch.cat([front.accuracy for front in fronts])
    chosen = pareto(cost, accuracy)
    return Front(cost[chosen], accuracy[chosen])


def random_pairs(zoo: Zoo) -> Front:
    """The front of single models and of cascades of two that defer by chance, in expectation.

    Deferring a share d of all samples, whichever, costs `cost_1 + d cost_2` and moves the accuracy
    by d of the way from the first model's to that of deferring everything.

    Args:
        zoo: in order of cost.
    """
    cost, accuracy = zoo.mean_cost, zoo.accuracy
    share = torch.arange(1, _SHARES + 1, dtype=torch.float64)[:, None] / _SHARES
    fronts = [zoo.singles()[0]]
    for first in range(len(zoo) - 1):
        seconds = list(range(first + 1, len(zoo)))
        after = zoo.after([first], seconds).sum(dim=1).double() / zoo.n
        points = (
            (float(cost[first]) + share * cost[seconds]).flatten(),
            (float(accuracy[first]) + share * (after - float(accuracy[first]))).flatten(),
        )
        chosen = pareto(*points)
        fronts.append(Front(points[0][chosen], points[1][chosen]))
    return _merged(fronts)


def oracle_pairs(zoo: Zoo) -> Front:
    """A bound for cascades of two: only samples are deferred that this puts right.

    Where costs differ between samples each cascade is given the cheapest ones. Of more than 100
    samples that can be put right, every hundredth is counted, at the cost of one more than the
    count before, so that no cascade in between lies beyond the bound.

    Args:
        zoo: in order of cost.
    """
    n, mean = zoo.n, zoo.mean_cost
    right = zoo.correct.sum(dim=1)
    fronts = [zoo.singles()[0]]
    for first in range(len(zoo) - 1):
        seconds = list(range(first + 1, len(zoo)))
        gains = (zoo.after([first], seconds) & ~zoo.correct[first]).sum(dim=1)
        share = torch.arange(_SHARES + 1)[:, None]
        most = share * gains // _SHARES
        least = torch.minimum(most[:-1] + 1, most[1:])
        cost = float(mean[first]) + _cheapest(zoo, seconds, least) / n
        accuracy = (int(right[first]) + most[1:]).double() / n
        chosen = pareto(cost.flatten(), accuracy.flatten())
        fronts.append(Front(cost.flatten()[chosen], accuracy.flatten()[chosen]))
    return _merged(fronts)


def _cheapest(zoo: Zoo, models: list[int], count: Tensor) -> Tensor:
    """Cost of the `count` (S, J) cheapest samples of each of J models, (S, J)."""
    if zoo.constant:
        return count * zoo.costs[models, 0]
    sums = torch.zeros(len(models), zoo.n + 1, dtype=torch.float64)
    torch.cumsum(zoo.costs[models].sort(dim=1).values, dim=1, out=sums[:, 1:])
    return sums.t().gather(0, count)
