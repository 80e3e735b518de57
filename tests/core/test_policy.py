import math

import pytest
import torch

from lit_cascade.core.policy import Policy
from lit_cascade.core.scores import SCORES
from lit_cascade.core.vector import VectorScaling
from lit_cascade.errors import UsageError
from tests.oracles import softmax


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


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_vector_scaling_comes_before_score_answer_and_probabilities(temperature):
    """One sample at a time, in plain Python."""
    scale, bias = (0.5, 2.0, 1.0), (0.3, -1.0, 0.1)
    policy = Policy(
        (0.5,),
        temperatures=(temperature, 1.0),
        vectors=(VectorScaling(scale, bias), None),
    )
    logits = torch.randn(200, 3) * 2
    scores, answers = policy.score_and_answer(0, logits)
    probabilities = policy.probabilities(0, logits)
    changed = 0
    for k, row in enumerate(logits.tolist()):
        scaled = [s * v + b for s, v, b in zip(scale, row, bias, strict=True)]
        expected = softmax(scaled, temperature)
        assert probabilities[k].tolist() == pytest.approx(expected, abs=1e-6)
        assert float(scores[k]) == pytest.approx(max(expected), abs=1e-6)
        assert int(answers[k]) == scaled.index(max(scaled))
        changed += int(answers[k]) != row.index(max(row))
    assert changed > 10
    assert torch.equal(policy.score_and_answer(1, logits)[1], logits.argmax(dim=1))


def test_as_many_vectors_as_stages():
    with pytest.raises(UsageError, match=r"vectors: expected one or None per stage \(2\), got 1"):
        Policy((0.5,), vectors=(None,))
