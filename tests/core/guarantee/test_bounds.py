"""P-values against enumeration of all tables, hand arithmetic and repeated draws."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, multinomial

from lit_cascade import CascadeError
from lit_cascade.core.guarantee.bounds import (
    _statistic,
    binomial_p_value,
    bounded_p_value,
    paired_p_value,
)


def test_the_binomial_p_value_is_the_tail():
    for losses, n, limit in ((0, 598, 0.005), (3, 100, 0.1), (10, 50, 0.3)):
        expected = binom.cdf(losses, n, limit)
        assert math.isclose(binomial_p_value(losses, n, limit), expected, rel_tol=1e-9)
    assert binomial_p_value(0, 10, 0.0) == 1.0
    assert binomial_p_value(5, 5, 0.9) == 1.0
    assert binomial_p_value(3, 5, 1.0) == 0.0


def tables(n):
    return [(a, b) for a in range(n + 1) for b in range(n + 1 - a)]


def enumerated(lost, won, n, limit, rates=400):
    """P-value by enumeration of all tables and a fine grid of the nuisance parameter."""
    every = tables(n)
    statistics = {
        (a, b): float(_statistic(np.array([a]), np.array([b]), n, limit)[0]) for a, b in every
    }
    worst = statistics[lost, won] + 1e-9 * max(1.0, abs(statistics[lost, won]))
    seeds = [table for table in every if statistics[table] <= worst]
    # with each table, all that lose no more and win no less
    region = [(a, b) for a, b in every if any(a <= a0 and b >= b0 for a0, b0 in seeds)]
    best = 0.0
    least = max(0.0, -limit)
    for share in np.linspace(least, least + (1 - abs(limit)) / 2, rates):
        gone = max(0.0, share + limit)
        weights = [gone, share, max(0.0, 1 - gone - share)]
        rows = [[a, b, n - a - b] for a, b in region]
        best = max(best, float(multinomial.pmf(rows, n, np.array(weights) / sum(weights)).sum()))
    return best


@pytest.mark.parametrize("limit", [0.05, 0.2, -0.1])
@pytest.mark.parametrize("n", [5, 14])
def test_the_paired_p_value_is_that_of_all_tables(n, limit):
    for lost, won in tables(n)[:: 1 if n == 5 else 7]:
        found = paired_p_value(lost, won, n, limit)
        if lost - won >= n * limit:
            assert found == 1.0
            continue
        expected = enumerated(lost, won, n, limit)
        assert found >= expected - 1e-4, (lost, won)  # hardly less than on a finer grid
        assert found <= expected + 2e-3, (lost, won)


@pytest.mark.parametrize(("n", "limit"), [(60, 0.03), (400, 0.01)])
def test_fewer_lost_or_more_won_is_never_weaker_evidence(n, limit):
    every = itertools.product(range(9), repeat=2)
    found = {(a, b): paired_p_value(a, b, n, limit) for a, b in every}
    for (a, b), p in found.items():
        assert p <= found.get((a + 1, b), 1.0) + 1e-9
        assert p >= found.get((a, b + 1), 0.0) - 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("won", [0.0, 0.004, 0.03, 0.1, 0.4])
@pytest.mark.parametrize(("n", "limit"), [(200, 0.02), (1000, 0.005), (5000, 0.005)])
def test_a_broken_promise_seldom_gets_a_small_p_value(n, limit, won):
    few = won * n > 1  # then most draws are tables of their own, which take milliseconds each
    draws = (500 if n < 5000 else 200) if few else 2000
    shares = [won + limit, won, 1 - 2 * won - limit]
    counts = np.random.default_rng(0).multinomial(n, shares, draws)
    p = np.array([paired_p_value(int(a), int(b), n, limit) for a, b, _ in counts])
    for delta in (0.05, 0.1):
        # four standard errors
        assert (p <= delta).mean() <= delta + 4 * math.sqrt(delta * (1 - delta) / draws)
    assert won > 0.3 or (p <= 0.1).mean() > 0.02  # and it is no idle test


def test_no_loss_at_all_is_a_sign_test():
    assert paired_p_value(2, 8, 100, 0.0) == pytest.approx(binom.cdf(2, 10, 0.5))
    assert paired_p_value(0, 0, 100, 0.0) == 1.0


def test_large_samples_are_those_of_the_normal_distribution():
    lost, won, n, limit = 2600, 2500, 50_000, 0.005
    spread = math.sqrt(lost + won - (lost - won) ** 2 / n)
    normal = 0.5 * math.erfc((n * limit - lost + won) / spread / math.sqrt(2))
    assert paired_p_value(lost, won, n, limit) == pytest.approx(normal, rel=0.02)


@pytest.mark.parametrize("kind", ["two", "skewed", "even"])
def test_bets_seldom_win_against_the_truth(kind):
    generator = np.random.default_rng(1)
    draws = {
        "two": generator.binomial(1, 0.3, (1000, 300)).astype(float),
        "skewed": generator.beta(0.3, 0.7, (1000, 300)),
        "even": generator.uniform(0, 0.6, (1000, 300)),
    }[kind]
    p = np.array([bounded_p_value(torch.tensor(row), 0.0, 1.0, 0.3) for row in draws])
    assert (p <= 0.05).mean() <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 1000)
    low = np.array([bounded_p_value(torch.tensor(row), 0.0, 1.0, 0.45) for row in draws])
    assert (low <= 0.05).mean() > 0.9


def test_bets_do_not_depend_on_the_order():
    values = torch.rand(500, generator=torch.Generator().manual_seed(0))
    again = values[torch.randperm(500, generator=torch.Generator().manual_seed(1))]
    assert bounded_p_value(values, 0, 1, 0.55) == pytest.approx(bounded_p_value(again, 0, 1, 0.55))


def test_bets_know_their_bounds():
    values = torch.tensor([0.2, 0.8])
    assert bounded_p_value(values, 0, 1, 1.0) == 0.0
    assert bounded_p_value(values, 0, 1, 0.0) == 1.0
    with pytest.raises(CascadeError, match=r"expected values from 0\.5 to 1"):
        bounded_p_value(values, 0.5, 1, 0.7)
