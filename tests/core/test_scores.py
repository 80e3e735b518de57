import math
from typing import get_args

import numpy as np
import pytest
import torch

from lit_cascade.core.scores import (
    AGREEMENT,
    LEARNED,
    MAX_LOGIT_PNORM,
    SCORES,
    answers_of,
    score_and_answer,
    score_named,
)
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.options import ScoreName

NAMES = list(SCORES)


def reference(logits, name, temperature=1.0):
    z = logits.double().numpy() / temperature
    z = z - z.max(axis=1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    ordered = np.sort(p, axis=1)
    if name == "max_softmax":
        return ordered[:, -1]
    if name == "margin":
        return ordered[:, -1] - ordered[:, -2]
    return (p * (z - np.log(np.exp(z).sum(axis=1, keepdims=True)))).sum(axis=1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
def test_scores_equal_the_formula_in_double_precision(name, classes, temperature):
    logits = torch.randn(300, classes) * 4
    scores, answers = score_and_answer(logits, name, temperature)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(
        scores.numpy(), reference(logits, name, temperature), rtol=2e-5, atol=2e-6
    )
    assert torch.equal(answers, logits.argmax(dim=1))


def test_max_softmax_is_torch_softmax():
    logits = torch.randn(200, 7)
    expected = logits.double().softmax(dim=1).amax(dim=1)
    torch.testing.assert_close(score_and_answer(logits)[0].double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_any_precision_is_scored_in_single(dtype, name):
    logits = (torch.randn(50, 5) * 3).to(dtype)
    scores, answers = score_and_answer(logits, name, 1.3)
    expected, expected_answers = score_and_answer(logits.float(), name, 1.3)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, expected)
    assert torch.equal(answers, expected_answers)


@pytest.mark.parametrize("classes", [2, 3, 16, 17, 1000])
def test_ties_go_to_the_first_class(classes):
    logits = torch.randint(0, 3, (500, classes)).float()
    first = torch.tensor([row.index(max(row)) for row in logits.tolist()])
    assert torch.equal(score_and_answer(logits)[1], first)
    assert torch.equal(answers_of(logits), first)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_rows_of_equal_logits_are_as_unsure_as_can_be(classes):
    logits = torch.full((3, classes), 2.5)
    found = {name: score_and_answer(logits, name)[0] for name in NAMES}
    torch.testing.assert_close(found["max_softmax"], torch.full((3,), 1 / classes))
    assert torch.equal(found["margin"], torch.zeros(3))
    torch.testing.assert_close(found["negative_entropy"], torch.full((3,), -math.log(classes)))
    assert answers_of(logits).tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", NAMES)
def test_a_larger_lead_is_surer(name):
    leads = torch.linspace(0, 8, 200)
    logits = torch.stack([leads, torch.zeros(200), torch.full((200,), -1.0)], dim=1)
    assert (score_and_answer(logits, name)[0].diff() > 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000, 1003])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_a_row_scores_the_same_to_the_bit_in_any_batch(name, classes, temperature):
    logits = torch.randn(600, classes) * 4
    whole, _ = score_and_answer(logits, name, temperature)
    for size in (1, 7, 61, 599):
        parts = [score_and_answer(part, name, temperature)[0] for part in logits.split(size)]
        assert torch.equal(torch.cat(parts), whole)
    order = torch.randperm(600)
    assert torch.equal(score_and_answer(logits[order], name, temperature)[0], whole[order])


@pytest.mark.parametrize("name", NAMES)
def test_a_row_scores_the_same_to_the_bit_across_block_borders(name):
    logits = torch.randn(2**17 + 999, 2)
    whole, answers = score_and_answer(logits, name)
    parts = [score_and_answer(part, name) for part in logits.split(1001)]
    assert torch.equal(torch.cat([scores for scores, _ in parts]), whole)
    assert torch.equal(torch.cat([answer for _, answer in parts]), answers)
    assert torch.equal(answers_of(logits), answers)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_scores_the_same_to_the_bit_in_any_memory_layout(name):
    logits = torch.randn(600, 100) * 4
    by_column = logits.t().contiguous().t()
    assert torch.equal(score_and_answer(by_column, name)[0], score_and_answer(logits, name)[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [40_000, 70_000])
def test_a_row_of_very_many_classes_scores_the_same_to_the_bit_in_any_batch(name, classes):
    logits = torch.randn(8, classes) * 4
    alone = torch.cat([score_and_answer(row, name)[0] for row in logits.split(1)])
    assert torch.equal(alone, score_and_answer(logits, name)[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_inf_score_nan_and_touch_no_other_row(name, bad):
    logits = torch.randn(5, 4)
    expected, _ = score_and_answer(logits, name)
    logits[2, 1] = bad
    scores, _ = score_and_answer(logits, name)
    assert scores.isnan().tolist() == [False, False, True, False, False]
    kept = [0, 1, 3, 4]
    assert torch.equal(scores[kept], expected[kept])


@pytest.mark.parametrize("name", NAMES)
def test_a_masked_class_scores_as_if_it_were_absent(name):
    logits = torch.randn(50, 4)
    masked = torch.cat([logits, torch.full((50, 1), -math.inf)], dim=1)
    expected, _ = score_and_answer(logits, name)
    torch.testing.assert_close(score_and_answer(masked, name)[0], expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_scores_stay_in_range_on_extreme_logits(name, temperature, classes):
    eye = torch.eye(classes)[:50]
    random = torch.randn(200, classes)
    rows = [eye, eye * 1e4, eye * -1e4, random * 1e4, random * 1e-4, random.sign() * 1e4]
    scores, _ = score_and_answer(torch.cat(rows), name, temperature)
    score = SCORES[name]
    assert not scores.isnan().any()
    assert (scores >= score.low).all()
    assert (scores <= score.high).all()
    if name == "negative_entropy":
        assert (scores >= -math.log(classes) * (1 + 1e-6)).all()


@pytest.mark.parametrize("temperature", [0.01, 0.7, 3.0, 100.0])
def test_temperature_keeps_the_answer(temperature):
    logits = torch.randn(400, 10).half()
    assert torch.equal(score_and_answer(logits, temperature=temperature)[1], answers_of(logits))


@pytest.mark.parametrize("name", NAMES)
def test_scoring_leaves_the_logits_alone(name):
    logits = torch.randn(20, 5)
    before = logits.clone()
    score_and_answer(logits, name, 2.0)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_give_no_scores(name):
    scores, answers = score_and_answer(torch.zeros(0, 3), name)
    assert scores.shape == answers.shape == (0,)


def test_an_unknown_score_lists_the_known_and_the_like():
    with pytest.raises(UsageError, match=r"score: 'max_sofmax' is unknown") as caught:
        score_named("max_sofmax")
    assert "known are max_softmax, margin, negative_entropy" in str(caught.value)
    assert "Did you mean 'max_softmax'?" in str(caught.value)
    with pytest.raises(UsageError) as caught:
        score_and_answer(torch.zeros(1, 2), "zzz")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_bad_temperature_is_named(temperature):
    with pytest.raises(
        CascadeError, match=f"temperature must be a finite number above 0, got {temperature}"
    ):
        score_and_answer(torch.zeros(1, 2), temperature=temperature)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), ()])
def test_logits_of_another_shape_are_refused(shape):
    with pytest.raises(CascadeError, match=r"logits must have shape \(N, C\) .*, got \("):
        score_and_answer(torch.zeros(shape))


def test_the_options_offer_every_score():
    assert get_args(ScoreName) == (
        *SCORES, AGREEMENT.name, LEARNED.name, MAX_LOGIT_PNORM.name,
    )  # fmt: skip
