import math

import pytest
import torch

from lit_cascade.core.combination import COMBINATIONS, answers_after, prefer_later
from lit_cascade.core.contract import replay
from lit_cascade.core.policy import Policy
from lit_cascade.core.scores import SCORES, answers_of, probabilities_of, score_and_answer
from lit_cascade.errors import CascadeError, UsageError
from tests.oracles import combined_answer, softmax, stage_of

TEMPERATURES = (3.0, 2.0, 0.5, 1.5)


def judged(logits, score="max_softmax"):
    pairs = [
        score_and_answer(stage, score, temperature)
        for stage, temperature in zip(logits, TEMPERATURES, strict=False)
    ]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def expected_after(combine, logits, scores, answers):
    """One list of answers per sample: what is said if the cascade stops after each stage."""
    rows = []
    for i in range(len(logits[0])):
        said = [
            softmax(stage[i].tolist(), temperature)
            for stage, temperature in zip(logits, TEMPERATURES, strict=False)
        ]
        rows.append(
            [
                combined_answer(
                    combine,
                    [column[i].item() for column in scores[: k + 1]],
                    [column[i].item() for column in answers[: k + 1]],
                    said[: k + 1],
                )
                for k in range(len(logits))
            ]
        )
    return rows


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("score", list(SCORES))
def test_answers_equal_a_loop_over_samples(combine, stages, score):
    logits = [torch.randn(150, 4) * 2 for _ in range(stages)]
    scores, answers = judged(logits, score)
    found = answers_after(combine, scores, answers, map(probabilities_of, logits, TEMPERATURES))
    expected = expected_after(combine, logits, scores, answers)
    assert torch.stack(found, dim=1).tolist() == expected
    assert len({tuple(row) for row in expected}) > 5


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_equal_scores_go_to_the_later_stage(stages):
    scores = [torch.randint(0, 3, (300,)) / 2 for _ in range(stages)]
    for column in scores:
        column[torch.rand(300) < 0.15] = math.nan
    answers = [torch.randint(0, 9, (300,)) for _ in range(stages)]
    found = torch.stack(answers_after("most_confident", scores, answers), dim=1).tolist()
    for i, row in enumerate(found):
        own_scores = [column[i].item() for column in scores]
        own_answers = [column[i].item() for column in answers]
        for k in range(stages):
            said = combined_answer(
                "most_confident", own_scores[: k + 1], own_answers[: k + 1], None
            )
            assert row[k] == said


def test_a_tie_between_classes_goes_to_the_first():
    one, other = torch.tensor([[2.0, 0.0, -9.0]]), torch.tensor([[0.0, 2.0, -9.0]])
    for logits in ([one, other], [other, one]):
        answers = [answers_of(stage) for stage in logits]
        found = answers_after("average", [], answers, map(probabilities_of, logits))
        assert found[1].tolist() == [0]


def test_an_average_can_answer_what_no_stage_did():
    one, other = torch.tensor([[2.0, 1.9, -9.0]]), torch.tensor([[-9.0, 1.9, 2.0]])
    answers = [answers_of(one), answers_of(other)]
    assert [answer.item() for answer in answers] == [0, 2]
    found = answers_after("average", [], answers, map(probabilities_of, [one, other]))
    assert [answer.item() for answer in found] == [0, 1]


def test_only_a_strictly_higher_earlier_score_counts():
    earlier = torch.tensor([0.5, 0.5, 0.6, math.nan, 0.5, math.inf, -math.inf])
    later = torch.tensor([0.5, 0.6, 0.5, 0.5, math.nan, math.inf, -math.inf])
    assert prefer_later(earlier, later).tolist() == [True, True, False, True, True, True, True]


def test_an_unknown_combination_is_named():
    with pytest.raises(UsageError, match=r"combine: 'averag' is unknown.*'average'"):
        answers_after("averag", [], [])
    with pytest.raises(UsageError, match=r"combine: 'mean' is unknown; known are later, average"):
        Policy((0.5,), combine="mean")


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_probabilities_equal_a_loop_and_do_not_depend_on_the_batch(temperature):
    logits = torch.randn(97, 11) * 5
    found = probabilities_of(logits, temperature)
    expected = torch.tensor([softmax(row, temperature) for row in logits.double().tolist()])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    for size in (1, 2, 13, 64):
        parts = [probabilities_of(part, temperature) for part in logits.split(size)]
        assert torch.equal(torch.cat(parts), found)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_probabilities_need_a_temperature_above_0(temperature):
    with pytest.raises(CascadeError, match="temperature must be a finite number above 0"):
        probabilities_of(torch.zeros(1, 2), temperature)


@pytest.mark.parametrize("floored", [False, True])
@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_replay_equals_a_loop_over_samples(combine, stages, floored):
    logits = [torch.randn(200, 3) * 2 for _ in range(stages)]
    scores, answers = judged(logits)
    ordered = [column.sort().values for column in scores[:-1]]
    thresholds = tuple(column[150].item() for column in ordered)
    floors = tuple(column[30].item() for column in ordered) if floored else ()
    policy = Policy(thresholds, "max_softmax", TEMPERATURES[:stages], combine, floors)
    found = replay(logits, policy)
    expected = expected_after(combine, logits, scores, answers)
    for i in range(200):
        own = [column[i].item() for column in scores[:-1]]
        stage = stage_of(own, thresholds, floors)
        assert (found.stage[i], found.prediction[i]) == (stage, expected[i][stage])
    assert set(found.stage.tolist()) == set(range(stages))
