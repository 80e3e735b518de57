import math

import pytest
import torch

from lit_cascade.core.contract import above_floor, answers_here, replay, route
from lit_cascade.core.policy import Policy
from lit_cascade.core.scores import SCORES, score_and_answer
from lit_cascade.errors import CascadeError
from tests.oracles import stage_of


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
