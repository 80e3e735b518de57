"""A learned score: its features, its arithmetic, and that it does not depend on the batch."""

import math

import pytest
import torch

from lit_cascade.core.contract import replay
from lit_cascade.core.deferral_head import FEATURES, DeferralHead, features_of
from lit_cascade.core.policy import Policy
from lit_cascade.errors import CascadeError, UsageError
from tests.oracles import softmax, stage_of

HEAD = DeferralHead(0.4, (-1.5, 0.8, 0.3, -0.2, -0.1), (0.2, -0.4, 0.1))
PLAIN = DeferralHead(-0.3, (-2.0, 0.5, 0.7, -0.05, -0.2))


def slow_features(row):
    p = sorted(softmax(row), reverse=True)
    ordered = sorted(row, reverse=True)
    entropy = sum(own * math.log(own) for own in p if own > 0)
    rest = math.log(sum(math.exp(value - ordered[0]) for value in ordered[1:]))
    return [p[0], p[0] - p[1], entropy, ordered[0] - ordered[1], -rest]


def slow_score(head, row):
    total = head.bias + sum(w * f for w, f in zip(head.weights, slow_features(row), strict=True))
    if head.by_answer:
        total += head.by_answer[row.index(max(row))]
    return -1 / (1 + math.exp(-total))


@pytest.mark.parametrize("classes", [2, 3, 11])
def test_features_are_what_their_names_say(classes):
    logits = torch.randn(60, classes) * 4
    found, answers = features_of(logits)
    assert len(found) == len(FEATURES)
    for i, row in enumerate(logits.tolist()):
        got = [float(feature[i]) for feature in found]
        assert got == pytest.approx(slow_features(row), rel=1e-5, abs=1e-6)
        assert answers[i] == row.index(max(row))


def test_log_odds_tell_apart_what_probabilities_round_to_one():
    (top, _, _, gap, odds), _ = features_of(torch.tensor([[0.0, 50.0, 1.0], [0.0, 60.0, 1.0]]))
    assert top.tolist() == [1.0, 1.0]
    assert gap.tolist() == [49.0, 59.0]
    assert odds.tolist() == pytest.approx([50 - math.log(1 + math.e), 60 - math.log(1 + math.e)])


@pytest.mark.parametrize("head", [HEAD, PLAIN])
def test_scores_by_hand(head):
    logits = torch.randn(200, 3) * 3
    expected = [slow_score(head, row) for row in logits.tolist()]
    scores = head.scores(logits)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx(expected, rel=1e-5)
    assert ((scores >= -1) & (scores <= 0)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("n", "classes"), [(400, 2), (400, 3), (403, 1000), (5, 20000)])
def test_a_score_does_not_depend_on_the_batch(n, classes, dtype):
    logits = (torch.randn(n, classes) * 3).to(dtype)
    head = HEAD if classes == 3 else PLAIN
    whole = head.scores(logits)
    for size in (1, 3, 7, 64, 399):
        parts = torch.cat([head.scores(part) for part in logits.split(size)])
        assert torch.equal(whole, parts)
    order = torch.randperm(n)
    assert torch.equal(head.scores(logits[order]), whole[order])


@pytest.mark.parametrize("head", [HEAD, DeferralHead(0.0, (0.0,) * 5)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_logits_have_no_score(head, bad):
    scores = head.scores(torch.tensor([[0.0, bad, 1.0], [0.0, 2.0, 1.0]]))
    assert scores.isnan().tolist() == [True, False]


def test_a_head_is_for_its_classes():
    with pytest.raises(CascadeError, match=r"fitted for 3 classes, got logits of shape \(4, 2\)"):
        HEAD.scores(torch.zeros(4, 2))
    assert PLAIN.scores(torch.zeros(4, 2)).shape == (4,)


def test_a_head_checks_its_numbers():
    with pytest.raises(UsageError, match=r"one weight for each of max_softmax.*got 2"):
        DeferralHead(0.0, (1.0, 2.0))
    with pytest.raises(UsageError, match="finite numbers, got nan"):
        DeferralHead(0.0, (1.0, 2.0, math.nan, 0.0, 0.0))
    with pytest.raises(UsageError, match="finite numbers, got inf"):
        DeferralHead(0.0, (1.0,) * 5, (math.inf, 0.0))


@pytest.mark.parametrize("head", [HEAD, PLAIN])
def test_numbers_give_the_head_back(head):
    assert DeferralHead.from_numbers(head.numbers, "heads") == head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gap": None}, "policy.heads.small: expected numbers"),
        ({"gap": "wide"}, "policy.heads.small: expected numbers"),
        ({"by_answer": 3}, "policy.heads.small: expected numbers"),
        ({"gaps": 1.0}, "policy.heads.small: 'gaps' is unknown.*mean 'gap'"),
    ],
)
def test_numbers_that_make_no_head(change, message):
    with pytest.raises(UsageError, match=message):
        DeferralHead.from_numbers(HEAD.numbers | change, "policy.heads.small")


def test_numbers_that_are_missing():
    numbers = {name: value for name, value in HEAD.numbers.items() if name not in {"gap", "bias"}}
    with pytest.raises(UsageError, match=r"nothing is given for bias, gap; .*--learn_score"):
        DeferralHead.from_numbers(numbers, "policy.heads.small")


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_replay_equals_a_loop_over_samples(stages, temperature):
    logits = [torch.randint(-3, 4, (200, 3)).float() for _ in range(stages)]
    heads = (HEAD, PLAIN)[: stages - 1]
    columns = [head.scores(own) for head, own in zip(heads, logits, strict=False)]
    thresholds = [column.sort().values[80].item() for column in columns]
    policy = Policy(tuple(thresholds), "learned", (temperature,) * stages, heads=heads)
    found = replay(logits, policy)
    for i in range(200):
        stage = stage_of([column[i].item() for column in columns], thresholds)
        row = logits[stage][i].tolist()
        assert (found.stage[i], found.prediction[i]) == (stage, row.index(max(row)))


def test_the_last_stage_has_its_largest_probability():
    policy = Policy((-0.5,), "learned", heads=(HEAD,))
    score, answer, _ = policy.judge(1, torch.tensor([[0.0, 3.0, 0.0]]))
    assert float(score) == pytest.approx(softmax([0, 3, 0])[1])
    assert answer.tolist() == [1]


def test_heads_come_with_the_learned_score_and_it_with_them():
    with pytest.raises(UsageError, match="'learned' of 1 deferring stages needs 1, got 0"):
        Policy((-0.5,), "learned")
    with pytest.raises(UsageError, match="'learned' of 2 deferring stages needs 2, got 1"):
        Policy((-0.5, -0.5), "learned", heads=(HEAD,))
    with pytest.raises(UsageError, match="'margin' of 1 deferring stages needs 0, got 1"):
        Policy((0.5,), "margin", heads=(HEAD,))


def test_the_most_confident_of_learned_scores_is_refused():
    with pytest.raises(UsageError, match=r"combine: a learned score .* use later or average"):
        Policy((-0.5,), "learned", combine="most_confident", heads=(HEAD,))


@pytest.mark.parametrize("threshold", [0.1, -1.1])
def test_thresholds_of_a_learned_score_have_its_range(threshold):
    with pytest.raises(UsageError, match="the score 'learned', -1 to 0"):
        Policy((threshold,), "learned", heads=(HEAD,))
    for end in (-1.0, 0.0, -math.inf, math.inf):
        assert Policy((end,), "learned", heads=(HEAD,)).thresholds == (end,)
