import math

import pytest
import torch

from lit_cascade.core.policy import Policy, above_floor, answers_here, replay, route
from lit_cascade.core.scores import SCORES, score_and_answer
from lit_cascade.core.vector import VectorScaling
from lit_cascade.errors import CascadeError, UsageError
from tests.oracles import softmax, stage_of


def test_a_tie_answers():
    assert answers_here(torch.tensor([0.25, 0.5, 0.75]), 0.5).tolist() == [False, True, True]


def test_minus_infinity_never_defers_and_infinity_always():
    scores = torch.tensor([-50.0, 0.0, 1.0])
    assert answers_here(scores, -math.inf).all()
    assert not answers_here(scores, math.inf).any()


@pytest.mark.parametrize("threshold", [-math.inf, 0.0, 1.0, math.inf])
def test_nan_defers(threshold):
    assert not answers_here(torch.tensor([math.nan]), threshold).any()


def test_a_threshold_read_back_from_text_ties():
    scores = torch.rand(2000)
    for score in scores.tolist()[:200]:
        assert answers_here(torch.tensor([score]), float(repr(score))).all()
    for text in ("0.1", "0.3", "0.7", "0.9", "0.95"):
        single = torch.tensor([float(text)])
        assert answers_here(single, float(text)).all()
        assert not answers_here(single.nextafter(torch.zeros(1)), float(text)).any()


@pytest.mark.parametrize("stages", [2, 3, 4, 5])
def test_route_equals_a_loop_over_samples(stages):
    scores = [torch.randint(0, 6, (400,)) / 5 for _ in range(stages - 1)]
    scores[0][::17] = math.nan
    for thresholds in (
        [0.5] * (stages - 1),
        [0.4, 1.0, 0.2, 0.6][: stages - 1],
        [math.inf, -math.inf, 0.5, 0.5][: stages - 1],
    ):
        single = torch.tensor(thresholds).tolist()
        rows = zip(*(column.tolist() for column in scores), strict=True)
        expected = [stage_of(row, single) for row in rows]
        assert route(scores, thresholds).tolist() == expected


@pytest.mark.parametrize("stages", [2, 3, 4, 5])
@pytest.mark.parametrize("score", list(SCORES))
def test_replay_equals_a_loop_over_samples(stages, score):
    logits = [torch.randint(-3, 4, (200, 3)).float() for _ in range(stages)]
    temperatures = [1.0, 2.0, 0.5, 1.5, 1.0][:stages]
    columns = [
        score_and_answer(stage, score, temperature)[0]
        for stage, temperature in zip(logits, temperatures, strict=True)
    ]
    thresholds = [columns[k].sort().values[60 + 20 * k].item() for k in range(stages - 1)]
    found = replay(logits, Policy(tuple(thresholds), score, tuple(temperatures)))
    for i in range(200):
        stage = stage_of([column[i].item() for column in columns[:-1]], thresholds)
        row = logits[stage][i].tolist()
        assert (found.stage[i], found.prediction[i]) == (stage, row.index(max(row)))


def test_the_last_stage_answers_even_nan():
    logits = [torch.full((2, 3), math.nan), torch.full((2, 3), math.nan)]
    assert replay(logits, Policy((-math.inf,))).stage.tolist() == [1, 1]


def test_temperature_moves_samples_and_keeps_answers():
    logits = [torch.randn(300, 5) * 3, torch.randn(300, 5) * 3]
    cold = replay(logits, Policy((0.9,), temperatures=(0.5, 1.0)))
    hot = replay(logits, Policy((0.9,), temperatures=(2.0, 1.0)))
    assert (cold.stage == 0).sum() > (hot.stage == 0).sum()
    same = cold.stage == hot.stage
    assert torch.equal(cold.prediction[same], hot.prediction[same])


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


def test_route_needs_one_threshold_per_deferring_stage():
    with pytest.raises(CascadeError, match=r"deferring stage \(1\), got 2"):
        route([torch.rand(3)], [0.5, 0.5])
    with pytest.raises(CascadeError):
        route([], [])


def test_replay_needs_a_policy_for_as_many_stages():
    with pytest.raises(CascadeError, match="the policy is for 3 stages, got 2"):
        replay([torch.zeros(1, 2)] * 2, Policy((0.5, 0.5)))


def test_a_stage_answers_below_its_floor_too():
    scores = torch.tensor([0.1, 0.2, 0.3, 0.6, 0.7, math.nan])
    found = answers_here(scores, 0.6, torch.tensor(0.2).item())
    assert found.tolist() == [True, False, False, True, True, False]


@pytest.mark.parametrize("floor", [-math.inf, 0.2, 0.5, 0.6, math.inf])
@pytest.mark.parametrize("threshold", [-math.inf, 0.6, 1.0, math.inf])
def test_a_window_equals_a_loop_over_samples(threshold, floor):
    scores = [torch.randint(0, 11, (300,)) / 10 for _ in range(2)]
    scores[0][::13] = math.nan
    scores[1][::17] = math.nan
    single = torch.tensor([threshold, floor]).tolist()
    rows = zip(*(column.tolist() for column in scores), strict=True)
    expected = [stage_of(row, [single[0], 0.5], [single[1], -math.inf]) for row in rows]
    assert route(scores, [threshold, 0.5], [floor, -math.inf]).tolist() == expected


def test_nothing_but_nan_is_deferred_between_a_threshold_and_an_equal_floor():
    scores = torch.tensor([0.0, 0.4, 0.5, 0.6, 1.0, math.nan])
    assert answers_here(scores, 0.5, 0.5).tolist() == [True] * 5 + [False]
    assert answers_here(scores, math.inf, math.inf).tolist() == [True] * 5 + [False]


def test_a_floor_read_back_from_text_ties():
    for score in torch.rand(200).tolist():
        assert not answers_here(torch.tensor([score]), math.inf, float(repr(score))).any()
        above = torch.tensor([score]).nextafter(torch.ones(1)).item()
        assert answers_here(torch.tensor([score]), math.inf, above).all()


def test_scores_are_left_as_they_were():
    scores = torch.tensor([0.1, 0.9])
    assert above_floor(scores, 0.5).tolist() == [math.inf, scores[1].item()]
    assert scores.tolist() == torch.tensor([0.1, 0.9]).tolist()


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
