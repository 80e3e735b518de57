"""The score `max_logit_pnorm` and the choice of its norm, against plain loops."""

import itertools
import math

import numpy as np
import pytest
import torch

from lit_cascade.core.contract import replay, stage_outputs
from lit_cascade.core.norms import NORMS, fit_norm
from lit_cascade.core.policy import Policy
from lit_cascade.core.scores import (
    RecordedAnswers,
    max_logit_pnorm,
    score_and_answer,
    score_named,
)
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.options import PolicyOptions
from tests.oracles import softmax
from tests.quality_oracles import slow_aurc

P = [1, 2, 2.5, 5, 9, 64]


def slow_score(row, norm):
    """One sample, in double precision."""
    if norm == "max_softmax":
        return max(softmax(row))
    mean = sum(row) / len(row)
    centred = [value - mean for value in row]
    largest = max(map(abs, centred))
    if largest == 0:
        return 0.0
    total = sum(abs(value / largest) ** norm for value in centred)
    return max(centred) / largest / total ** (1 / norm)


def scored(logits, norm):
    return score_and_answer(logits, max_logit_pnorm(norm))[0]


@pytest.mark.parametrize("norm", [*P, "max_softmax"])
@pytest.mark.parametrize("classes", [3, 10, 1000])
def test_the_score_equals_plain_loops(norm, classes):
    logits = torch.randn(40, classes) * 4
    logits[:10] = logits[:10].round()  # ties
    logits[10] = -3.0
    scores = scored(logits, norm)
    assert scores.dtype == torch.float32
    expected = [slow_score(row, norm) for row in logits.double().tolist()]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", P)
@pytest.mark.parametrize("classes", [3, 10, 100, 1003, 40_000])
def test_a_row_scores_the_same_to_the_bit_in_any_batch_and_layout(p, classes):
    n = 600 if classes < 2000 else 8
    logits = torch.randn(n, classes) * 4
    whole = scored(logits, p)
    for size in (1, 7, 61):
        assert torch.equal(torch.cat([scored(part, p) for part in logits.split(size)]), whole)
    order = torch.randperm(n)
    assert torch.equal(scored(logits[order], p), whole[order])
    assert torch.equal(scored(logits.t().contiguous().t(), p), whole)


def test_blocks_of_rows_do_not_change_a_score():
    logits = torch.randn(2**17 + 999, 3)
    parts = torch.cat([scored(part, 5) for part in logits.split(1001)])
    assert torch.equal(scored(logits, 5), parts)


@pytest.mark.parametrize("p", P)
@pytest.mark.parametrize("classes", [3, 10, 100])
def test_the_bounds_are_reached_by_one_class_apart_from_all_others(p, classes):
    high = (1 + (classes - 1) ** (1 - p)) ** (-1 / p)
    one = torch.zeros(1, classes)
    one[0, 1] = 1.0
    assert float(scored(one, p)) == pytest.approx(high, rel=1e-5)
    assert float(scored(-one, p)) == pytest.approx(high / (classes - 1), rel=1e-5)
    many = torch.cat([torch.randn(300, classes) ** 3, one * 1e30, -one * 1e-30, one * 1e-42])
    scores = scored(many, p)
    assert (scores > 0).all()
    assert (scores <= min(1.0, high + 1e-6)).all()


@pytest.mark.parametrize("factor", [1e-20, 1e-3, 7.0, 1e20])
def test_neither_scale_nor_shift_of_the_logits_counts(factor):
    logits = torch.randn(50, 6).double()
    torch.testing.assert_close(scored((factor * logits).float(), 3), scored(logits, 3))
    torch.testing.assert_close(scored(logits + 5, 3), scored(logits, 3), rtol=1e-5, atol=1e-6)
    cold, _ = score_and_answer(logits, max_logit_pnorm(3), 0.1)
    torch.testing.assert_close(cold, scored(logits, 3))


def test_equal_logits_score_0_and_numbers_that_are_not_finite_nan():
    rows = torch.tensor([[2.0, 2, 2], [1, math.nan, 0], [math.inf, 0, 0], [1, 0, -math.inf]])
    assert scored(rows, 4)[0] == 0
    assert scored(rows, 4).isnan().tolist() == [False, True, True, True]
    assert scored(torch.zeros(0, 3), 4).shape == (0,)
    small = Policy((-math.inf,), "max_logit_pnorm", norms=(4,))
    assert replay([rows, torch.zeros(4, 3)], small).stage.tolist() == [0, 1, 1, 1]


def test_two_classes_are_refused():
    for call in (
        lambda: scored(torch.zeros(1, 2), 2),
        lambda: fit_norm(torch.randn(5, 2), torch.zeros(5).long()),
        lambda: Policy(stages=2, score="max_logit_pnorm", norms=(2,)).judge(0, torch.zeros(0, 2)),
    ):
        with pytest.raises(CascadeError, match="max_logit_pnorm needs three or more classes"):
            call()


@pytest.mark.parametrize("norm", [0, 0.5, -2, math.nan, math.inf, "margin", None, [1.0]])
def test_what_is_no_norm_is_refused(norm):
    with pytest.raises(UsageError, match="norms: expected a finite p of at least 1"):
        Policy(score="max_logit_pnorm", stages=2, norms=(norm,))


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_the_norm_has_the_least_aurc_over_all_orders_of_ties(n):
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randint(0, 4, (n, 3), generator=generator).float()
        labels = torch.randint(0, 3, (n,), generator=generator)
        right = [bool(row.argmax() == label) for row, label in zip(logits, labels, strict=True)]
        areas = [slow_aurc(scored(logits, norm).tolist(), right) for norm in NORMS]
        fitted = fit_norm(logits, labels)
        best = min(areas)
        assert fitted.aurc == pytest.approx(best)
        assert fitted.aurc_before == pytest.approx(areas[0])
        first = next(one for one, area in zip(NORMS, areas, strict=True) if area <= best + 1e-12)
        assert fitted.norm == first
        assert fitted.n == n


def test_the_choice_sees_its_rows_only_and_prefers_max_softmax_on_a_tie():
    logits, labels = torch.randn(80, 4), torch.randint(0, 4, (80,))
    rows = torch.randperm(80)[:30]
    assert fit_norm(logits, labels, rows) == fit_norm(logits[rows], labels[rows])
    assert fit_norm(logits, logits.argmax(1)).norm == "max_softmax"  # all right: no order is best
    assert fit_norm(torch.ones(9, 3), torch.arange(9) % 3).norm == "max_softmax"


def test_a_norm_is_found_where_the_scale_of_the_logits_misleads():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (400,), generator=generator)
    logits = torch.randn(400, 5, generator=generator)
    logits += 2 * torch.nn.functional.one_hot(labels, 5)
    logits *= torch.rand(400, 1, generator=generator) * 20 + 0.2
    fitted = fit_norm(logits, labels)
    assert fitted.norm != "max_softmax"
    assert fitted.aurc < 0.9 * fitted.aurc_before


def policy(norms, thresholds=None):
    return Policy(thresholds, "max_logit_pnorm", norms=norms, stages=len(norms) + 1)


def test_each_stage_has_its_norm_and_the_last_its_softmax():
    logits = [torch.randn(60, 4) * 3 for _ in range(3)]
    found = stage_outputs(logits, policy((2, "max_softmax"))).scores
    assert torch.equal(found[0], scored(logits[0], 2))
    assert torch.equal(found[1], score_and_answer(logits[1])[0])
    assert torch.equal(found[2], score_and_answer(logits[2])[0])
    warm = Policy(score="max_logit_pnorm", norms=(2, "max_softmax"), temperatures=(9, 9, 1))
    assert all(map(torch.equal, stage_outputs(logits, warm).scores, found))


def test_a_policy_of_norms_is_written_and_read_back(tmp_path):
    one = Policy((0.5, 0.25), "max_logit_pnorm", norms=(2.5, "max_softmax"), names=("a", "b", "c"))
    one.save(tmp_path / "policy.yaml")
    assert Policy.load(tmp_path / "policy.yaml") == one
    assert "norms:\n    a: 2.5\n    b: max_softmax" in (tmp_path / "policy.yaml").read_text()
    assert one.to_options().norms == {"a": 2.5, "b": "max_softmax"}
    assert "norms=(2.5, 'max_softmax')" in repr(one)
    assert list(one.columns()["norm"])[:2] == [2.5, "max_softmax"]
    options = PolicyOptions("max_logit_pnorm", [0.5, 0.25], norms=[2.5, "max_softmax"])
    assert Policy.from_options(options, ["a", "b", "c"]) == one


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "policy.norms: the score max_logit_pnorm needs a p for a, b; .*--choose_norms"),
        ({"norms": {"a": 2}}, r"policy\.norms: .* for each of a, b, got none for b"),
        ({"norms": {"c": 2}}, "policy.norms: 'c' is unknown"),
        ({"norms": [2]}, "policy.norms: expected one number for each of a, b, got 1"),
        ({"norms": [2, 0.5]}, r"norms: expected a finite p of at least 1.*got 0\.5"),
        (
            {"norms": [2, 2], "combine": "most_confident"},
            "combine: the score max_logit_pnorm has another norm",
        ),
        ({"norms": [2, 2], "thresholds": [0.5, 1.5]}, "thresholds: 1.5 is outside the range"),
    ],
)
def test_options_that_make_no_policy_are_refused(options, says):
    with pytest.raises(UsageError, match=says):
        Policy.from_options(PolicyOptions("max_logit_pnorm", **options), ["a", "b", "c"])


def test_norms_are_for_this_score_alone():
    with pytest.raises(UsageError, match=r"norms: the score 'margin' .* needs 0, got 1"):
        Policy(0.5, "margin", norms=(2,))
    with pytest.raises(UsageError, match=r"norms: the score 'max_logit_pnorm' .* needs 1, got 0"):
        Policy(0.5, "max_logit_pnorm")
    assert Policy.from_options(PolicyOptions(norms=[2]), ["a", "b"]).norms == ()


def test_answers_without_logits_are_refused():
    answers = RecordedAnswers(torch.zeros(3).long(), torch.rand(3))
    with pytest.raises(CascadeError, match="stage 0: its record holds no logits, which the score "):
        policy((2,)).judge(0, answers)
    with pytest.raises(CascadeError, match="no function of the logits alone"):
        score_and_answer(torch.zeros(1, 3), score_named("max_logit_pnorm"))


def test_every_pair_of_norms_makes_another_order():
    logits = torch.randn(500, 10) * 4
    orders = [tuple(scored(logits, norm).argsort().tolist()) for norm in NORMS]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
