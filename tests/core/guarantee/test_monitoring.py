"""Tests that may be looked at at any time, against plain loops and simulated streams."""

import json
import math

import numpy as np
import pytest
from scipy.stats import beta, binom

from lit_cascade.core.guarantee import RunningTests, rate_bounds
from lit_cascade.core.guarantee.bounds import bets_up_to
from lit_cascade.core.guarantee.monitoring import unspent


def slow(windows, limit, lowest):
    """E-value, and the window since when, by a bet for each start, sample by sample."""
    bets = bets_up_to(limit - lowest, 16, 1e-3)
    total = 0.0
    best, since = -math.inf, 0
    for start in range(len(windows)):
        stake = unspent(start) - unspent(start + 1)
        for bet in bets:
            capital = 1.0
            for window in windows[start:]:
                for x in window:
                    capital *= 1 + bet * (x - limit)
            total += stake * capital / len(bets)
            if capital > best:
                best, since = capital, start
    return total + unspent(len(windows)), since


def taken(windows, limits, lowest, kinds):
    tests = RunningTests(np.array(limits), np.array(lowest))
    for window in windows:
        counts = np.array([[np.sum(np.asarray(window) == kind) for kind in row] for row in kinds])
        tests.update(np.array(kinds, dtype=float), counts)
    return tests


@pytest.mark.parametrize("seed", range(4))
def test_e_values_are_those_of_a_bet_for_each_start(seed):
    generator = np.random.default_rng(seed)
    kinds = [[0.0, 1.0], [-1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [2.0, 5.0, 11.0]][seed]
    low, limit = min(kinds) - (seed == 2), [0.3, 0.05, 0.5, 4.0][seed]
    windows = [generator.choice(kinds, generator.integers(0, 40)) for _ in range(9)]
    tests = taken(windows, [limit], [low], [sorted(set(kinds))])
    e, since = slow(windows, limit, low)
    assert math.exp(tests.log_e()[0]) == pytest.approx(e, rel=1e-9)
    assert tests.since()[0] == since


@pytest.mark.parametrize("windows", [[], [[]], [[1.0]], [[0.0]], [[1.0], [], [1.0]]])
def test_few_samples(windows):
    tests = taken(windows, [0.2], [0.0], [[0.0, 1.0]])
    e, _ = slow(windows, 0.2, 0.0)
    assert math.exp(tests.log_e()[0]) == pytest.approx(e, rel=1e-9)
    assert (e > 1) == ([1.0] in windows)


def test_a_mixture_is_the_weighted_mean():
    generator = np.random.default_rng(0)
    windows = [generator.integers(0, 2, 30).astype(float) for _ in range(5)]
    limits, kinds = [0.3, 0.45, 0.6], [[0.0, 1.0]] * 3
    tests = taken(windows, limits, [0.0] * 3, kinds)
    weights = np.array([0.5, 0.2, 0.3])
    each = [slow(windows, limit, 0.0)[0] for limit in limits]
    assert math.exp(tests.log_e(weights)) == pytest.approx(weights @ each, rel=1e-9)


@pytest.mark.parametrize("limit", [0.02, 0.1, 0.5])
def test_false_alarms_are_as_seldom_as_stated(limit):
    """500 streams whose rate is the limit itself, looked at 100 times."""
    runs, alpha = 500, 0.2
    generator = np.random.default_rng(1)
    tests = RunningTests(np.array([limit]), np.zeros(1), batch=(runs,))
    peak = np.zeros(runs)
    for _ in range(100):
        ones = generator.binomial(50, limit, (runs, 1))
        tests.update(np.array([[0.0, 1.0]]), np.stack([50 - ones, ones], axis=-1))
        peak = np.maximum(peak, tests.log_e()[:, 0])
    alarms = int((peak >= -math.log(alpha)).sum())
    assert alarms <= binom.ppf(0.999, runs, alpha)
    assert alarms > 0  # it can raise one


def test_naive_windows_raise_more():
    """The same streams with a fresh exact test in every window: what the tests are for."""
    generator = np.random.default_rng(1)
    ones = generator.binomial(50, 0.1, (500, 100))
    assert (binom.sf(ones - 1, 50, 0.1) <= 0.05).any(axis=1).mean() > 0.8


@pytest.mark.parametrize("at", [0, 7, 200])
def test_a_change_is_seen_soon_and_dated(at):
    runs = 200
    generator = np.random.default_rng(2)
    tests = RunningTests(np.array([0.12]), np.zeros(1), batch=(runs,))
    delay, dated = np.full(runs, 99), np.zeros(runs)
    for window in range(at + 10):
        ones = generator.binomial(1000, 0.2 if window >= at else 0.1, (runs, 1))
        tests.update(np.array([[0.0, 1.0]]), np.stack([1000 - ones, ones], axis=-1))
        new = (tests.log_e()[:, 0] >= math.log(80)) & (delay == 99)
        delay[new], dated[new] = window - at + 1, tests.since()[new, 0]
    assert np.median(delay) <= 2
    assert (np.abs(dated - at) <= 1).mean() > 0.95


def test_what_is_kept_continues_exactly():
    generator = np.random.default_rng(3)
    windows = [generator.integers(0, 2, 30).astype(float) for _ in range(8)]
    kinds = [[0.0, 1.0]] * 2
    whole = taken(windows, [0.4, 0.9], [0.0, 0.0], kinds)
    first = taken(windows[:3], [0.4, 0.9], [0.0, 0.0], kinds)
    second = taken([], [0.4, 0.9], [0.0, 0.0], kinds)
    second.restore(json.loads(json.dumps(first.state())))
    for window in windows[3:]:
        counts = [np.sum(window == 0), np.sum(window == 1)]
        second.update(np.array(kinds), np.array([counts, counts]))
    assert (second.log_e() == whole.log_e()).all()
    assert second.state() == whole.state()
    with pytest.raises(ValueError, match="shape"):
        taken([], [0.4], [0.0], kinds[:1]).restore(first.state())
    assert first.starts <= {0, 1, 2}


@pytest.mark.parametrize(("count", "n"), [(0, 10), (10, 10), (3, 40), (500, 5000), (0, 0)])
def test_bounds_of_a_rate_are_those_of_clopper_and_pearson(count, n):
    low, high = rate_bounds(count, n, 0.1)
    assert low == pytest.approx(beta.ppf(0.05, count, n - count + 1) if count else 0.0)
    assert high == pytest.approx(beta.ppf(0.95, count + 1, n - count) if count < n else 1.0)
    assert low <= (count / n if n else 0) <= high


def test_bounds_hold_for_the_share_below_an_edge_drawn_from_the_same_samples():
    """Edges are quantiles of the evidence, so that their counts are fixed and their places not."""
    generator = np.random.default_rng(4)
    outside = 0
    for _ in range(1000):
        edge = np.sort(generator.random(200))[29:31].mean()  # 30 below
        low, high = rate_bounds(30, 200, 0.1)
        outside += not low <= edge <= high
    assert outside <= binom.ppf(0.999, 1000, 0.1)
    assert outside > 20
