"""A learned score: its features, its arithmetic, and that it does not depend on the batch."""

import math
from dataclasses import replace

import pytest
import torch

from lit_cascade.core.contract import replay
from lit_cascade.core.deferral_head import FEATURES, DeferralHead, LogOdds, feature_names
from lit_cascade.core.deferral_head import features_of as read
from lit_cascade.core.policy import Policy
from lit_cascade.core.scores import Judgement, RecordedAnswers
from lit_cascade.errors import CascadeError, UsageError
from tests.oracles import softmax, stage_of

OWN = LogOdds(0.4, (-1.5, 0.8, 0.3, -0.2, -0.1), (0.2, -0.4, 0.1))
PLAIN = DeferralHead(LogOdds(-0.3, (-2.0, 0.5, 0.7, -0.05, -0.2)))
SLOPED = replace(OWN, confidence_by_answer=(0.5, 0.0, -1.0), log_odds_by_answer=(0.1, 0.3, -0.2))
HEAD = DeferralHead(SLOPED, LogOdds(-2.0, (0.1, -0.2, 0.3, 0.1, 0.2), (0.0, 1.0, -1.0)))
EARLIER = (0.7, -1.1, 0.4, 0.9, -0.6)
SECOND = DeferralHead(LogOdds(0.1, (*OWN.weights, *EARLIER, *EARLIER), (0.2, -0.4, 0.1)), earlier=2)
SERIAL = DeferralHead(LogOdds(-0.3, (*PLAIN.fixed.weights, *EARLIER)), earlier=1)
SERVICE = DeferralHead(
    LogOdds(
        0.1,
        (-1.0, 0.3, *EARLIER),
        (0.2, 0.1, -0.4),
        (0.1, 0.2, 0.3),
        knots=(-0.5, 1.5),
        bends=(0.8, -1.7),
    ),
    LogOdds(-1.5, (1.0, -0.1, *EARLIER[::-1]), (), (), (0.1, 0.0, -0.1)),
    recorded=True,
    earlier=1,
)


def features_of(logits):
    return read(logits)[:2]


def slow_features(row):
    p = sorted(softmax(row), reverse=True)
    ordered = sorted(row, reverse=True)
    entropy = sum(own * math.log(own) for own in p if own > 0)
    rest = math.log(sum(math.exp(value - ordered[0]) for value in ordered[1:]))
    return [p[0], p[0] - p[1], entropy, ordered[0] - ordered[1], -rest]


def limited_log_odds(confidence):
    limited = min(max(confidence, 0.001), 0.999)
    return math.log(limited / (1 - limited))


def slow_probability(event, features, log_odds, answer):
    total = event.bias + sum(w * f for w, f in zip(event.weights, features, strict=True))
    for numbers, factor in (
        (event.by_answer, 1.0),
        (event.confidence_by_answer, features[0]),
        (event.log_odds_by_answer, log_odds),
    ):
        total += numbers[answer] * factor if numbers else 0.0
    for knot, bend in zip(event.knots, event.bends, strict=True):
        total += bend * max(log_odds - knot, 0.0)
    return 1 / (1 + math.exp(-total))


def slow_score(head, own, answer, earlier=()):
    """Score of one sample: its own features, and (answer, confidence) of the earlier stages."""
    features = list(own)
    for said, sure in earlier[: head.earlier]:
        pair = [sure, limited_log_odds(sure)]
        features += [1.0, *pair, 0.0, 0.0] if said == answer else [0.0, 0.0, 0.0, *pair]
    score = -slow_probability(head.fixed, features, own[-1], answer)
    if head.broken is not None:
        score += slow_probability(head.broken, features, own[-1], answer)
    return score


def slow_of_logits(head, row, earlier=()):
    return slow_score(head, slow_features(row), row.index(max(row)), earlier)


def said(n, classes=3, seed=0):
    """What some stage said of n samples."""
    generator = torch.Generator().manual_seed(seed)
    answer = torch.randint(classes, (n,), generator=generator)
    return Judgement(torch.zeros(n), answer, torch.rand(n, generator=generator))


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


@pytest.mark.parametrize("head", [HEAD, PLAIN, SECOND])
def test_scores_by_hand(head):
    logits = torch.randn(200, 3) * 3
    earlier = [said(200, seed=1), said(200, seed=2)]
    pairs = [list(zip(*(part.tolist() for part in one[1:]), strict=True)) for one in earlier]
    expected = [
        slow_of_logits(head, row, [pair[i] for pair in pairs])
        for i, row in enumerate(logits.tolist())
    ]
    score, answer, confidence = head.judge(logits, earlier)
    assert score.dtype == confidence.dtype == torch.float32
    assert score.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert torch.equal(answer, logits.argmax(1))
    assert confidence.tolist() == pytest.approx([max(softmax(row)) for row in logits.tolist()])
    assert ((score >= -1) & (score <= 1)).all()


def test_scores_of_recorded_answers_by_hand():
    _, answer, confidence = said(300, seed=3)
    confidence[:40] = (confidence[:40] > 0.5).float()  # services say 0 and 1
    first = said(300, seed=4)
    found = SERVICE.judge(RecordedAnswers(answer, confidence), [first])
    for i in range(300):
        sure = float(confidence[i])
        earlier = [(int(first.answer[i]), float(first.confidence[i]))]
        expected = slow_score(SERVICE, [sure, limited_log_odds(sure)], int(answer[i]), earlier)
        assert float(found.score[i]) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert torch.equal(found.answer, answer)
    assert torch.equal(found.confidence, confidence)
    for part in torch.arange(300).split(7):
        one = RecordedAnswers(answer[part], confidence[part])
        few = SERVICE.judge(one, [Judgement(*(column[part] for column in first))])
        assert torch.equal(few.score, found.score[part])
        rows = SERVICE.judge(RecordedAnswers(answer, confidence), [first], part)
        assert torch.equal(rows.score, found.score[part])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("n", "classes"), [(400, 2), (400, 3), (403, 1000), (5, 20000)])
def test_a_score_does_not_depend_on_the_batch(n, classes, dtype):
    logits = (torch.randn(n, classes) * 3).to(dtype)
    earlier = [said(n, classes, seed) for seed in (1, 2)]
    for head in (HEAD, SECOND) if classes == 3 else (PLAIN,):
        whole = head.judge(logits, earlier).score
        for rows in [part for size in (1, 3, 7, 64, 399) for part in torch.arange(n).split(size)]:
            some = [Judgement(*(column[rows] for column in one)) for one in earlier]
            assert torch.equal(whole[rows], head.judge(logits[rows], some).score)
        order = torch.randperm(n)
        assert torch.equal(head.judge(logits, earlier, order).score, whole[order])


@pytest.mark.parametrize("head", [HEAD, DeferralHead(LogOdds(0.0, (0.0,) * 5))])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_logits_have_no_score(head, bad):
    scores = head.judge(torch.tensor([[0.0, bad, 1.0], [0.0, 2.0, 1.0]])).score
    assert scores.isnan().tolist() == [True, False]


def test_a_head_is_for_its_stage():
    with pytest.raises(CascadeError, match=r"fitted for 3 classes, got logits of shape \(4, 2\)"):
        HEAD.judge(torch.zeros(4, 2))
    assert PLAIN.judge(torch.zeros(4, 2)).score.shape == (4,)
    service = RecordedAnswers(torch.tensor([0, 3]), torch.ones(2))
    with pytest.raises(CascadeError, match="fitted for 3 classes, got an answer of class 3"):
        SERVICE.judge(service, [said(2)])
    with pytest.raises(CascadeError, match="fitted to recorded answers, got logits: fit it again"):
        SERVICE.judge(torch.zeros(4, 3), [said(4)])
    with pytest.raises(CascadeError, match="fitted to logits, got recorded answers"):
        HEAD.judge(service)
    with pytest.raises(CascadeError, match="reads 2 earlier stages, got 1"):
        SECOND.judge(torch.zeros(4, 3), [said(4)])


def test_a_head_checks_its_numbers():
    with pytest.raises(UsageError, match=r"one weight for each of max_softmax.*got 2"):
        DeferralHead(LogOdds(0.0, (1.0, 2.0)))
    with pytest.raises(UsageError, match=r"one weight for each of confidence.*agrees_0.*got 2"):
        DeferralHead(LogOdds(0.0, (1.0, 2.0)), recorded=True, earlier=1)
    with pytest.raises(UsageError, match="finite numbers, got nan"):
        LogOdds(0.0, (1.0, 2.0, math.nan, 0.0, 0.0))
    with pytest.raises(UsageError, match="finite numbers, got inf"):
        LogOdds(0.0, (1.0,) * 5, (), (math.inf, 0.0))
    with pytest.raises(UsageError, match="same classes, got 3, 2, 0 numbers"):
        LogOdds(0.0, (1.0,) * 5, (0.0,) * 3, (0.0,) * 2)
    with pytest.raises(UsageError, match="finite numbers, got inf"):
        LogOdds(0.0, (1.0,) * 5, knots=(math.inf,), bends=(1.0,))
    with pytest.raises(UsageError, match="as many bends as knots, got 1 and 2"):
        LogOdds(0.0, (1.0,) * 5, knots=(0.0, 1.0), bends=(1.0,))
    with pytest.raises(UsageError, match="fixed and broken have numbers for different classes"):
        DeferralHead(OWN, LogOdds(0.0, (1.0,) * 5, (0.0,) * 2))


@pytest.mark.parametrize("head", [HEAD, PLAIN, SECOND, SERVICE])
def test_numbers_give_the_head_back(head):
    assert DeferralHead.from_numbers(head.numbers, "heads") == head


def test_heads_written_before_there_were_two_events_are_read():
    names = feature_names(recorded=False, earlier=0)
    old = {"bias": 0.4} | dict(zip(names, OWN.weights, strict=True))
    head = DeferralHead.from_numbers(old | {"by_answer": [0.2, -0.4, 0.1]}, "policy.heads.small")
    assert head == DeferralHead(OWN)
    logits = torch.randn(50, 3)
    score = head.judge(logits).score
    assert ((score > -1) & (score < 0)).all()  # minus the probability that the last stage corrects


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gap": None}, "policy.heads.small.fixed: expected numbers"),
        ({"gap": "wide"}, "policy.heads.small.fixed: expected numbers"),
        ({"by_answer": 3}, "policy.heads.small.fixed: expected numbers"),
        ({"bends": [1.0]}, "heads: expected as many bends as knots, got 1 and 0"),
        ({"gaps": 1.0}, "policy.heads.small.fixed: 'gaps' is unknown.*mean 'gap'"),
        ({"agrees_0": 1.0}, "nothing is given for confidence_agreed_0, log_odds_agreed_0"),
        ({"confidence": 1.0}, r"fixed: 'max_softmax' is unknown"),
    ],
)
def test_numbers_that_make_no_head(change, message):
    numbers = HEAD.numbers
    with pytest.raises(UsageError, match=message):
        DeferralHead.from_numbers(
            numbers | {"fixed": numbers["fixed"] | change}, "policy.heads.small"
        )


def test_events_that_make_no_head():
    with pytest.raises(UsageError, match=r"policy\.heads\.small: 'brocken' is unknown"):
        DeferralHead.from_numbers(HEAD.numbers | {"brocken": {}}, "policy.heads.small")
    with pytest.raises(UsageError, match=r"policy.heads.small.fixed: expected numbers by name"):
        DeferralHead.from_numbers({"fixed": 3}, "policy.heads.small")


def test_numbers_that_are_missing():
    numbers = PLAIN.numbers["fixed"]
    some = {name: value for name, value in numbers.items() if name not in {"gap", "bias"}}
    with pytest.raises(UsageError, match=r"nothing is given for bias, gap; .*--learn_score"):
        DeferralHead.from_numbers({"fixed": some}, "policy.heads.small")


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_replay_equals_a_loop_over_samples(stages, temperature):
    logits = [torch.randint(-3, 4, (200, 3)).float() for _ in range(stages)]
    heads = (HEAD, SERIAL)[: stages - 1]
    columns, judged = [], []
    for head, own in zip(heads, logits, strict=False):
        judged.append(head.judge(own, judged))
        pairs = [list(zip(*(part.tolist() for part in one[1:]), strict=True)) for one in judged]
        columns.append(judged[-1].score)
        assert columns[-1].tolist() == pytest.approx(
            [
                slow_of_logits(head, row, [pair[i] for pair in pairs])
                for i, row in enumerate(own.tolist())
            ],
            rel=1e-5,
            abs=1e-6,
        )
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
    with pytest.raises(UsageError, match=r"combine: the score learned .* use later or average"):
        Policy((-0.5,), "learned", combine="most_confident", heads=(HEAD,))


@pytest.mark.parametrize("threshold", [1.1, -1.1])
def test_thresholds_of_a_learned_score_have_its_range(threshold):
    with pytest.raises(UsageError, match="the score 'learned', -1 to 1"):
        Policy((threshold,), "learned", heads=(HEAD,))
    for end in (-1.0, 0.5, 1.0, -math.inf, math.inf):
        assert Policy((end,), "learned", heads=(HEAD,)).thresholds == (end,)
