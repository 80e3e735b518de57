import math

import pytest
import torch

from lit_cascade.core.contract import answers_here
from lit_cascade.core.search.pairs import block_sums, cuts_of, running_sums


def ones(n, columns=3):
    return torch.rand(n, columns) < 0.7


def sums_by_loops(table, order, starts):
    """Sums over blocks of an order, one number at a time."""
    rows, order = table.tolist(), order.tolist()
    ends = [*starts.tolist()[1:], len(order)]
    return [
        [sum(rows[i][j] for i in order[start:end]) for j in range(table.shape[1])]
        for start, end in zip(starts.tolist(), ends, strict=True)
    ]


# cuts


def one_of(scores, levels):
    """The cuts of one model."""
    (cuts,) = cuts_of(scores[None], levels)
    return cuts


def check_cuts(cuts, scores):
    """The order rises, and each threshold defers by the contract as many as it says, the first."""
    n = len(scores)
    assert sorted(cuts.order.tolist()) == list(range(n))
    assert scores[cuts.order].tolist() == sorted(scores.tolist())
    assert len(cuts.at) == len(cuts.thresholds)
    assert (cuts.thresholds[0], cuts.thresholds[-1]) == (-math.inf, math.inf)
    assert (cuts.at[0], cuts.at[-1]) == (0, n)
    assert cuts.at.dtype == torch.int64
    assert cuts.thresholds.dtype == torch.float64
    for at, threshold in zip(cuts.at.tolist(), cuts.thresholds.tolist(), strict=True):
        deferred = (~answers_here(scores, threshold)).nonzero().squeeze(1).tolist()
        assert deferred == sorted(cuts.order[:at].tolist())
        limit = torch.tensor(threshold, dtype=scores.dtype).item()
        assert deferred == [i for i, score in enumerate(scores.tolist()) if not score >= limit]


SCORES = {
    "ties": torch.randint(6, (50,), generator=torch.Generator().manual_seed(1)) / 6,
    "no ties": torch.randn(50, generator=torch.Generator().manual_seed(1)),
    "float64": torch.randn(50, generator=torch.Generator().manual_seed(1)).double() / 3,
    "one apart in the last place": torch.nextafter(
        torch.full((5,), 0.7), torch.tensor([0.0, 1.0, 0.7, 0.0, 1.0])
    ),
    "all equal": torch.full((50,), 0.3),
    "one": torch.tensor([0.5]),
    "two": torch.tensor([0.5, 0.25]),
    "zeros of both signs": torch.tensor([0.0, -0.0, 1.0, -0.0, 0.0]),
    "minus infinity": torch.tensor([-math.inf, 0.5, -math.inf, 0.1]),
}


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_with_enough_levels_every_distinct_score_cuts(scores):
    distinct = sorted(set(scores.tolist()))
    for levels in (len(distinct), len(distinct) + 1, 10**6):
        cuts = one_of(scores, levels)
        check_cuts(cuts, scores)
        assert cuts.thresholds.tolist() == [-math.inf, *distinct[1:], math.inf]


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_with_fewer_levels_they_are_spaced_evenly_among_the_distinct(scores):
    every = [-math.inf, *sorted(set(scores.tolist()))[1:], math.inf]
    for levels in range(1, len(every) - 1):
        cuts = one_of(scores, levels)
        check_cuts(cuts, scores)
        assert len(cuts.thresholds) == levels + 1
        places = [every.index(threshold) for threshold in cuts.thresholds.tolist()]
        step = (len(every) - 1) / levels
        assert places == [round(step * k) for k in range(levels + 1)]


def test_levels_are_spaced_by_scores_and_not_by_samples():
    scores = torch.cat([torch.zeros(100), torch.arange(1, 9).float()])
    assert one_of(scores, 3).thresholds.tolist() == [-math.inf, 3, 6, math.inf]
    assert one_of(scores, 3).at.tolist() == [0, 102, 105, 108]


@pytest.mark.parametrize("n", [99_991, 2**17 + 1])
def test_many_levels_never_repeat(n):
    scores = torch.arange(n).flip(0).float()
    for levels in (n - 1, n - 2, n // 2, 1000):
        at = one_of(scores, levels).at
        assert len(at) == levels + 1
        assert (at.diff() > 0).all()


@pytest.mark.parametrize("models", [1, 16, 17, 40])
def test_cuts_of_many_models_are_those_of_each(models):
    scores = torch.randint(9, (models, 30)) / 9
    for found, row in zip(cuts_of(scores, 4), scores, strict=True):
        check_cuts(found, row)
        assert found.at.tolist() == one_of(row, 4).at.tolist()
        assert found.thresholds.tolist() == one_of(row, 4).thresholds.tolist()


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_given_thresholds_cut_by_the_contract(scores):
    given = sorted([*scores.double().tolist(), 0.1, 0.7, 0.7 + 1e-12, 99.0, -99.0])
    thresholds = torch.tensor([-math.inf, *given, math.inf], dtype=torch.float64)
    check_cuts(one_of(scores, thresholds), scores)


# sums


def test_sums_of_blocks_by_hand():
    table = torch.tensor([[1, 0], [1, 1], [0, 1], [1, 1]]).half()
    order = torch.tensor([2, 0, 3, 1])
    starts = torch.tensor([0, 0, 1, 3, 4, 4])
    expected = [[0, 0], [0, 1], [2, 1], [1, 1], [0, 0], [0, 0]]
    assert block_sums(table, order, starts).tolist() == expected
    assert block_sums(table.double(), order, starts).tolist() == expected
    assert running_sums(table, order, torch.tensor([0, 0, 1, 4])).tolist() == [
        [0, 0],
        [0, 0],
        [0, 1],
        [3, 3],
    ]


STARTS = {
    "one short block": (2048, [0]),
    "one block of one more": (2049, [0]),
    "one long block": (9001, [0]),
    "long blocks of whole parts": (8192, [0, 4096]),
    "long after empty": (5000, [0, 0, 0, 10, 10]),
    "long before empty": (5000, [0, 5000, 5000]),
    "long between short": (7000, [0, 3, 3, 4000, 4001, 4001, 6999, 7000]),
    "many long": (12_000, [0, 0, 2500, 2500, 5001, 5002, 11_999]),
    "ends on the limit": (6144, [0, 2048, 4097]),
    "nothing": (0, [0, 0]),
}


@pytest.mark.parametrize(("n", "starts"), STARTS.values(), ids=STARTS)
def test_sums_of_blocks_equal_loops(n, starts):
    table, order, starts = ones(n), torch.randperm(n), torch.tensor(starts)
    expected = sums_by_loops(table, order, starts)
    found = block_sums(table.half(), order, starts)
    assert found.dtype == torch.int32
    assert found.tolist() == expected
    found = block_sums(table.double(), order, starts)
    assert found.dtype == torch.float64
    assert found.tolist() == expected


@pytest.mark.parametrize("full", [2048, 2049, 4097, 70_001])
def test_many_ones_are_counted_one_by_one(full):
    """Beyond 2,048 half precision leaves out the odd numbers, beyond 65,504 all."""
    table = torch.ones(full, 2, dtype=torch.float16)
    assert block_sums(table, torch.arange(full), torch.tensor([0])).tolist() == [[full, full]]
    found = running_sums(table, torch.arange(full), torch.tensor([0, 1, full]))
    assert found.tolist() == [[0, 0], [1, 1], [full, full]]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("n", [5, 60, 7000])
def test_random_blocks_equal_loops(n, seed):
    torch.manual_seed(seed)
    table, order = ones(n, 2), torch.randperm(n)
    starts = torch.cat([torch.zeros(1), torch.randint(n + 1, (6,))]).long().sort().values
    expected = sums_by_loops(table, order, starts)
    assert block_sums(table.half(), order, starts).tolist() == expected
    at = torch.cat([starts, torch.tensor([n])])
    total, running = [0, 0], [[0, 0]]
    for block in expected:
        total = [a + b for a, b in zip(total, block, strict=True)]
        running.append(total)
    found = running_sums(table.half(), order, at)
    assert (found.dtype, found.tolist()) == (torch.int32, running)
    found = running_sums(table.double(), order, at)
    assert (found.dtype, found.tolist()) == (torch.float64, running)


def test_sums_of_costs_are_of_double_precision():
    costs = torch.rand(5000, 2, dtype=torch.float64) * 1e9
    order, starts = torch.randperm(5000), torch.tensor([0, 0, 7, 4999])
    found = block_sums(costs, order, starts).flatten().tolist()
    rows, ends = costs.tolist(), [0, 7, 4999, 5000]
    expected = [
        math.fsum(rows[i][j] for i in order[start:end].tolist())
        for start, end in zip(starts.tolist(), ends, strict=True)
        for j in range(2)
    ]
    assert found == pytest.approx(expected, rel=1e-14)
    running = running_sums(costs, order, torch.tensor([0, 7, 5000]))
    assert running[-1].tolist() == pytest.approx(costs.sum(dim=0).tolist(), rel=1e-14)
