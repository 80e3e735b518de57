import math

import pytest

from lit_cascade.core.policy import Policy
from lit_cascade.core.scores import SCORES
from lit_cascade.errors import UsageError


def test_a_policy_fills_in_temperatures():
    policy = Policy((0.5, 0.6))
    assert policy.temperatures == (1.0, 1.0, 1.0)
    assert policy.stages == 3


def test_nan_is_no_threshold():
    with pytest.raises(UsageError, match="thresholds: NaN"):
        Policy((0.5, math.nan))


@pytest.mark.parametrize(
    ("score", "threshold"),
    [
        ("max_softmax", 1.0001),
        ("max_softmax", -0.1),
        ("margin", 50),
        ("margin", -1e-9),
        ("negative_entropy", 0.5),
    ],
)
def test_a_threshold_the_score_cannot_reach_is_refused(score, threshold):
    with pytest.raises(UsageError, match="outside the range of the score") as caught:
        Policy((threshold,), score)
    assert repr(score) in str(caught.value)
    assert str(float(threshold)) in str(caught.value)


@pytest.mark.parametrize("score", list(SCORES))
def test_the_ends_of_the_range_and_the_infinities_are_thresholds(score):
    for threshold in (SCORES[score].low, SCORES[score].high, -math.inf, math.inf):
        assert Policy((threshold,), score).thresholds == (threshold,)


@pytest.mark.parametrize("temperatures", [(1.0,), (1.0, 1.0, 1.0)])
def test_temperatures_must_be_one_per_stage(temperatures):
    with pytest.raises(UsageError, match="1 thresholds make 2 stages"):
        Policy((0.5,), temperatures=temperatures)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_must_be_finite_and_positive(temperature):
    with pytest.raises(UsageError, match="temperatures: expected finite numbers above 0"):
        Policy((0.5,), temperatures=(1.0, temperature))


def test_an_unknown_score_is_refused():
    with pytest.raises(UsageError, match=r"'entropy' is unknown"):
        Policy((0.5,), "entropy")


def test_a_policy_fills_in_floors():
    assert Policy((0.5, 0.6)).floors == (-math.inf, -math.inf)
    assert Policy((0.5, 0.6), floors=(0.5, -math.inf)).floors == (0.5, -math.inf)


@pytest.mark.parametrize(
    ("thresholds", "floors", "says"),
    [
        ((0.5,), (0.1, 0.1), r"floors: expected one per threshold \(1\), got 2"),
        ((0.5, 0.5), (0.1,), r"floors: expected one per threshold \(2\), got 1"),
        ((0.5,), (0.6,), "floors: 0.6 is above its threshold 0.5"),
        ((0.5,), (math.inf,), "floors: inf is above its threshold 0.5"),
        ((-math.inf,), (0.1,), "floors: 0.1 is above its threshold -inf"),
        ((0.5,), (math.nan,), "floors: nan is above its threshold"),
        ((0.5, 0.2), (0.1, 0.3), "floors: 0.3 is above its threshold 0.2"),
    ],
)
def test_floors_that_do_not_fit_are_refused(thresholds, floors, says):
    with pytest.raises(UsageError, match=says):
        Policy(thresholds, floors=floors)
