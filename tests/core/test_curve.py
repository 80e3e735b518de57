from __future__ import annotations

import math

import pytest
import torch

from lit_cascade.core.contract import above_floor
from lit_cascade.core.curve import (
    Curve,
    cheapest,
    operating_points,
    oracle_deferral,
    sweep,
)
from lit_cascade.core.metrics import Answers
from lit_cascade.core.scores import score_and_answer
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
def test_any_shared_threshold_is_a_point_of_the_curve(stages, n, seed):
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
def test_the_ends_of_the_curve_are_the_models(stages):
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


def test_scores_of_two_stages_may_have_one_axis():
    scores, correct, costs = random_case(20, 2)
    one, other = sweep(scores, correct, costs), sweep(scores[:, 0], correct, costs)
    assert torch.equal(rows_of(one), rows_of(other))


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


def random_curve(seed, n=60, small=0.6, large=0.8):
    torch.manual_seed(seed)
    scores = torch.randint(0, 25, (n,)) / 25
    correct = torch.rand(n, 2) < torch.tensor([small, large])
    return sweep(scores, correct, torch.tensor([[1.0, 10.0]]).expand(n, 2))


def rows_of_selection(curve):
    columns = (curve.thresholds, curve.deferral_rate, curve.accuracy, curve.cost)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def brute_cheapest(curve, target):
    last = curve.stage_cost[-1].item()
    good = [row for row in rows_of_selection(curve) if row[2] >= target - 1e-9 and row[3] < last]
    return min(good, key=lambda row: (row[3], -row[2], row[0]), default=None)


def as_row(point):
    return (point.threshold, point.deferral_rate, point.accuracy, point.cost)


@pytest.mark.parametrize("seed", range(20))
def test_cheapest_equals_brute_force(seed):
    curve = random_curve(seed)
    for target in (0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 1.0):
        found, expected = cheapest(curve, target), brute_cheapest(curve, target)
        assert (found and as_row(found)) == expected
        if found:
            assert found.cost_ratio == pytest.approx(found.cost / 10)


@pytest.mark.parametrize("seed", range(20))
def test_best_equals_brute_force(seed):
    curve = random_curve(seed)
    expected = min(rows_of_selection(curve), key=lambda row: (-row[2], row[3], row[0]))
    assert as_row(operating_points(curve)["best_accuracy"]) == expected


@pytest.mark.parametrize("seed", range(10))
def test_operating_points_equal_brute_force(seed):
    curve = random_curve(seed, n=400)
    points = operating_points(curve)
    last = curve.stage_accuracy[-1].item()
    assert list(points) == ["same_accuracy", "best_accuracy", "drop_0.5", "drop_1.0"]
    for name, drop in (("same_accuracy", 0.0), ("drop_0.5", 0.005), ("drop_1.0", 0.01)):
        found = points[name]
        assert (found and as_row(found)) == brute_cheapest(curve, last - drop)


def test_nothing_cheaper_than_the_last_stage_is_none():
    correct = torch.tensor([[False, True]] * 4)
    costs = torch.tensor([[1.0, 10.0]]).expand(4, 2)
    curve = sweep(torch.tensor([0.1, 0.2, 0.3, 0.4]), correct, costs)
    points = operating_points(curve)
    assert points["same_accuracy"] is points["drop_0.5"] is points["drop_1.0"] is None
    assert points["best_accuracy"].threshold == math.inf
    assert cheapest(curve, 1.1) is None


@pytest.mark.parametrize("seed", range(10))
def test_everything_deferred_at_no_cost_is_no_saving(seed):
    torch.manual_seed(seed)
    costs = torch.rand(50, 2, dtype=torch.float64)
    costs[:, 0] = 0
    correct = torch.tensor([[False, True]]).expand(50, 2)
    assert operating_points(sweep(torch.rand(50), correct, costs))["same_accuracy"] is None


def test_ties_in_cost_go_to_the_more_accurate_then_to_the_lower_threshold():
    accuracy = [0.5, 0.7, 0.9, 0.9, 0.9]
    curve = Curve(
        thresholds=torch.tensor([-math.inf, 0.25, 0.5, 0.75, math.inf]).double(),
        reached=torch.tensor([[0.0], [0.25], [0.5], [0.75], [1.0]]).double(),
        accuracy=torch.tensor(accuracy).double(),
        cost=torch.tensor([2.0, 2.0, 2.0, 2.0, 12.0]).double(),
        stage_accuracy=torch.tensor([0.5, 0.9]).double(),
        stage_cost=torch.tensor([2.0, 10.0]).double(),
        least_score=0.25,
        n=10,
    )
    best = operating_points(curve)["best_accuracy"]
    assert cheapest(curve, 0.4).threshold == best.threshold == 0.5


def test_a_small_model_as_good_as_the_large_answers_all():
    correct = torch.tensor([[True, True], [False, True], [True, False]])
    costs = torch.tensor([[1.0, 10.0]]).expand(3, 2)
    point = operating_points(sweep(torch.tensor([0.9, 0.5, 0.7]), correct, costs))["same_accuracy"]
    assert (point.threshold, point.deferral_rate, point.cost_ratio) == (-math.inf, 0.0, 0.1)


@pytest.mark.parametrize("n", [200, 400, 600, 1000, 2000, 5000, 7000, 9800, 50_000])
@pytest.mark.parametrize(("name", "drop"), [("drop_0.5", 5), ("drop_1.0", 10)])
def test_a_target_is_met_exactly_and_not_by_one_sample_less(n, name, drop):
    lost = n * drop // 1000
    for last in range(lost + 2, n + 1, 1 if n <= 600 else n // 8):
        for missing, threshold in ((lost, -math.inf), (lost + 1, 0.5)):
            correct = torch.ones(n, 2, dtype=torch.bool)
            correct[last:] = False
            correct[:missing, 0] = False
            scores = torch.ones(n)
            scores[0] = 0.25
            scores[1:missing] = 0.5
            costs = torch.tensor([[1.0, 10.0]]).expand(n, 2)
            point = operating_points(sweep(scores, correct, costs))[name]
            assert point.threshold == threshold


def curve_by(metric, seed, n=400, classes=2):
    torch.manual_seed(seed)
    labels = (torch.rand(n) < 0.3).long()
    said = torch.where(torch.rand(n, 2) < torch.tensor([0.7, 0.8]), labels[:, None], 1)
    costs = torch.tensor([[1.0, 10.0]]).expand(n, 2)
    answers = Answers(metric, said, said, labels, classes)
    return sweep(torch.rand(n), said == labels[:, None], costs, answers=answers)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("metric", ["f1", "f1_macro", "matthews"])
def test_points_by_a_metric_equal_brute_force(metric, seed):
    curve = curve_by(metric, seed)
    rows = list(
        zip(
            curve.by_metric.tolist(), curve.cost.tolist(), curve.thresholds.tolist(),
            curve.accuracy.tolist(), strict=True,
        )
    )  # fmt: skip
    last = curve.stage_by_metric[-1].item()
    points = operating_points(curve, metric)
    assert list(points) == [f"same_{metric}", f"best_{metric}", "drop_0.5", "drop_1.0"]
    expected = {f"best_{metric}": min(rows, key=lambda row: (-row[0], row[1], row[2]))}
    for name, drop in ((f"same_{metric}", 0.0), ("drop_0.5", 0.005), ("drop_1.0", 0.01)):
        good = [row for row in rows if row[0] >= last - drop - 1e-12 and row[1] < 10]
        expected[name] = min(good, key=lambda row: (row[1], -row[0], row[2]), default=None)
    for name, row in expected.items():
        point = points[name]
        told = point and (point.metric, point.cost, point.threshold, point.accuracy)
        assert told == row
    by_accuracy = operating_points(curve)
    assert by_accuracy["best_accuracy"].accuracy == curve.accuracy.max()
    at = curve.thresholds.tolist().index(by_accuracy["best_accuracy"].threshold)
    assert by_accuracy["best_accuracy"].metric == curve.by_metric[at].item()


def test_the_best_f1_need_not_be_the_most_accurate():
    labels = torch.tensor([1, 0, 0, 0])
    said = torch.tensor([[0, 1], [0, 1], [0, 0], [0, 0]])
    answers = Answers("f1", said, said, labels, 2)
    costs = torch.tensor([[1.0, 10.0]]).expand(4, 2)
    scores = torch.tensor([0.5, 0.25, 0.75, 0.75])
    curve = sweep(scores, said == labels[:, None], costs, answers=answers)
    best = operating_points(curve)["best_accuracy"]
    assert (best.threshold, best.metric) == (-math.inf, 0.0)
    found = operating_points(curve, "f1")["best_f1"]
    assert (found.threshold, found.metric, found.accuracy) == (0.75, 2 / 3, 0.75)


def test_an_f1_that_is_hardly_lower_is_not_the_same():
    # of 50,000 samples two F1 may be 10^-10 apart
    curve = curve_by("f1", 0)
    values = torch.tensor([0.8 - 1e-10, 0.8], dtype=torch.float64)
    near = Curve(
        thresholds=curve.thresholds[:2],
        reached=curve.reached[:2],
        accuracy=curve.accuracy[:2],
        cost=torch.tensor([1.0, 2.0]).double(),
        stage_accuracy=curve.stage_accuracy,
        stage_cost=curve.stage_cost,
        least_score=0.0,
        n=50_000,
        metric="f1",
        by_metric=values,
        stage_by_metric=torch.tensor([0.7, 0.8], dtype=torch.float64),
    )
    assert operating_points(near, "f1")["same_f1"].metric == values[1].item()


def test_points_by_a_metric_that_the_curve_lacks_are_refused():
    with pytest.raises(CascadeError, match="the curve was made without f1"):
        operating_points(random_curve(0), "f1")
