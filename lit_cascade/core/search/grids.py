"""Cascades of three or more models at a grid of thresholds.

Thresholds divide the samples into cells. For each beginning, all stages but the last, one gather
and one sum over cells serve all last models at once; sums over rectangles of cells then give every
combination of thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lit_cascade.core.search.pairs import (
    Cuts,
    Progress,
    block_sums,
    by_beginning,
    pair_sums,
    zoo_cuts,
)
from lit_cascade.core.search.points import ParetoArchive
from lit_cascade.core.search.zoo import Zoo


def add_grids(
    zoo: Zoo,
    archive: ParetoArchive,
    cascades: Iterable[tuple[int, ...]],
    *,
    levels: Sequence[int],
    progress: Progress | None = None,
) -> dict[tuple[int, ...], float]:
    """Archive the cascades of some models that are on the front.

    Args:
        zoo: models in order of cost.
        archive: takes the points.
        cascades: rising model numbers, one more than there are levels.
        levels: thresholds of each deferring stage, as for `cuts_of`; a stage with one only votes.
        progress: called with the number of beginnings done.

    Returns:
        For each cascade the least ratio of its cost to the archived one at its accuracy.
    """
    groups = by_beginning(cascades)

    @lru_cache(maxsize=len(zoo) + len(levels))
    def divided(earlier: tuple[int, ...], model: int, count: int) -> tuple[Cuts, Tensor, Tensor]:
        cut = zoo_cuts(zoo, model, count, earlier)
        block = torch.searchsorted(cut.at, torch.arange(zoo.n), right=True) - 1
        number = torch.empty_like(block).scatter_(0, cut.order, block)
        return cut, number, order_of(number, len(cut.at))

    ratios: dict[tuple[int, ...], float] = {}
    for done, (beginning, lasts) in enumerate(groups.items(), start=1):
        stages = [
            divided(beginning[:k] if zoo.answers is not None else (), model, count)
            for k, (model, count) in enumerate(zip(beginning, levels, strict=True))
        ]
        cuts = [cut for cut, _, _ in stages]
        shape = tuple(len(cut.at) - 1 for cut in cuts)
        _, cell, order = stages[-1]
        stride = shape[-1]
        for (_, number, _), size in zip(stages[-2::-1], shape[-2::-1], strict=True):
            if size > 1:
                order = order[order_of(number[order], size)]
            cell, stride = cell + number * stride, stride * size
        correct, cost = _grid(zoo, beginning, lasts, cell, order, shape)
        ratio = _offer(archive, correct, cost, beginning, lasts, cuts)
        ratios |= {(*beginning, last): r for last, r in zip(lasts, ratio.tolist(), strict=True)}
        if progress is not None:
            progress(done, len(groups))
    return ratios


def order_of(numbers: Tensor, count: int) -> Tensor:
    """Return the order of whole numbers from 0 to below a count, (N,) int64; ties in place."""
    # numpy sorts two bytes in a tenth of the time of eight
    kind = np.int16 if count <= np.iinfo(np.int16).max else np.int64
    return torch.from_numpy(numbers.numpy().astype(kind).argsort(kind="stable"))


def _grid(
    zoo: Zoo,
    beginning: tuple[int, ...],
    lasts: list[int],
    cell: Tensor,
    order: Tensor,
    shape: tuple[int, ...],
) -> tuple[Tensor, Tensor]:
    """Evaluate the J cascades with the same D deferring stages, at A x B x ... thresholds.

    Args:
        zoo: models in order of cost.
        beginning: the deferring stages.
        lasts: the last models.
        cell: number of each sample's cell, row by row, (N,) int64.
        order: samples by cell, (N,) int64.
        shape: A, B, ...

    Returns:
        Numbers of correct answers, (A, B, ..., J) int32, and mean costs per sample, float64.
    """
    counts = torch.bincount(cell, minlength=math.prod(shape))
    starts = counts.cumsum(0) - counts
    deferring = len(beginning)

    def deferred(table: Tensor) -> Tensor:
        return _rectangles(block_sums(table.contiguous(), order, starts).view(*shape, -1), shape)

    def reaching(sums: Tensor, k: int) -> Tensor:
        """Sums over the samples that reach stage k."""
        return sums[(slice(1, None),) * k + (slice(-1, None),) * (deferring - k)]

    answers = [zoo.correct_after(beginning[:k], [one]) for k, one in enumerate(beginning)]
    answers.append(zoo.correct_after(beginning, lasts))
    right = deferred(torch.cat(answers).t().half())
    correct = reaching(right, deferring)[..., deferring:]
    for k in range(deferring):  # what stage k keeps of what reaches it
        own = right[..., k : k + 1]
        correct = correct + (reaching(own, k) - reaching(own, k + 1))

    later = [*beginning[1:], *lasts]
    if zoo.constant:
        share = _rectangles(counts.view(*shape, 1), shape).double() / zoo.n
        spent = share * zoo.costs[later, 0]
    else:
        spent = deferred(zoo.costs[later].t()) / zoo.n
    cost = zoo.mean_cost[beginning[0]]
    for k in range(1, deferring):
        cost = cost + reaching(spent[..., k - 1 : k], k)
    return correct, cost + reaching(spent[..., deferring - 1 :], deferring)


def _rectangles(cells: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum all cells before one in each dimension, (A + 1, B + 1, ..., J) from (A, B, ..., J)."""
    sums = torch.zeros(*(size + 1 for size in shape), cells.shape[-1], dtype=cells.dtype)
    inner = (slice(1, None),) * len(shape)
    for dimension in range(len(shape)):
        cells = cells.cumsum(dim=dimension, dtype=cells.dtype)
    sums[inner] = cells
    return sums


def _offer(
    archive: ParetoArchive,
    correct: Tensor,
    cost: Tensor,
    beginning: tuple[int, ...],
    lasts: Sequence[int],
    cuts: Sequence[Cuts],
) -> Tensor:
    *shape, depth = correct.shape

    def describe(rows: Tensor) -> tuple[Tensor, Tensor]:
        firsts = torch.tensor(beginning).expand(len(rows), -1)
        stages = torch.cat([firsts, torch.tensor(lasts)[rows % depth, None]], dim=1)
        numbers = torch.unravel_index(rows // depth, shape)
        limits = [cut.thresholds[1 + number] for cut, number in zip(cuts, numbers, strict=True)]
        none = torch.full_like(limits[0], -torch.inf)
        return stages, torch.stack([*limits, *[none] * len(cuts)], dim=1)

    return archive.offer(correct.reshape(-1, depth), cost.reshape(-1, depth), describe)


def nearest_in_pairs(zoo: Zoo, archive: ParetoArchive, count: int, levels: int) -> list[int]:
    """Choose the models nearest to a front, alone and in pairs, from which to make cascades.

    The distance of a model in pairs is the least ratio of the cost of a pair with it to the front's
    cost at the pair's accuracy; alone, the ratio of its own cost to that of the single models'
    front. The former is multiplied by the fourth root of the latter: of models that are about as
    near in pairs, those that are useful alone make the better triples.

    Args:
        zoo: models in order of cost.
        archive: the front of singles and pairs.
        count: number of models to keep.
        levels: thresholds per pair.

    Returns:
        Model numbers, rising.
    """
    if len(zoo) <= count:
        return list(range(len(zoo)))
    points = (zoo.right.int()[None], zoo.mean_cost[None])
    _, alone = ParetoArchive.of_singles(zoo).compare(*points)
    _, distance = archive.compare(*points)
    for sums in pair_sums(zoo, levels):
        _, ratio = archive.compare(sums.correct[1:], sums.cost[1:])
        distance[sums.first] = torch.minimum(distance[sums.first], ratio.min())
        distance[sums.seconds] = torch.minimum(distance[sums.seconds], ratio)
    distance = distance * alone**0.25
    return sorted(distance.sort(stable=True).indices[:count].tolist())


def nearest_in_cascades(ratios: Mapping[tuple[int, ...], float], count: int) -> list[int]:
    """Choose the models of the cascades nearest to a front.

    Args:
        ratios: for each cascade the least ratio of its cost to the front's at its accuracy.
        count: number of models to keep, those of the nearest cascades.

    Returns:
        Model numbers, rising.

    Examples:
        >>> nearest_in_cascades({(0, 1, 2): 1.5, (0, 1, 3): 1.1}, 3)
        [0, 1, 3]
    """
    distance: dict[int, float] = {}
    for cascade, ratio in ratios.items():
        for model in cascade:
            distance[model] = min(ratio, distance.get(model, math.inf))
    return sorted(sorted(distance, key=lambda model: (distance[model], model))[:count])
