"""The saving of a month, against plain loops."""

import math
import statistics

import pytest
import torch

from lit_cascade.analysis import MonthlySaving, check_calls, known_cost
from lit_cascade.core import StageOutcomes
from lit_cascade.errors import UsageError


def outcomes(n, stages, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.rand(n, stages - 1, generator=generator) * 8).round() / 8  # ties
    costs = torch.rand(n, stages, generator=generator, dtype=torch.float64) * 10.0**stages
    return StageOutcomes(scores, None, costs, unit="usd")


@pytest.mark.parametrize("n", [2, 50])
@pytest.mark.parametrize("thresholds", [[0.5], [0.25, 0.75], [-math.inf, 0.5], [math.inf] * 3])
def test_a_saving_is_a_loop(n, thresholds):
    table = outcomes(n, len(thresholds) + 1)
    found = MonthlySaving.of(table, thresholds, 2e6)
    spent, saved = [], []
    for scores, costs in zip(table.scores.tolist(), table.costs.tolist(), strict=True):
        total = 0.0
        for k, cost in enumerate(costs):
            total += cost
            if k == len(thresholds) or scores[k] >= thresholds[k]:
                break
        spent.append(total)
        saved.append(costs[-1] - total)
    error = statistics.stdev(saved) / math.sqrt(n)
    assert found.cascade == pytest.approx(2e6 * statistics.mean(spent))
    assert found.saved == pytest.approx(2e6 * statistics.mean(saved))
    low, high = (2e6 * (statistics.mean(saved) + sign * 1.959964 * error) for sign in (-1, 1))
    assert found.interval == pytest.approx((low, high), rel=1e-4, abs=1e-6)
    assert (found.n, found.unit, found.calls) == (n, "usd", 2e6)


def test_the_interval_holds_the_true_saving_about_as_often_as_it_says():
    """Of half the calls that cost 1 and half that cost 5 more; 95 % of 1,000 draws, and error."""
    covered = 0
    for seed in range(1000):
        scores = torch.rand(200, 1, generator=torch.Generator().manual_seed(seed))
        costs = torch.tensor([[1.0, 4.0]], dtype=torch.float64).expand(200, 2)
        low, high = MonthlySaving.of(StageOutcomes(scores, None, costs), [0.5], 1).interval
        covered += low <= 4 - (1 + 0.5 * 4) <= high
    assert 930 <= covered <= 970


def test_costs_that_a_policy_does_not_know_are_not_told():
    stages = {"small": 1.0, "large": 9.0}
    unknown = [None, 3, {"unit": "usd"}, {"stages": stages}, {"unit": "u", "stages": {"small": 1}}]
    for costs in unknown:
        assert known_cost({"costs": costs}, ["small", "large"], [3, 1]) is None
    known = {"costs": {"unit": "usd", "stages": stages}}
    assert known_cost(known, ["small", "large"], [0, 0]) is None
    assert known_cost(known, ["small", "large"], [3, 1]) == ("usd", (3 * 1 + 10) / 4, 9)


def test_one_sample_has_a_saving_and_no_interval():
    found = MonthlySaving.of(outcomes(1, 2), [0.5], 10)
    assert math.isfinite(found.saved)
    assert found.interval == (-math.inf, math.inf)


@pytest.mark.parametrize("calls", [0, -1.0, math.inf, math.nan])
def test_calls_are_a_number_above_0(calls):
    with pytest.raises(UsageError, match="--calls_per_month: expected a number above 0"):
        check_calls(calls)
    check_calls(None)
    check_calls(2e6)
