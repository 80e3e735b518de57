"""Paired bootstrap comparison against sweeps of resampled samples."""

import math

import pytest
import torch

from lit_cascade.core.curve import sweep
from lit_cascade.core.outcomes import StageOutcomes
from lit_cascade.core.paired import mean_accuracy, paired_difference, ranked_within
from lit_cascade.errors import CascadeError


def drawn(n, stages, seed, *, ties=False):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, stages - 1, generator=generator)
    if ties:
        scores = (5 * scores).round() / 5
    correct = torch.rand(n, stages, generator=generator) < torch.linspace(0.6, 0.9, stages)
    costs = torch.rand(n, stages, generator=generator) + torch.arange(1, stages + 1)
    return StageOutcomes(scores, correct, costs)


def slow_mean_accuracy(played, rows):
    """Area under the step curve of some rows over its width."""
    curve = sweep(played.scores[rows], played.correct[rows], played.costs[rows])
    cost, accuracy = curve.cost.tolist(), curve.accuracy.tolist()
    steps = zip(accuracy[:-1], cost[:-1], cost[1:], strict=True)
    return sum(a * (end - start) for a, start, end in steps) / (cost[-1] - cost[0])


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_weights_count_samples_as_often_as_a_resample_holds_them(stages, ties):
    played = drawn(40, stages, 1, ties=ties)
    played.scores[3, 0] = math.inf  # never deferred
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        rows = torch.randint(0, 40, (40,), generator=generator)
        weights = torch.bincount(rows, minlength=40).double()[None]
        assert float(mean_accuracy(played, weights)) == pytest.approx(
            slow_mean_accuracy(played, rows), abs=1e-12
        )


def test_blocks_of_resamples_change_nothing(monkeypatch):
    one, other = drawn(50, 2, 0), drawn(50, 2, 1)
    whole = paired_difference(one, other)
    monkeypatch.setattr("lit_cascade.core.paired._AT_ONCE", 50 * 7)
    parts = paired_difference(one, other)
    assert parts.interval == pytest.approx(whole.interval)


def test_the_interval_is_that_of_resampling_by_hand():
    one, other = drawn(60, 2, 2), drawn(60, 2, 3)
    found = paired_difference(one, other, resamples=50, seed=7)
    generator = torch.Generator().manual_seed(7)
    drawn_rows = torch.randint(0, 60, (50, 60), generator=generator)
    differences = [
        slow_mean_accuracy(other, rows) - slow_mean_accuracy(one, rows) for rows in drawn_rows
    ]
    ends = torch.tensor(differences, dtype=torch.float64).quantile(
        torch.tensor([0.025, 0.975], dtype=torch.float64)
    )
    assert found.interval == pytest.approx(tuple(ends.tolist()))
    everything = torch.arange(60)
    assert found.before == pytest.approx(slow_mean_accuracy(one, everything))
    assert found.after == pytest.approx(slow_mean_accuracy(other, everything))


def test_the_same_order_is_no_difference_at_all():
    one = drawn(100, 2, 0)
    stretched = StageOutcomes(one.scores.pow(3), one.correct, one.costs)
    found = paired_difference(one, stretched)
    assert (found.value, found.interval) == (0, (0, 0))
    assert not found.better
    assert not found.worse


def test_random_scores_are_seldom_called_different():
    """Of two uninformative scores, about one pair in twenty is called different."""
    called = 0
    for seed in range(100):
        torch.manual_seed(seed)
        correct = torch.rand(300, 2) < torch.tensor([0.6, 0.8])
        costs = torch.tensor([[1.0, 9.0]]).expand(300, 2)
        one, other = (StageOutcomes(torch.rand(300, 1), correct, costs) for _ in range(2))
        found = paired_difference(one, other, resamples=200, seed=seed)
        called += found.better or found.worse
    assert 0 < called <= 13


@pytest.mark.parametrize("stages", [2, 3])
def test_ranks_in_one_group_do_not_change_the_curve(stages):
    played = drawn(200, stages, 4, ties=True)
    played.scores[5] = math.inf
    ranks = ranked_within(played.scores, [torch.arange(200)])
    plain = sweep(played.scores, played.correct, played.costs)
    ranked = sweep(ranks, played.correct, played.costs)
    assert torch.equal(plain.accuracy, ranked.accuracy)
    assert torch.equal(plain.cost, ranked.cost)
    assert bool(ranks[5].isposinf().all())


def test_groups_are_scaled_apart():
    scores = torch.rand(90, 1)
    groups = list(torch.randperm(90).split(30))
    scaled = scores.clone()
    for factor, rows in zip((0.1, 3.0, 50.0), groups, strict=True):
        scaled[rows] *= factor
    assert torch.equal(ranked_within(scores, groups), ranked_within(scaled, groups))
    assert not torch.equal(
        ranked_within(scores, [torch.arange(90)]), ranked_within(scaled, [torch.arange(90)])
    )


def test_cascades_that_cannot_be_compared_are_refused():
    with pytest.raises(CascadeError, match="two cascades of 9 samples, got 8"):
        paired_difference(drawn(9, 2, 0), drawn(8, 2, 0))
    one = drawn(5, 2, 0)
    never = StageOutcomes(torch.full((5, 1), math.inf), one.correct, one.costs)
    with pytest.raises(CascadeError, match="no sample is ever deferred"):
        paired_difference(one, never)
