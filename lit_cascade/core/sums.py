"""Sums over what a threshold defers, for many thresholds and many models at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

__all__ = ["Cuts", "block_sums", "cuts_at", "cuts_of", "cuts_of_each", "running_sums"]

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
