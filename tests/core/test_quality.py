"""Deferral quality, AURC and cost at equal accuracy, against enumeration of all orders."""

import math

import pytest
import torch

from lit_cascade.core.curve import operating_points, oracle_deferral, sweep
from lit_cascade.core.quality import aurc, deferral_quality, quality_of
from lit_cascade.errors import CascadeError
from tests.quality_oracles import slow_aurc, slow_cost_ratio, slow_quality

SMALL = [False, True, True, False, True]
LARGE = [True, True, False, False, True]


def made(n, seed, levels=None):
    """Informative scores of a small model, rounded to few levels."""
    generator = torch.Generator().manual_seed(seed)
    hard = torch.rand(n, generator=generator)
    scores = 1 - hard + 0.5 * torch.rand(n, generator=generator)
    if levels is not None:
        scores = (scores * levels).round() / levels
    small = torch.rand(n, generator=generator) > hard**2
    large = torch.rand(n, generator=generator) > 0.2
    costs = torch.stack([torch.ones(n), 2 + 8 * torch.rand(n, generator=generator)], dim=1)
    return scores, torch.stack([small, large], dim=1), costs.double()


def area_by(scores):
    return deferral_quality(torch.tensor(scores), torch.tensor(SMALL), torch.tensor(LARGE))


def test_by_hand():
    # deferring in the order of the samples: 3, 4, 4, 3, 3, 3 of 5 right; chance has 3 throughout;
    # the oracle 3, 4, 4, 4, 4, 3
    assert area_by([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 4)
    # the other way round: 3, 3, 3, 2, 2, 3
    assert area_by([0.5, 0.4, 0.3, 0.2, 0.1]) == pytest.approx(-2 / 4)
    # the first three are tied: 3, then linear to 3 after three, 3, 3
    assert area_by([0.1, 0.1, 0.1, 0.2, 0.3]) == pytest.approx(0)


def test_the_oracle_has_one_and_its_opposite_minus_one():
    _, correct, _ = made(300, 0)
    gain = correct[:, 1].double() - correct[:, 0].double()
    assert deferral_quality(-gain, *correct.T) == 1
    assert deferral_quality(gain, *correct.T) == -1


@pytest.mark.parametrize("value", [0.0, 0.5, -3.0])
def test_equal_scores_are_no_better_than_random(value):
    _, correct, _ = made(50, 1)
    scores = torch.full((50,), value)
    assert deferral_quality(scores, *correct.T) == 0
    assert aurc(scores, correct[:, 0]) == pytest.approx(float((~correct[:, 0]).double().mean()))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("levels", [None, 2, 4])
def test_every_figure_equals_enumeration(seed, levels):
    scores, correct, costs = made(6, seed, levels)
    found = quality_of(scores, correct, costs)
    columns = scores.tolist(), correct[:, 0].tolist(), correct[:, 1].tolist()
    expected = slow_quality(*columns)
    if expected is None:
        assert found.area.isnan().all()
        assert math.isnan(deferral_quality(scores, *correct.T))
    else:
        assert float(found.area) == pytest.approx(expected, abs=1e-12)
        assert deferral_quality(scores, *correct.T) == float(found.area)
    assert float(found.aurc) == pytest.approx(slow_aurc(*columns[:2]), abs=1e-12)
    assert aurc(scores, correct[:, 0]) == float(found.aurc)
    ratio = slow_cost_ratio(columns[0], correct.tolist(), costs.tolist())
    assert float(found.cost_ratio) == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize(
    ("small", "large"), [(True, True), (False, False), (True, False), (False, True)]
)
def test_one_sample_has_no_area(small, large):
    found = deferral_quality(torch.tensor([0.5]), torch.tensor([small]), torch.tensor([large]))
    assert math.isnan(found)
    assert aurc(torch.tensor([0.5]), torch.tensor([small])) == (not small)


@pytest.mark.parametrize("fixed", [False, True])
def test_models_that_differ_nowhere_or_everywhere_have_no_area(fixed):
    right = torch.full((9,), fill_value=fixed)
    assert math.isnan(deferral_quality(torch.rand(9), right, right))
    assert math.isnan(deferral_quality(torch.rand(9), ~right, right))


@pytest.mark.parametrize("rising", [torch.exp, lambda x: x**3, lambda x: 5 * x - 7, torch.atan])
@pytest.mark.parametrize("levels", [None, 7])
def test_increasing_functions_of_the_scores_change_nothing(rising, levels):
    scores, correct, costs = made(500, 3, levels)
    scores = scores.double()
    one, other = (quality_of(some, correct, costs) for some in (scores, rising(scores)))
    assert torch.equal(one.area, other.area)
    assert torch.equal(one.aurc, other.aurc)
    assert torch.equal(one.cost_ratio, other.cost_ratio)


@pytest.mark.parametrize("levels", [None, 7])
def test_the_order_of_the_samples_changes_nothing(levels):
    scores, correct, costs = made(500, 4, levels)
    order = torch.randperm(500)
    one, other = (
        quality_of(scores, correct, costs),
        quality_of(scores[order], correct[order], costs[order]),
    )
    assert torch.equal(one.area, other.area)
    assert float(one.aurc) == pytest.approx(float(other.aurc), rel=1e-12)
    assert float(one.cost_ratio) == pytest.approx(float(other.cost_ratio), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_aurc_agrees_with_torch_uncertainty(seed):
    from torch_uncertainty.metrics.classification import AURC

    probabilities = torch.randn(400, 5).mul(2).softmax(1)
    labels = torch.where(torch.rand(400) < 0.7, probabilities.argmax(1), torch.tensor(seed))
    metric = AURC()
    metric.update(probabilities, labels)
    scores, right = probabilities.max(1).values, probabilities.argmax(1) == labels
    assert len(scores.unique()) == 400
    # theirs uses the trapezoid rule, with half the weight on the first and the last risk
    first, last = float(~right[scores.argmax()]), float((~right).double().mean())
    theirs = (float(metric.compute()) * 399 + (first + last) / 2) / 400
    assert aurc(scores, right) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("levels", [None, 5, 40])
@pytest.mark.parametrize("seed", range(3))
def test_cost_at_equal_accuracy_is_the_operating_point_of_the_sweep(seed, levels):
    scores, correct, costs = made(800, seed, levels)
    point = operating_points(sweep(scores, correct, costs))["same_accuracy"]
    assert point is not None
    ratio = float(quality_of(scores, correct, costs).cost_ratio)
    assert ratio == pytest.approx(point.cost_ratio, rel=1e-12)


def test_where_nothing_is_cheaper_the_ratio_is_one():
    correct = torch.tensor([[False, True], [False, True]])
    found = quality_of(torch.tensor([0.2, 0.8]), correct, torch.tensor([[1.0, 2.0]] * 2))
    assert found.cost_ratio.tolist() == [1.0]
    same = quality_of(torch.tensor([0.2]), correct[:1, 1:].expand(1, 2), torch.tensor([[3.0, 2.0]]))
    assert same.cost_ratio.tolist() == [1.0]


@pytest.mark.parametrize("levels", [None, 3])
def test_weights_count_samples_that_often(levels):
    scores, correct, costs = made(40, 5, levels)
    drawn = torch.randint(0, 40, (6, 40))
    weights = torch.stack([row.bincount(minlength=40) for row in drawn])
    found = quality_of(scores, correct, costs, weights)
    for d, rows in enumerate(drawn):
        one = quality_of(scores[rows], correct[rows], costs[rows])
        assert float(found.area[d]) == pytest.approx(float(one.area), abs=1e-12)
        assert float(found.aurc[d]) == pytest.approx(float(one.aurc), abs=1e-12)
        assert float(found.cost_ratio[d]) == pytest.approx(float(one.cost_ratio), rel=1e-12)


@pytest.mark.parametrize("levels", [None, 5])
def test_the_area_is_that_under_the_swept_curve(levels):
    scores, correct, costs = made(300, 6, levels)
    swept = sweep(scores, correct, costs)
    oracle = oracle_deferral(correct, torch.tensor([[0.0, 1.0]]).expand(300, 2))
    own = float(torch.trapezoid(swept.accuracy, swept.deferral_rate))
    bound = float(torch.trapezoid(oracle.accuracy, oracle.cost))
    chance = float(swept.stage_accuracy.mean())
    expected = (own - chance) / (bound - chance)
    assert deferral_quality(scores, *correct.T) == pytest.approx(expected, rel=1e-12)


def test_inputs_that_do_not_fit_are_refused():
    right, costs = torch.ones(3, 2).bool(), torch.ones(3, 2)
    with pytest.raises(CascadeError, match="no samples"):
        deferral_quality(torch.zeros(0), right[:0, 0], right[:0, 1])
    with pytest.raises(CascadeError, match="score of sample 1 is NaN"):
        quality_of(torch.tensor([0.0, math.nan, 1.0]), right, costs)
    with pytest.raises(CascadeError, match="one score per sample"):
        aurc(torch.rand(2), right[:, 0])
    with pytest.raises(CascadeError, match=r"two models, of shape \(3, 2\)"):
        quality_of(torch.rand(3), torch.ones(3, 3).bool(), torch.ones(3, 3))
    with pytest.raises(CascadeError, match="costs nothing"):
        quality_of(torch.rand(3), right, torch.zeros(3, 2))
