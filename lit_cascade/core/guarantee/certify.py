"""Which policies keep a promise: learn, then test (Angelopoulos et al., arXiv:2110.01052).

Policies are tested in an order that no label decides, from the safest on, each at the full level
1 - confidence, and the first one without enough evidence ends the test. Of those before it, all
keep their promise with the probability `confidence`, over the draw of the samples: an error needs
the first policy of the order that breaks the promise to pass its own test. So many thresholds cost
no more than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lit_cascade.core.guarantee.bounds import binomial_p_value, bounded_p_value, paired_p_value
from lit_cascade.core.guarantee.candidates import Path
from lit_cascade.core.guarantee.promise import Promise

__all__ = ["certified", "samples_needed"]

_MOST = 1000


def certified(path: Path, promise: Promise) -> int:
    """How many policies of a path, from its beginning, keep the promise with its confidence.

    Without a confidence it is how many do so on the samples at hand, at the beginning.
    """
    if promise.confidence is None:
        return _leading(len(path), lambda a, b: bool(promise.keeps(path.value[a:b]).all()))
    return _tested(path, promise, 1.0)


def _tested(path: Path, promise: Promise, times: float) -> int:
    """How many would be certified by so many times the samples, if these showed the truth."""
    delta = 1 - (promise.confidence or 0.0)
    n = round(times * len(path.behaviour))
    if path.lost is None or path.won is None:
        return _leading(len(path), _cost_test(path, promise, delta, times))
    lost, won = ((times * part).round().long() for part in (path.lost, path.won))
    paired = promise.target == "accuracy_drop"
    limit = 1 - promise.limit if promise.target == "accuracy" else promise.limit

    def passes(start: int, end: int) -> bool:
        # the p-value grows with the lost and falls with the won: the worst of both is none of them
        worst, best = int(lost[start:end].max()), int(won[start:end].min())
        if paired:
            return paired_p_value(worst, best, n, limit) <= delta
        return binomial_p_value(worst, n, limit) <= delta

    return _leading(len(path), passes)


def _cost_test(
    path: Path, promise: Promise, delta: float, times: float
) -> Callable[[int, int], bool]:
    behaviour, ratio = path.behaviour, promise.target == "cost_ratio"
    last = behaviour.costs[:, -1].double()
    dearest, cheapest = behaviour.costs.double().sum(dim=1), behaviour.costs[:, 0].double()
    less = promise.limit * last if ratio else torch.zeros_like(last)
    low, high = float((cheapest - less).min()), float((dearest - less).max())
    limit = 0.0 if ratio else promise.limit

    def passes(start: int, end: int) -> bool:
        # the dearest of them stands for all: with one threshold it is so for every sample
        at = start + int(path.cost[start:end].argmax())
        values = behaviour.spent(path.thresholds[at]) - less
        kinds = values.unique()
        if len(kinds) <= 2 and low < limit < high and float(kinds[0]) == low:
            above = round(times * int((values > low).sum()))
            share = (limit - low) / (high - low)
            return binomial_p_value(above, round(times * len(values)), share) <= delta
        return bounded_p_value(values, low, high, limit, times) <= delta

    return passes


def _leading(count: int, passes: Callable[[int, int], bool]) -> int:
    """How many of `count` pass before the first that does not, with few questions about ranges."""

    def among(start: int, end: int) -> int:
        if start == end or passes(start, end):
            return end - start
        if end - start == 1:
            return 0
        middle = (start + end) // 2
        first = among(start, middle)
        return first if first < middle - start else first + among(middle, end)

    return among(0, count)


def samples_needed(path: Path, promise: Promise, useful: Tensor) -> int | None:
    """About how many samples would certify a useful policy, if these showed the truth.

    Args:
        path: none of whose useful policies is certified.
        promise: that was to be kept.
        useful: which policies are worth having, (M,) bool.

    Returns:
        Their number; None if a thousand times as many would not do.
    """

    def enough(times: float) -> bool:
        return bool(useful[: _tested(path, promise, times)].any())

    n, high = len(path.behaviour), 1.25
    while not enough(high):
        high *= 1.25
        if high > _MOST:
            return None
    low = high / 1.25
    for _ in range(4):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return math.ceil(n * high)
