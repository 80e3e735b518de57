"""Certification of candidates by learn-then-test (Angelopoulos et al., arXiv:2110.01052).

Candidates are tested in their fixed order, each at the full level 1 - confidence, until the first
one without enough evidence (fixed-sequence testing). With probability `confidence` over the draw of
the samples, all candidates before it keep the promise: an error needs the first candidate that
breaks the promise to pass its own test. So many candidates cost no more confidence than one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.special import bdtrc, ndtri
from torch import Tensor

from lit_cascade.core import StageOutcomes
from lit_cascade.core.guarantee.bounds import binomial_p_value, bounded_p_value, paired_p_value
from lit_cascade.core.guarantee.candidates import Candidates
from lit_cascade.core.guarantee.promise import Promise

_MOST = 1000
_EXACT = 200_000
"""Samples up to which the number that would do is found by the exact test."""


def certified(candidates: Candidates, times: float = 1.0) -> int:
    """Count the leading candidates that keep the promise with its confidence.

    Args:
        candidates: of a promise with a confidence.
        times: multiplicity of each sample, to estimate the result of a larger number of them.
    """
    return _leading(len(candidates), _test(candidates, times))


def _test(candidates: Candidates, times: float) -> Callable[[int, int], bool]:
    """Whether all candidates of a range pass their tests; False if that cannot be told at once."""
    promise, n = candidates.promise, round(times * len(candidates.outcomes))
    delta = 1 - (promise.confidence or 0.0)
    if candidates.lost is None or candidates.won is None:
        return _cost_test(candidates, delta, times)
    lost, won = ((times * part).round().long() for part in (candidates.lost, candidates.won))

    def passes(start: int, end: int) -> bool:
        # the p-value grows with the lost and falls with the won: this bounds all in the range
        worst, best = int(lost[start:end].max()), int(won[start:end].min())
        if promise.target == "accuracy_drop":
            return paired_p_value(worst, best, n, promise.limit) <= delta
        return binomial_p_value(worst, n, _loss_limit(promise)) <= delta

    return passes


def broken_p_value(candidates: Candidates) -> float:
    """P-value of the hypothesis that the first candidate keeps its promise; small if broken."""
    n, promise = len(candidates.outcomes), candidates.promise
    if candidates.lost is None or candidates.won is None:
        allowed, low, high, limit = _allowance(candidates.outcomes, promise)
        values = candidates.outcomes.costs_at(candidates.thresholds[0].tolist()) - allowed
        return bounded_p_value(-values, -high, -low, -limit)
    lost, won = int(candidates.lost[0]), int(candidates.won[0])
    if promise.target == "accuracy_drop":
        return paired_p_value(won, lost, n, -promise.limit)
    # probability of at least so many losses if the limit were their rate
    return 1.0 if lost == 0 else float(bdtrc(lost - 1, n, _loss_limit(promise)))


def samples_needed(candidates: Candidates) -> int | None:
    """Estimate how many samples would certify a useful candidate, if these were representative.

    The first useful candidate is certified if all up to it pass. With many samples the number that
    one of them takes is that of a normal approximation, z^2 v / g^2, where v is the variance of its
    loss and g the distance of its mean from the limit; the exact test would take seconds.

    Args:
        candidates: none of which is both useful and certified.

    Returns:
        Number of samples; None if a thousand times as many would not be enough.
    """
    useful, promise = candidates.useful.nonzero().flatten(), candidates.promise
    if len(useful) == 0:
        return None
    count, n = int(useful[0]) + 1, len(candidates.outcomes)
    if not bool(promise.keeps(candidates.value[:count]).all()):
        return None  # more such samples are stronger evidence against it
    high = 1.25
    if promise.target == "accuracy_drop":
        least = _normal_estimate(candidates, count) / n
        if least > _MOST:
            return None
        if least * n > _EXACT:
            return math.ceil(least * n)
        high = max(high, least / 2)

    def enough(times: float) -> bool:
        return _leading(count, _test(candidates, times)) == count

    while not enough(high):
        high *= 1.25
        if high > _MOST:
            return None
    low = high / 1.25
    for _ in range(4):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return math.ceil(n * high)


def _normal_estimate(candidates: Candidates, count: int) -> float:
    """Number of samples that the first candidates take by a normal approximation of their drops."""
    n, promise = len(candidates.outcomes), candidates.promise
    if candidates.lost is None or candidates.won is None:
        return math.inf
    lost, won = (part[:count].double() / n for part in (candidates.lost, candidates.won))
    gap = promise.limit - (lost - won)
    variance = lost + won - (lost - won).square()
    z = float(ndtri(promise.confidence))
    return float(torch.where(gap > 0, z * z * variance / gap.square(), math.inf).max())


def _loss_limit(promise: Promise) -> float:
    """Largest promised rate of losses."""
    return 1 - promise.limit if promise.target == "accuracy" else promise.limit


def _allowance(outcomes: StageOutcomes, promise: Promise) -> tuple[Tensor, float, float, float]:
    """Cost that a promise allows for each sample, (N,), and three numbers on the excess over it.

    They are its least and largest possible value, and its largest promised mean.
    """
    costs = outcomes.costs.double()
    ratio = promise.target == "cost_ratio"
    allowed = promise.limit * costs[:, -1] if ratio else torch.zeros_like(costs[:, -1])
    low, high = (costs[:, 0] - allowed).min(), (costs.sum(dim=1) - allowed).max()
    return allowed, float(low), float(high), 0.0 if ratio else promise.limit


def _cost_test(candidates: Candidates, delta: float, times: float) -> Callable[[int, int], bool]:
    allowed, low, high, limit = _allowance(candidates.outcomes, candidates.promise)

    def passes(start: int, end: int) -> bool:
        # the most expensive one bounds the others; with one threshold it does so on each sample
        row = start + int(candidates.cost[start:end].argmax())
        values = candidates.outcomes.costs_at(candidates.thresholds[row].tolist()) - allowed
        distinct = values.unique()
        if len(distinct) <= 2 and low < limit < high and float(distinct[0]) == low:
            above = round(times * int((values > low).sum()))
            share = (limit - low) / (high - low)
            return binomial_p_value(above, round(times * len(values)), share) <= delta
        return bounded_p_value(values, low, high, limit, times) <= delta

    return passes


def _leading(count: int, passes: Callable[[int, int], bool]) -> int:
    """Count the candidates before the first that does not pass, by bisection over ranges."""

    def among(start: int, end: int) -> int:
        if start == end or passes(start, end):
            return end - start
        if end - start == 1:
            return 0
        middle = (start + end) // 2
        first = among(start, middle)
        return first if first < middle - start else first + among(middle, end)

    return among(0, count)
