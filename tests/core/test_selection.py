import math

import pytest
import torch

from lit_cascade.core.answers import Answers
from lit_cascade.core.selection import best, cheapest, operating_points
from lit_cascade.core.sweep import Curve, sweep
from lit_cascade.errors import CascadeError


def random_curve(seed, n=60, small=0.6, large=0.8):
    torch.manual_seed(seed)
    scores = torch.randint(0, 25, (n,)) / 25
    correct = torch.rand(n, 2) < torch.tensor([small, large])
    return sweep(scores, correct, torch.tensor([[1.0, 10.0]]).expand(n, 2))


def rows_of(curve):
    columns = (curve.thresholds, curve.deferral_rate, curve.accuracy, curve.cost)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def brute_cheapest(curve, target):
    last = curve.stage_cost[-1].item()
    good = [row for row in rows_of(curve) if row[2] >= target - 1e-9 and row[3] < last]
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
    expected = min(rows_of(curve), key=lambda row: (-row[2], row[3], row[0]))
    assert as_row(best(curve)) == expected


@pytest.mark.parametrize("seed", range(10))
def test_operating_points_equal_brute_force(seed):
    curve = random_curve(seed, n=400)
    points = operating_points(curve)
    last = curve.stage_accuracy[-1].item()
    assert list(points) == ["same_accuracy", "best_accuracy", "drop_0.5", "drop_1.0"]
    for name, drop in (("same_accuracy", 0.0), ("drop_0.5", 0.005), ("drop_1.0", 0.01)):
        found = points[name]
        assert (found and as_row(found)) == brute_cheapest(curve, last - drop)
    assert points["best_accuracy"] == best(curve)


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
        deferral_rate=torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).double(),
        accuracy=torch.tensor(accuracy).double(),
        cost=torch.tensor([2.0, 2.0, 2.0, 2.0, 12.0]).double(),
        stage_accuracy=torch.tensor([0.5, 0.9]).double(),
        stage_cost=torch.tensor([2.0, 10.0]).double(),
        least_score=0.25,
        n=10,
    )
    assert cheapest(curve, 0.4).threshold == best(curve).threshold == 0.5


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
    assert (best(curve).threshold, best(curve).metric) == (-math.inf, 0.0)
    found = best(curve, "f1")
    assert (found.threshold, found.metric, found.accuracy) == (0.75, 2 / 3, 0.75)


def test_an_f1_that_is_hardly_lower_is_not_the_same():
    # of 50,000 samples two F1 may be 10^-10 apart
    curve = curve_by("f1", 0)
    values = torch.tensor([0.8 - 1e-10, 0.8], dtype=torch.float64)
    near = Curve(
        thresholds=curve.thresholds[:2],
        deferral_rate=curve.deferral_rate[:2],
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
