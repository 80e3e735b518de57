"""Cascades of three models at a grid of two thresholds.

Two thresholds divide the samples into cells. For each pair of first models one gather and one sum
over cells serve all third models at once; sums over rectangles of cells then give every pair of
thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def add_triples(
    zoo: Zoo,
    archive: ParetoArchive,
    triples: Iterable[tuple[int, ...]],
    *,
    levels: int,
    progress: Progress | None = None,
) -> dict[tuple[int, ...], float]:
    """Archive the cascades of three models that are on the front.

    Args:
        zoo: models in order of cost.
        archive: takes the points.
        triples: rising model numbers.
        levels: thresholds of each of the two deferring stages, as for `cuts_of`.
        progress: called with the number of pairs of first models done.

    Returns:
        For each triple the least ratio of its cost to the archived one at its accuracy.
    """
    by_pair = by_beginning(triples)
    models = sorted({model for pair in by_pair for model in pair})
    cuts = dict(zip(models, zoo_cuts(zoo, models, levels), strict=True))
    cells = {}  # number of the block between two cuts that each sample lies in, (N,)
    orders = {}  # samples by these numbers; numpy sorts two bytes in a tenth of the time of eight
    for model, cut in cuts.items():
        block = torch.searchsorted(cut.at, torch.arange(zoo.n), right=True) - 1
        cells[model] = torch.empty_like(block).scatter_(0, cut.order, block)
        orders[model] = _sorted(cells[model], len(cut.at))
    ratios: dict[tuple[int, ...], float] = {}
    for done, (pair, thirds) in enumerate(by_pair.items(), start=1):
        one, two = pair
        columns = len(cuts[two].at) - 1
        shape = (len(cuts[one].at) - 1, columns)
        order = orders[two][_sorted(cells[one][orders[two]], shape[0])]
        cell = cells[one] * columns + cells[two]
        correct, cost = _grid(zoo, pair, thirds, cell, order, shape)
        ratio = _offer(archive, correct, cost, pair, thirds, (cuts[one], cuts[two]))
        ratios |= {(*pair, third): r for third, r in zip(thirds, ratio.tolist(), strict=True)}
        if progress is not None:
            progress(done, len(by_pair))
    return ratios


def _sorted(numbers: Tensor, count: int) -> Tensor:
    """Order of numbers from 0 to below a count, (N,) int64; equal ones stay in order."""
    kind = np.int16 if count <= np.iinfo(np.int16).max else np.int64
    return torch.from_numpy(numbers.numpy().astype(kind).argsort(kind="stable"))


def _grid(
    zoo: Zoo,
    pair: tuple[int, ...],
    thirds: list[int],
    cell: Tensor,
    order: Tensor,
    shape: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Evaluate the J cascades that begin with a pair, at A x B pairs of thresholds.

    Args:
        zoo: models in order of cost.
        pair: the first two models.
        thirds: the third models.
        cell: number of each sample's cell, row by row, (N,) int64.
        order: samples by cell, (N,) int64.
        shape: A and B.

    Returns:
        Numbers of correct answers, (A, B, J) int32, and mean costs per sample, float64.
    """
    one, two = pair
    counts = torch.bincount(cell, minlength=shape[0] * shape[1])
    starts = counts.cumsum(0) - counts

    def deferred(table: Tensor) -> Tensor:
        return _rectangles(block_sums(table.contiguous(), order, starts).view(*shape, -1))

    answers = [zoo.correct[[one]], zoo.correct_after([one], [two]), zoo.correct_after(pair, thirds)]
    right = deferred(torch.cat(answers).t().half())
    first = right[-1:, -1:, :1] - right[1:, -1:, :1]  # what stage one keeps
    second = right[1:, -1:, 1:2] - right[1:, 1:, 1:2]  # what stage two keeps of the rest
    correct = first + second + right[1:, 1:, 2:]

    later = [two, *thirds]
    if zoo.constant:
        share = _rectangles(counts.view(shape)).double() / zoo.n
        spent = share[:, :, None] * zoo.costs[later, 0]
    else:
        spent = deferred(zoo.costs[later].t()) / zoo.n
    cost = (float(zoo.mean_cost[one]) + spent[1:, -1:, :1]) + spent[1:, 1:, 1:]
    return correct, cost


def _rectangles(cells: Tensor) -> Tensor:
    """Sum all cells before a row and before a column, (A + 1, B + 1, ...) from (A, B, ...)."""
    shape = (cells.shape[0] + 1, cells.shape[1] + 1, *cells.shape[2:])
    sums = torch.zeros(shape, dtype=cells.dtype)
    sums[1:, 1:] = cells.cumsum(dim=0, dtype=cells.dtype).cumsum(dim=1, dtype=cells.dtype)
    return sums


def _offer(
    archive: ParetoArchive,
    correct: Tensor,
    cost: Tensor,
    pair: tuple[int, ...],
    thirds: Sequence[int],
    cuts: tuple[Cuts, Cuts],
) -> Tensor:
    _, columns, depth = correct.shape

    def describe(rows: Tensor) -> tuple[Tensor, Tensor]:
        firsts = torch.tensor(pair).expand(len(rows), -1)
        stages = torch.cat([firsts, torch.tensor(thirds)[rows % depth, None]], dim=1)
        one = cuts[0].thresholds[1 + rows // (columns * depth)]
        two = cuts[1].thresholds[1 + rows // depth % columns]
        none = torch.full_like(one, -torch.inf)
        return stages, torch.stack([one, two, none, none], dim=1)

    return archive.offer(correct.flatten(0, 1), cost.flatten(0, 1), describe)


def triple_candidates(zoo: Zoo, archive: ParetoArchive, count: int, levels: int) -> list[int]:
    """Choose the models nearest to a front, alone and in pairs, from which to make triples.

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
