"""Evidence that a mean is low enough: p-values that hold for any number of samples.

Each is for the hypothesis that the promise is broken, that is, that the mean of what a sample loses
is above a limit. Where it is broken, a p-value of delta or less comes with probability delta at
most, whatever else is true of the samples, as long as they are drawn independently. All grow as the
samples get worse and none depends on the order of the samples.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.special import bdtr, betainc, gammaln, xlog1py, xlogy
from torch import Tensor

from lit_cascade.errors import CascadeError

__all__ = ["binomial_p_value", "bounded_p_value", "paired_p_value"]

# Below this, what a sum leaves out does not count.
_TINY = 1e-13

# Points at which the probability of a table is tried, before its maximum is narrowed down.
_RATES = 64
_PEAKS = 3


def binomial_p_value(losses: int, n: int, limit: float) -> float:
    """P-value for a share of losses above a limit: the exact binomial tail.

    Args:
        losses: samples that lose, of `n`.
        n: number of samples.
        limit: the share that is promised not to be exceeded.

    Returns:
        The probability of so few losses if their share were the limit.

    Example:
        >>> round(binomial_p_value(0, 598, 0.005), 4)
        0.0499
    """
    if losses >= n or limit <= 0:
        return 1.0
    return 0.0 if limit >= 1 else float(bdtr(losses, n, limit))


def _statistic(lost: np.ndarray, won: np.ndarray, n: int, limit: float) -> np.ndarray:
    """The score statistic of a paired difference (Tango 1998): lower is better evidence."""
    # restricted maximum likelihood: 2 n w^2 + b w + c = 0 for the share w of samples won
    b = limit * (2 * n - (lost - won)) - (lost + won)
    c = won * limit * (limit - 1)
    share = (np.sqrt(np.maximum(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * np.maximum(2 * share + limit * (1 - limit), 1e-300)
    found: np.ndarray = (lost - won - n * limit) / np.sqrt(variance)
    return found


def _most_lost(won: np.ndarray, n: int, limit: float, statistic: float) -> np.ndarray:
    """For each number of samples won, the most lost with no worse a statistic; -1 for none."""
    low, high = np.full(len(won), -1), n - won
    worst = statistic + 1e-9 * max(1.0, abs(statistic))
    while bool((low < high).any()):
        middle = (low + high + 1) // 2
        inside = _statistic(middle, won, n, limit) <= worst
        low, high = np.where(inside, middle, low), np.where(inside, high, middle - 1)
    edge: np.ndarray = np.maximum.accumulate(low)
    return edge


def _log_binomial(k: np.ndarray, n: int, share: float) -> np.ndarray:
    chosen = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    found: np.ndarray = chosen + xlogy(k, share) + xlog1py(n - k, -share)
    return found


@lru_cache(maxsize=2**16)
def paired_p_value(lost: int, won: int, n: int, limit: float) -> float:
    """P-value for a paired difference above a limit: an exact unconditional test.

    Of two classifiers on the same samples, one loses some that the other gets right and wins some
    that the other gets wrong. All tables whose score statistic is no worse than that of this one,
    and all that are better in both counts, make a region; the p-value is its probability, at the
    share of discordant samples for which that is largest. Since a table with fewer lost or more won
    never leaves the region, this holds for all larger differences too (Barnard's convexity; Tango
    1998 for the statistic; Hsueh, Liu and Chen 2001 for the unconditional test).

    Args:
        lost: samples that the last stage has right and the cascade wrong.
        won: the other way round.
        n: number of samples.
        limit: the difference (lost - won) / n that is promised not to be exceeded, from -1 to 1.

    Example:
        >>> round(paired_p_value(0, 0, 598, 0.005), 4), round(paired_p_value(60, 55, 2000, 0.01), 3)
        (0.0499, 0.086)
    """
    if limit >= 1:
        return 0.0
    if lost - won >= n * limit:
        return 1.0
    if limit == 0:
        return _sign_p_value(lost, won)
    statistic = float(_statistic(np.array([lost]), np.array([won]), n, limit)[0])
    table = _Region(n, limit, statistic)
    # the share of samples won, from the least to the most there can be, closer at the beginning
    least, width = max(0.0, -limit), (1 - abs(limit)) / 2
    few = np.geomspace(min(1e-2 / n, width / 2), width, _RATES // 3)
    shares = least + np.unique(np.concatenate([few, width * np.linspace(0, 1, _RATES) ** 2]))
    found = np.array([table.probability(share) for share in shares])
    # there may be several maxima: the highest few are narrowed down
    peaks = [
        table.highest(shares[max(at - 1, 0)], shares[min(at + 1, len(shares) - 1)])
        for at in np.argsort(found)[-_PEAKS:]
    ]
    return min(1.0, float(max(*found, *peaks)))


def _sign_p_value(lost: int, won: int) -> float:
    """P-value for any difference above 0: the exact sign test.

    Given how many samples are discordant, each is lost with probability 1/2 or more.
    """
    return 1.0 if won == 0 else float(bdtr(lost, lost + won, 0.5))


class _Region:
    """All tables with at least as good evidence as one.

    Args:
        n: number of samples.
        limit: of the difference.
        statistic: of the table.
    """

    def __init__(self, n: int, limit: float, statistic: float) -> None:
        self._n, self._limit, self._statistic = n, limit, statistic
        self._edge = np.empty(0, dtype=np.int64)

    def _most_lost(self, most_won: int) -> np.ndarray:
        if len(self._edge) <= most_won:
            won = np.arange(min(2 * most_won, self._n) + 1)
            self._edge = _most_lost(won, self._n, self._limit, self._statistic)
        return self._edge

    def probability(self, share: float) -> float:
        """Of the region, where that share of the samples is won and a limit more is lost."""
        n, lost = self._n, max(0.0, share + self._limit)
        spread = 8 * math.sqrt(n * share * (1 - share)) + 20
        first, last = max(0, int(n * share - spread)), min(n, int(n * share + spread) + 1)
        most = self._most_lost(last)[first : last + 1]
        won = np.arange(first, last + 1)
        weight = np.exp(_log_binomial(won, n, share))
        left, most = n - won, np.minimum(most, n - won)
        inside = (most >= 0) & (weight > _TINY)
        total = float(weight[inside & (most == left)].sum())
        some = inside & (most < left)
        among = min(1.0, lost / (1 - share))
        # P(losses <= k of m) by the incomplete beta function
        tail = betainc((left - most)[some], most[some] + 1.0, 1 - among)
        return total + float((weight[some] * tail).sum()) + _TINY * len(won)

    def highest(self, low: float, high: float) -> float:
        """The largest probability between two shares, by golden sections."""
        golden = (math.sqrt(5) - 1) / 2
        one, two = high - golden * (high - low), low + golden * (high - low)
        at_one, at_two = self.probability(one), self.probability(two)
        best = max(at_one, at_two)
        for _ in range(12):
            if at_one >= at_two:
                high, two, at_two = two, one, at_one
                one = high - golden * (high - low)
                at_one = self.probability(one)
            else:
                low, one, at_one = one, two, at_two
                two = low + golden * (high - low)
                at_two = self.probability(two)
            best = max(best, at_one, at_two)
        return best


def bounded_p_value(
    values: Tensor, low: float, high: float, limit: float, times: float = 1.0
) -> float:
    """P-value for the mean of bounded values above a limit, by betting.

    A bet of b against the mean multiplies a capital of 1 by 1 + b (limit - x) at each sample. Where
    the mean is at least the limit no bet gains in expectation, nor does a mixture of bets, so that
    the capital reaches 1 / delta with probability delta at most (Ville, Markov; Waudby-Smith and
    Ramdas, arXiv:2010.09686). The mixture is fixed, so the order of the samples does not matter.

    Args:
        values: (N,).
        low: the least value that there can be.
        high: the greatest.
        limit: the mean that is promised not to be exceeded.
        times: how often each value is counted, to see what more of the same samples would show.

    Raises:
        CascadeError: values outside their bounds.

    Example:
        >>> import torch
        >>> bounded_p_value(torch.tensor([0.25, 0.5] * 100), 0.0, 1.0, 0.6) < 0.001
        True
    """
    x = values.double().numpy()
    if len(x) and not (low <= x.min() and x.max() <= high):
        raise CascadeError(f"expected values from {low} to {high}, got {x.min()} to {x.max()}.")
    if limit >= high:
        return 0.0
    if limit <= low:
        return 1.0
    kinds, counts = np.unique(x, return_counts=True)
    bets = np.geomspace(1e-4, 1 - 1e-9, 64) / (high - limit)
    capital = times * (counts * np.log1p(bets[:, None] * (limit - kinds))).sum(axis=1)
    mixed = np.logaddexp.reduce(capital) - math.log(len(bets))
    return float(min(1.0, math.exp(-mixed))) if mixed > 0 else 1.0
