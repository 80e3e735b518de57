"""P-values for the hypothesis that a mean exceeds a limit, valid for any number of samples.

If the mean loss is above the limit, a p-value is delta or less with probability at most delta, for
any distribution of independently drawn samples. All grow as the samples get worse, and none depends
on the order of the samples.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.special import bdtr, betainc, betaincinv, gammaln, xlog1py, xlogy
from torch import Tensor

from lit_cascade.errors import CascadeError

# Probability of a single table that a sum may leave out.
_TINY = 1e-13

# Shares at which a probability is evaluated, and maxima that are then refined.
_RATES = 64
_PEAKS = 3


def binomial_p_value(losses: int, n: int, limit: float) -> float:
    """P-value for a loss rate above a limit: the exact binomial tail.

    Args:
        losses: number of losses among `n` samples.
        n: number of samples.
        limit: promised largest loss rate.

    Returns:
        Probability of at most so many losses if the loss rate were the limit.

    Examples:
        >>> round(binomial_p_value(0, 598, 0.005), 4)
        0.0499
    """
    if losses >= n or limit <= 0:
        return 1.0
    return 0.0 if limit >= 1 else float(bdtr(losses, n, limit))


def _statistic(lost: np.ndarray, won: np.ndarray, n: int, limit: float) -> np.ndarray:
    """Score statistic of a paired difference (Tango 1998); smaller is stronger evidence."""
    # restricted maximum likelihood: 2 n w^2 + b w + c = 0 for the fraction w of samples won
    b = limit * (2 * n - (lost - won)) - (lost + won)
    c = won * limit * (limit - 1)
    share = (np.sqrt(np.maximum(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * np.maximum(2 * share + limit * (1 - limit), 1e-300)
    statistic: np.ndarray = (lost - won - n * limit) / np.sqrt(variance)
    return statistic


@lru_cache(maxsize=2**16)
def paired_p_value(lost: int, won: int, n: int, limit: float) -> float:
    """P-value for a paired difference above a limit: an exact unconditional test.

    A table holds the numbers of samples that only the last stage gets right (lost) and that only
    the cascade gets right (won). The region of all tables with at least as small a score statistic,
    or with fewer lost and more won, has a probability that depends on the fraction of discordant
    samples; the p-value is its maximum over that fraction. The region is convex in Barnard's sense
    (a table with fewer lost or more won stays inside), so the p-value holds for all larger
    differences too. Statistic: Tango, Statistics in Medicine 17 (1998). Test: Hsueh, Liu and Chen,
    Biometrics 57 (2001).

    Args:
        lost: number of samples that the last stage gets right and the cascade wrong.
        won: number of samples that the cascade gets right and the last stage wrong.
        n: number of samples.
        limit: promised largest difference (lost - won) / n, from -1 to 1.

    Examples:
        >>> round(paired_p_value(0, 0, 598, 0.005), 4), round(paired_p_value(60, 55, 2000, 0.01), 3)
        (0.0499, 0.086)
    """
    if limit >= 1:
        return 0.0
    if lost - won >= n * limit:
        return 1.0
    if limit == 0:  # the exact sign test (McNemar): a discordant sample is lost as often as won
        return 1.0 if won == 0 else float(bdtr(lost, lost + won, 0.5))
    statistic = float(_statistic(np.array([lost]), np.array([won]), n, limit)[0])
    table = _Region(n, limit, statistic)
    # possible fractions of samples won, denser at the lower end
    least, width = max(0.0, -limit), (1 - abs(limit)) / 2
    few = np.geomspace(min(1e-2 / n, width / 2), width, _RATES // 3)
    shares = least + np.unique(np.concatenate([few, width * np.linspace(0, 1, _RATES) ** 2]))
    probabilities = np.array([table.probability(share) for share in shares])
    # there may be several local maxima: refine the largest few
    peaks = [
        table.highest(shares[max(at - 1, 0)], shares[min(at + 1, len(shares) - 1)])
        for at in np.argsort(probabilities)[-_PEAKS:]
    ]
    return min(1.0, float(max(*probabilities, *peaks)))


class _Region:
    """Region of all tables with at least as strong evidence as an observed one.

    Args:
        n: number of samples.
        limit: limit of the difference.
        statistic: score statistic of the observed table.
    """

    def __init__(self, n: int, limit: float, statistic: float) -> None:
        self._n, self._limit, self._statistic = n, limit, statistic
        self._edge = np.empty(0, dtype=np.int64)

    def _most_lost(self, most_won: int) -> np.ndarray:
        """For each number won, return the largest number lost with no larger statistic, or -1."""
        if len(self._edge) <= most_won:
            won = np.arange(min(2 * most_won, self._n) + 1)
            low, high = np.full(len(won), -1), self._n - won
            worst = self._statistic + 1e-9 * max(1.0, abs(self._statistic))
            while bool((low < high).any()):
                middle = (low + high + 1) // 2
                inside = _statistic(middle, won, self._n, self._limit) <= worst
                low, high = np.where(inside, middle, low), np.where(inside, high, middle - 1)
            self._edge = np.maximum.accumulate(low)
        return self._edge

    def probability(self, share: float) -> float:
        """Probability of the region if a fraction `share` is won and `share + limit` is lost."""
        n, lost = self._n, max(0.0, share + self._limit)
        spread = 8 * math.sqrt(n * share * (1 - share)) + 20
        first, last = max(0, int(n * share - spread)), min(n, int(n * share + spread) + 1)
        most = self._most_lost(last)[first : last + 1]
        won = np.arange(first, last + 1)
        left, most = n - won, np.minimum(most, n - won)
        ways = gammaln(n + 1) - gammaln(won + 1) - gammaln(left + 1)
        weight = np.exp(ways + xlogy(won, share) + xlog1py(left, -share))
        inside = (most >= 0) & (weight > _TINY)
        total = float(weight[inside & (most == left)].sum())
        some = inside & (most < left)
        among = min(1.0, lost / (1 - share))
        # P(losses <= k of m) by the incomplete beta function
        tail = betainc((left - most)[some], most[some] + 1.0, 1 - among)
        return total + float((weight[some] * tail).sum()) + _TINY * len(won)

    def highest(self, low: float, high: float) -> float:
        """Largest probability between two fractions, by golden-section search."""
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


def bets_up_to(room: float, count: int = 64, least: float = 1e-4) -> np.ndarray:
    """Bets (J,) from `least` times the largest one that cannot lose everything up to that one.

    Args:
        room: largest possible value less the limit that is bet on.
        count: number of bets, whose ratios are equal.
        least: smallest bet, as a share of the largest.
    """
    bets: np.ndarray = np.geomspace(least, 1 - 1e-9, count) / max(room, 1e-12)
    return bets


def log_gains(values: np.ndarray, limit: float | np.ndarray, bets: np.ndarray) -> np.ndarray:
    """Logarithm of what each bet b earns on each value x: 1 + b (limit - x).

    If the mean is at least the limit, no bet gains in expectation, so that the product over samples
    reaches 1 / delta with probability at most delta, whenever one looks (Ville's inequality;
    Waudby-Smith and Ramdas, arXiv:2010.09686).

    Args:
        values: (..., V).
        limit: of the mean; (...) where there are several.
        bets: (..., J), as of `bets_up_to`.

    Returns:
        (..., J, V).
    """
    surplus = np.asarray(limit)[..., None, None] - values[..., None, :]
    gains: np.ndarray = np.log1p(bets[..., :, None] * surplus)
    return gains


def bounded_p_value(
    values: Tensor, low: float, high: float, limit: float, times: float = 1.0
) -> float:
    """P-value for the mean of bounded values above a limit, by a mixture of bets (`log_gains`).

    The mixture is fixed, so the order of the samples does not matter.

    Args:
        values: (N,).
        low: smallest possible value.
        high: largest possible value.
        limit: promised largest mean.
        times: multiplicity of each value, to estimate the evidence of a larger sample.

    Raises:
        CascadeError: values outside their bounds.

    Examples:
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
    gains = log_gains(kinds, limit, bets_up_to(high - limit))
    capital = times * (counts * gains).sum(axis=1)
    mixed = np.logaddexp.reduce(capital) - math.log(len(capital))
    return float(min(1.0, math.exp(-mixed))) if mixed > 0 else 1.0


def rate_bounds(count: int, n: int, delta: float) -> tuple[float, float]:
    """Bounds of a rate, which it exceeds on either side with probability at most `delta` / 2.

    They are exact (Clopper and Pearson). They also hold for the share of a distribution below an
    edge that lies between two of the n samples, if `count` of these are below it.

    Args:
        count: number of samples with the property.
        n: number of samples.
        delta: probability that the rate is outside.

    Examples:
        >>> [round(bound, 4) for bound in rate_bounds(0, 598, 0.1)]
        [0.0, 0.005]
    """
    low = float(betaincinv(count, n - count + 1, delta / 2)) if count > 0 else 0.0
    high = float(betaincinv(count + 1, n - count, 1 - delta / 2)) if count < n else 1.0
    return low, high
