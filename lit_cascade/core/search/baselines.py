"""Simpler ways to make cascades that a search should beat, and a bound that none can."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lit_cascade.core.search.front import Band, Front, average_compute_reduction
from lit_cascade.core.search.pairs import PairSums, add_pairs, pair_sums
from lit_cascade.core.search.points import CascadeFront, ParetoArchive
from lit_cascade.core.search.zoo import Zoo

_SHARES = 100
_SHARED = 50


def neighbour_pairs(zoo: Zoo, levels: int) -> CascadeFront:
    """Return the front of single models and of pairs of neighbours on the single models' front.

    Args:
        zoo: models in order of cost.
        levels: thresholds per pair.
    """
    archive = ParetoArchive.of_singles(zoo)
    _, models = zoo.singles()
    add_pairs(zoo, archive, levels=levels, pairs=itertools.pairwise(models))
    return archive.front()


def shared_threshold(zoo: Zoo, band: Band) -> tuple[CascadeFront, float]:
    """Return the front of single models and of all pairs under the best shared threshold.

    Args:
        zoo: models in order of cost.
        band: the threshold maximises the average compute reduction in it, as far as the single
            models reach into it.

    Returns:
        The front and the threshold.
    """
    values = zoo.scores.flatten()
    some = torch.linspace(0, len(values) - 1, _SHARED, dtype=torch.float64).long().numpy()
    shared = torch.from_numpy(np.partition(values.numpy(), some)[some])
    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    thresholds = torch.cat([ends[:1], shared.double().unique(), ends[1:]])
    archives = [ParetoArchive.of_singles(zoo) for _ in thresholds[1:-1]]
    # all pairs at once: an archive takes as long for one point as for thousands
    sums = PairSums.joined(list(pair_sums(zoo, thresholds)))
    for row, archive in enumerate(archives, start=1):
        sums.offer_to(archive, row, row + 1)
    fronts = [archive.front() for archive in archives]
    singles, _ = zoo.singles()
    reached = band.within(singles)
    reductions = [average_compute_reduction(singles, front.front, reached) for front in fronts]
    best = max(range(len(fronts)), key=reductions.__getitem__)
    return fronts[best], float(thresholds[1 + best])


def random_pairs(zoo: Zoo) -> Front:
    """Return the expected front of single models and of pairs that defer at random.

    Deferring a share d of the samples, drawn at random, costs `cost_1 + d cost_2` and moves the
    accuracy by d of the way from the first model's to that of deferring everything.
    """
    cost, accuracy = zoo.mean_cost, zoo.accuracy
    share = torch.arange(1, _SHARES + 1, dtype=torch.float64)[:, None] / _SHARES
    fronts = [zoo.singles()[0]]
    for first, seconds, after in _pairs(zoo):
        everything = after.sum(dim=1).double() / zoo.n
        fronts.append(
            Front.of(
                float(cost[first]) + share * cost[seconds],
                float(accuracy[first]) + share * (everything - float(accuracy[first])),
            )
        )
    return _merged(fronts)


def oracle_pairs(zoo: Zoo) -> Front:
    """Return a bound for pairs: only samples that the second model puts right are deferred.

    If costs differ between samples, each cascade is given the cheapest ones. Of more than 100
    samples that can be put right, every hundredth is counted at the cost of one more than the
    previous count, so that no cascade in between lies beyond the bound.
    """
    right = zoo.correct.sum(dim=1)
    share = torch.arange(_SHARES + 1)[:, None]
    fronts = [zoo.singles()[0]]
    for first, seconds, after in _pairs(zoo):
        most = share * (after & ~zoo.correct[first]).sum(dim=1) // _SHARES
        least = torch.minimum(most[:-1] + 1, most[1:])
        cost = float(zoo.mean_cost[first]) + _cheapest(zoo, seconds, least) / zoo.n
        fronts.append(Front.of(cost, (int(right[first]) + most[1:]).double() / zoo.n))
    return _merged(fronts)


def _pairs(zoo: Zoo) -> Iterator[tuple[int, list[int], Tensor]]:
    """Yield each first model, its second ones, and whether these are right after it."""
    for first in range(len(zoo) - 1):
        seconds = list(range(first + 1, len(zoo)))
        yield first, seconds, zoo.correct_after([first], seconds)


def _merged(fronts: list[Front]) -> Front:
    return Front.of(
        torch.cat([front.cost for front in fronts]),
        torch.cat([front.accuracy for front in fronts]),
    )


def _cheapest(zoo: Zoo, models: list[int], count: Tensor) -> Tensor:
    """Return the cost of the `count` (S, J) cheapest samples of each of J models, (S, J)."""
    if zoo.constant:
        return count * zoo.costs[models, 0]
    sums = torch.zeros(len(models), zoo.n + 1, dtype=torch.float64)
    torch.cumsum(zoo.costs[models].sort(dim=1).values, dim=1, out=sums[:, 1:])
    return sums.t().gather(0, count)
