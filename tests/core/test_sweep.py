import math

import pytest
import torch

from lit_cascade.core.contract import above_floor
from lit_cascade.core.scores import score_and_answer
from lit_cascade.core.sweep import oracle_deferral, random_deferral, sweep
from lit_cascade.errors import CascadeError
from tests.oracles import best_deferrals, brute_force_curve, brute_force_point


def random_case(n, stages, levels=7):
    scores = torch.randint(0, levels, (n, stages - 1)) / levels
    return scores, torch.rand(n, stages) < 0.6, torch.rand(n, stages, dtype=torch.float64) * 10


def rows_of(curve):
    columns = (curve.thresholds, curve.deferral_rate, curve.accuracy, curve.cost)
    return torch.stack(columns, dim=1)


def check_two_stages(scores, correct, costs):
    curve = sweep(scores, correct, costs)
    columns = scores.reshape(len(scores), -1)
    expected = brute_force_curve(columns.tolist(), correct.tolist(), costs.tolist())
    torch.testing.assert_close(
        rows_of(curve), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )
    assert curve.accuracy.tolist() == [row[2] for row in expected]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [2, 7, 1000])
def test_two_stages_equal_brute_force(seed, levels):
    torch.manual_seed(seed)
    check_two_stages(*random_case(60, 2, levels))


def test_one_sample_equals_brute_force():
    scores, correct = torch.tensor([0.5]), torch.tensor([[False, True]])
    check_two_stages(scores, correct, torch.tensor([[1.0, 5.0]]))
    assert sweep(scores, correct, torch.ones(1, 2)).thresholds.tolist() == [-math.inf, math.inf]


def test_equal_scores_leave_nothing_between_the_ends():
    _, correct, costs = random_case(30, 2)
    check_two_stages(torch.full((30,), 0.3), correct, costs)
    assert len(sweep(torch.full((30,), 0.3), correct, costs)) == 2


def test_a_class_without_samples_equals_brute_force():
    labels = torch.randint(0, 3, (80,))
    small, large = torch.randn(80, 4), torch.randn(80, 4) * 2
    large[torch.arange(80), labels] += 2
    scores, answer = score_and_answer(small)
    correct = torch.stack([answer == labels, large.argmax(dim=1) == labels], dim=1)
    check_two_stages(scores, correct, torch.tensor([[1.0, 9.0]]).expand(80, 2))


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 50])
@pytest.mark.parametrize("seed", range(3))
def test_the_curve_says_what_any_shared_threshold_does(stages, n, seed):
    torch.manual_seed(seed)
    scores, correct, costs = random_case(n, stages)
    curve = sweep(scores, correct, costs)
    lists = scores.tolist(), correct.tolist(), costs.tolist()
    for threshold, *row in rows_of(curve).tolist():
        assert row == pytest.approx(brute_force_point(*lists, threshold), rel=1e-12, abs=1e-12)
    listed = rows_of(curve)[:, 1:]
    for _, *row in brute_force_curve(*lists):
        gap = (listed - torch.tensor(row, dtype=torch.float64)).abs().amax(dim=1)
        assert gap.min() < 1e-11


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_every_row_routes_differently(stages):
    scores, correct, _ = random_case(40, stages)
    costs = 2.0 ** torch.arange(40)[:, None] * torch.arange(1, stages + 1)
    curve = sweep(scores, correct, costs)
    assert len(set(curve.cost.tolist())) == len(curve)
    assert (curve.cost.diff() > 0).all()


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_both_ends_are_the_models(stages):
    scores, correct, _ = random_case(70, stages)
    costs = torch.randint(1, 10**9, (70, stages)).double()
    curve = sweep(scores, correct, costs)
    alone = [correct[:, k].sum().item() / 70 for k in range(stages)]
    assert curve.stage_accuracy.tolist() == alone
    assert (curve.accuracy[0].item(), curve.accuracy[-1].item()) == (alone[0], alone[-1])
    assert (curve.deferral_rate[0].item(), curve.deferral_rate[-1].item()) == (0.0, 1.0)
    assert curve.stage_cost.tolist() == [costs[:, k].sum().item() / 70 for k in range(stages)]
    assert curve.cost[0].item() == costs[:, 0].sum().item() / 70
    assert curve.cost[-1].item() == costs.sum().item() / 70
    assert curve.n == 70


@pytest.mark.parametrize("stages", [2, 3])
def test_permuting_samples_changes_nothing(stages):
    scores, correct, _ = random_case(90, stages)
    costs = torch.randint(1, 1000, (90, stages)).double()
    order = torch.randperm(90)
    one = rows_of(sweep(scores, correct, costs))
    assert torch.equal(one, rows_of(sweep(scores[order], correct[order], costs[order])))


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_thresholds_rise_strictly(stages):
    scores, correct, costs = random_case(90, stages)
    thresholds = sweep(scores, correct, costs).thresholds
    assert (thresholds[0], thresholds[-1]) == (-math.inf, math.inf)
    assert all(a < b for a, b in zip(thresholds.tolist(), thresholds.tolist()[1:], strict=False))
    assert thresholds.dtype == torch.float64


def test_scores_of_two_stages_may_be_a_vector():
    scores, correct, costs = random_case(20, 2)
    one, other = sweep(scores, correct, costs), sweep(scores[:, 0], correct, costs)
    assert torch.equal(rows_of(one), rows_of(other))


def test_random_deferral_is_the_mean_over_all_ways_to_choose():
    _, correct, _ = random_case(6, 2)
    costs = torch.tensor([[2.0, 7.0]]).expand(6, 2)
    line = random_deferral(sweep(torch.rand(6), correct, costs))
    for d in range(7):
        share = d / 6
        per_sample = [(1 - share) * a + share * b for a, b in correct.double().tolist()]
        at = line.accuracy[0] + share * (line.accuracy[-1] - line.accuracy[0])
        assert at.item() == pytest.approx(sum(per_sample) / 6)
        spent = line.cost[0] + share * (line.cost[-1] - line.cost[0])
        assert spent.item() == pytest.approx(2 + 7 * share)


@pytest.mark.parametrize("seed", range(8))
def test_the_oracle_is_the_best_of_all_subsets(seed):
    torch.manual_seed(seed)
    n = seed + 1
    correct = torch.rand(n, 2) < 0.5
    oracle = oracle_deferral(correct, torch.tensor([[1.0, 3.0]]).expand(n, 2))
    assert oracle.accuracy.tolist() == pytest.approx(best_deferrals(correct.tolist()))
    assert oracle.cost.tolist() == pytest.approx([1 + 3 * d / n for d in range(n + 1)])


@pytest.mark.parametrize("seed", range(5))
def test_no_score_beats_the_oracle(seed):
    torch.manual_seed(seed)
    correct = torch.rand(80, 2) < torch.tensor([0.6, 0.8])
    costs = torch.tensor([[1.0, 10.0]]).expand(80, 2)
    curve = sweep(torch.rand(80), correct, costs)
    oracle = oracle_deferral(correct, costs)
    for cost, accuracy in zip(curve.cost.tolist(), curve.accuracy.tolist(), strict=True):
        reached = oracle.accuracy[oracle.cost <= cost + 1e-9].max().item()
        assert accuracy <= reached


def test_the_oracle_defers_the_cheapest_gain_first():
    correct = torch.tensor([[False, True], [True, False], [False, True], [True, True]])
    costs = torch.tensor([[1.0, 8.0], [1.0, 1.0], [1.0, 2.0], [1.0, 4.0]])
    oracle = oracle_deferral(correct, costs)
    assert oracle.accuracy.tolist() == [0.5, 0.75, 1.0, 1.0, 0.75]
    assert (oracle.cost * 4).tolist() == [4.0, 6.0, 14.0, 18.0, 19.0]


def test_a_nan_score_names_its_sample():
    scores, correct, costs = random_case(9, 3)
    scores[4, 1] = math.nan
    scores[6, 0] = math.nan
    with pytest.raises(CascadeError, match="the score of sample 4 is NaN"):
        sweep(scores, correct, costs)


def test_shapes_that_do_not_fit_are_refused():
    scores, correct, costs = random_case(9, 3)
    for bad in (
        (scores[:, :1], correct, costs),
        (scores[:8], correct, costs),
        (scores, correct, costs[:, :2]),
        (scores, correct, costs[:8]),
    ):
        with pytest.raises(CascadeError, match=r"for 9 samples and 3 stages, expected scores"):
            sweep(*bad)
    with pytest.raises(CascadeError, match="at least 2 stages, got 1"):
        sweep(scores, correct[:, 0], costs)
    with pytest.raises(CascadeError, match="no samples to sweep"):
        sweep(scores[:0], correct[:0], costs[:0])


def check_floors(scores, correct, costs, floors):
    """The curve with floors against one loop over samples per threshold."""
    hidden = torch.stack(
        [above_floor(column, floor) for column, floor in zip(scores.T, floors, strict=True)], dim=1
    )
    curve = sweep(hidden, correct, costs)
    lists = scores.tolist(), correct.tolist(), costs.tolist()
    own = [torch.tensor(floor).item() for floor in floors]
    rows = rows_of(curve).tolist()
    for threshold, *row in rows:
        expected = brute_force_point(*lists, threshold, own)
        assert row == pytest.approx(expected, rel=1e-12, abs=1e-12)
    points = {s for own_scores in lists[0] for s in own_scores}
    for threshold in (-math.inf, *points, math.inf):
        (expected,) = ([*row] for row in [brute_force_point(*lists, threshold, own)])
        assert any(row[1:] == pytest.approx(expected, rel=1e-12, abs=1e-12) for row in rows)
    return curve


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 50])
@pytest.mark.parametrize("seed", range(3))
def test_floors_equal_brute_force(stages, n, seed):
    torch.manual_seed(seed)
    scores, correct, costs = random_case(n, stages)
    floors = ([2 / 7, 3 / 7, 0.5][: stages - 1], [math.inf] * (stages - 1), [0.0] * (stages - 1))
    for own in floors:
        check_floors(scores, correct, costs, own)


def test_below_a_floor_nothing_is_ever_deferred():
    _, correct, costs = random_case(30, 2)
    for scores in (torch.rand(30, 1), torch.full((30, 1), 0.3)):
        curve = check_floors(scores, correct, costs, [2.0])
        assert curve.thresholds.tolist() == [-math.inf]
        assert curve.deferral_rate.tolist() == [0.0]
        assert curve.least_score == math.inf
        assert curve.accuracy.tolist() == [correct[:, 0].sum().item() / 30]


def test_floored_samples_stay_at_every_threshold():
    scores = torch.tensor([[0.1], [0.4], [0.4], [0.9]])
    correct = torch.tensor([[False, True]] * 4)
    curve = check_floors(scores, correct, torch.ones(4, 2), [0.2])
    assert curve.deferral_rate.tolist() == [0.0, 0.5, 0.75]
    assert curve.thresholds.tolist() == [-math.inf, scores[3, 0].item(), math.inf]
    assert curve.least_score == scores[1, 0].item()


def test_stages_alone_may_be_right_where_the_cascade_is_not():
    scores, correct, costs = random_case(40, 3)
    alone = torch.rand(40, 3) < 0.3
    curve, plain = sweep(scores, correct, costs, alone), sweep(scores, correct, costs)
    assert torch.equal(rows_of(curve), rows_of(plain))
    assert curve.stage_accuracy.tolist() == [alone[:, k].sum().item() / 40 for k in range(3)]
