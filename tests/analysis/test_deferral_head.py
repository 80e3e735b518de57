"""Fitting of deferral heads, and cascades that run by them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lit_cascade import Cascade, PolicyOptions, Record
from lit_cascade.analysis.curve import outcomes_of
from lit_cascade.analysis.deferral_head import FEWEST, fit_head, fit_heads, head_notes
from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.contract import replay, stage_outputs
from lit_cascade.core.deferral_head import DeferralHead, features_of
from lit_cascade.core.policy import Policy
from lit_cascade.core.quality import deferral_quality
from lit_cascade.core.scores import RecordedAnswers
from lit_cascade.errors import CascadeError, UsageError
from tests.oracles import softmax

NAMES = ["small", "middle", "large"]


def stages(n, seed=0, count=2, classes=4, *, blind=None):
    """Records of increasing accuracy; the first is confident and wrong on one class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    hints = nn.functional.one_hot(labels, classes).float()
    found = []
    for k in range(count):
        logits = (2.0 * k + 2) * hints + 1.5 * torch.randn(n, classes, generator=generator)
        if blind is not None and k == 0:
            logits[labels == blind] = logits[labels == blind].roll(1, dims=1)
        found.append(
            Record.from_arrays(NAMES[k], logits, labels, flops=10.0**k, ids=torch.arange(n))
        )
    return found


def right(record):
    return record.logits.argmax(dim=1) == record.labels


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("blind", [None, 2])
def test_a_head_is_the_regression_of_scikit_learn(blind):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    small, large = stages(900, blind=blind)
    fitted = fit_head(small.logits, right(small), right(large))
    features, answers, _ = features_of(small.logits)
    table = StandardScaler().fit_transform(torch.stack(features, dim=1).numpy())
    shown = nn.functional.one_hot(answers, 4).numpy()
    scaled = shown * fitted.spread / fitted.strength**0.5
    effects = [scaled, scaled * table[:, :1], scaled * table[:, 4:]]
    columns = np.concatenate([table, *(effects if fitted.spread else [])], axis=1)
    fixed = (right(large) & ~right(small)).numpy()
    outside = LogisticRegression(C=fitted.strength, max_iter=9000, tol=1e-10)
    expected = outside.fit(columns, fixed).predict_proba(columns)[:, 1].tolist()
    found = DeferralHead(fitted.head.fixed).judge(small.logits).score
    assert (-found).tolist() == pytest.approx(expected, abs=5e-4)
    assert bool(fitted.spread) == (blind is not None)
    assert (fitted.n, fitted.fixed) == (900, fixed.sum())
    assert fitted.broken == (right(small) & ~right(large)).sum()
    # a logistic regression with an intercept gets the mean right
    assert sum(expected) / 900 == pytest.approx(fitted.fixed / 900, abs=1e-4)
    # and the score is that of both events
    assert float(fitted.head.judge(small.logits).score.mean()) == pytest.approx(
        (fitted.broken - fitted.fixed) / 900, abs=1e-4
    )


def test_the_same_samples_give_the_same_head():
    small, large = stages(300)
    one, other = (fit_head(small.logits, right(small), right(large)) for _ in range(2))
    assert one == other


def test_a_head_learns_where_a_stage_is_confident_and_wrong():
    small, large = stages(2000, blind=2)
    head = fit_head(small.logits, right(small), right(large)).head
    fresh, other = stages(2000, seed=1, blind=2)
    plain = torch.tensor([max(softmax(row)) for row in fresh.logits.tolist()])
    learned = deferral_quality(head.judge(fresh.logits).score, right(fresh), right(other))
    before = deferral_quality(plain, right(fresh), right(other))
    assert learned > before + 0.1
    # it answers 3 in place of class 2, and 2 only by mistake: neither is to be believed
    sure = torch.tensor([[4.0 * (k == c) for k in range(4)] for c in range(4)])
    scores = head.judge(sure).score
    assert scores[2:].max() < scores[:2].min() - 0.1


def test_areas_are_of_the_samples_fitted_on():
    small, large = stages(400, blind=2)
    found = fit_head(small.logits, right(small), right(large))
    plain = torch.tensor([max(softmax(row)) for row in small.logits.tolist()])
    assert found.area_before == pytest.approx(
        deferral_quality(plain, right(small), right(large)), abs=1e-3
    )
    assert found.area == deferral_quality(
        found.head.judge(small.logits).score, right(small), right(large)
    )


@pytest.mark.parametrize(("count", "n"), [(0, 50), (FEWEST - 1, 50), (50, 50), (46, 50)])
def test_too_few_samples_are_refused(count, n):
    here = torch.ones(n).bool()
    here[:count] = False
    with pytest.raises(
        CascadeError, match=rf"puts {count} of {n} answers right.*at least {FEWEST}"
    ):
        fit_head(torch.randn(n, 3), here, torch.ones(n).bool())


def test_few_samples_put_wrong_are_not_fitted():
    here = torch.arange(100) % 3 > 0
    later = torch.ones(100).bool()
    later[:FEWEST] = False
    logits = torch.randn(100, 3)
    broken = int((here & ~later).sum())
    assert 0 < broken < FEWEST
    found = fit_head(logits, here, later)
    assert (found.broken, found.head.broken) == (broken, None)


def services(n, seed=0, classes=6, *, names=("api", "local"), unseen=0):
    """Records of answers: confidence says little, and mistakes fall into the classes 1 and 3."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes - unseen, (n,), generator=generator)
    found = []
    for k, name in enumerate((*names, "large")):
        rate = (
            torch.tensor([0.95, 0.4, 0.9, 0.3, 0.85, 0.5])
            if k < len(names)
            else torch.full((6,), 0.97)
        )
        right = torch.rand(n, generator=generator) < rate[labels % 6]
        other = 1 + 2 * torch.randint(2, (n,), generator=generator)
        confidence = (0.3 * right + 0.7 * torch.rand(n, generator=generator)).mul(10).round() / 10
        found.append(
            Record.from_arrays(
                name, labels=labels, prediction=torch.where(right, labels, other),
                score=confidence if k == 0 else None, costs={"usd": 10.0**k},
                ids=torch.arange(n), classes=[str(c) for c in range(classes)],
            )
        )  # fmt: skip
    return found


@pytest.mark.parametrize("count", [1, 2])
def test_heads_of_predictions_with_and_without_confidence(count):
    names = ("api", "local")[:count]
    records = services(1500, names=names)
    rule = Policy(stages=count + 1, names=(*names, "large"))
    found = fit_heads(records, rule)
    heads = tuple(one.head for one in found.values())
    assert [(head.recorded, head.earlier) for head in heads] == [(True, k) for k in range(count)]
    policy = Policy(score="learned", heads=heads, names=(*names, "large"))
    assert policy.reads_earlier == (count == 2)
    fresh = services(1500, seed=1, names=names)
    learned = outcomes_of(fresh, policy, "usd")
    plain = outcomes_of(fresh, Policy(score="recorded", stages=count + 1), "usd")
    # the service that says no confidence is as good as its classes, and as the others agree
    for k in range(count):
        correct = learned.correct[:, [k, -1]].T
        gained = deferral_quality(learned.scores[:, k], *correct)
        assert gained > deferral_quality(plain.scores[:, k], *correct) + 0.05


def test_a_mixed_cascade_reads_logits_and_answers():
    small, middle, large = stages(1200, count=3)
    first = Record.from_arrays(
        "small", labels=small.labels, prediction=small.logits.argmax(1), flops=1.0,
        score=small.logits.softmax(1).amax(1), classes=small.classes, ids=small.ids,
    )  # fmt: skip
    records = [first, middle, large]
    found = fit_heads(records, Policy(stages=3, names=NAMES))
    heads = tuple(one.head for one in found.values())
    assert [(head.recorded, head.earlier) for head in heads] == [(True, 0), (False, 1)]
    agreed = dict(zip(heads[1].features, heads[1].fixed.weights, strict=True))["agrees_0"]
    assert agreed != 0
    policy = Policy((-0.05, -0.05), "learned", heads=heads)
    outputs = [one.output("a test") for one in records]
    said = replay(outputs, policy)
    outcomes = outcomes_of(records, policy)
    assert torch.equal(outcomes.route((-0.05, -0.05)), said.stage)
    assert 0 < (said.stage == 1).sum() < 1200


def test_a_record_without_answers_has_no_learned_score():
    first, _, last = services(300)
    blank = Record.from_arrays(
        "api", score=first.score, correct=first.right, costs={"usd": 1}, ids=first.ids,
        labels=first.labels, classes=first.classes,
    )  # fmt: skip
    with pytest.raises(CascadeError, match=r"'api' holds which answers are right and not the"):
        fit_heads([blank, last], Policy(stages=2))
    head = fit_heads([first, last], Policy(stages=2))["api"].head
    with pytest.raises(CascadeError, match=r"'api' holds which answers are right and not the"):
        outcomes_of([blank, last], Policy(score="learned", heads=(head,), stages=2), "usd")


def test_classes_that_are_never_answered_have_no_effect_and_are_counted():
    records = services(1500, unseen=1)
    found = fit_heads(records, Policy(stages=3, names=("api", "local", "large")))
    for one in found.values():
        assert one.unseen == 1
        for event in (one.head.fixed, one.head.broken):
            lists = (event.by_answer, event.confidence_by_answer, event.log_odds_by_answer)
            assert [numbers[-1] for numbers in lists if numbers] == [0.0] * sum(map(bool, lists))
    notes = head_notes(found)
    assert "'api' never answers 1 of 6 classes on the 1,500 samples" in notes[0]
    assert len(notes) == 2


def test_rare_classes_are_shrunk_more():
    generator = torch.Generator().manual_seed(0)
    answer = torch.cat([torch.arange(2000) % 8, torch.full((200,), 8), torch.full((2,), 9)])
    here = torch.rand(2202, generator=generator) < torch.tensor([0.4, 0.8])[answer % 2]
    here[2000:] = False  # classes 8 and 9 are always wrong
    output = RecordedAnswers(answer, torch.zeros(2202))
    found = fit_head(output, here, torch.ones(2202).bool(), classes=12)
    effects = found.head.fixed.by_answer
    assert found.spread > 0
    assert 0 < effects[9] < effects[8] - 0.5
    assert effects[10:] == (0.0, 0.0)


def test_a_recorded_confidence_may_bend():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(4000, generator=generator)
    # neither doubt nor certainty is to be trusted
    here = torch.rand(4000, generator=generator) < 0.9 - 1.6 * (confidence - 0.5).abs()
    output = RecordedAnswers(torch.zeros(4000).long(), confidence)
    head = fit_head(output, here, torch.ones(4000).bool()).head
    assert len(head.fixed.knots) == 5
    score = head.judge(output).score
    low, middle, high = (
        float(score[(confidence - place).abs() < 0.03].mean()) for place in (0.04, 0.5, 0.96)
    )
    assert low < -0.6
    assert high < -0.6
    assert middle > -0.25
    # where the log-odds are a line, bends may not pay: the probability is that line all the same
    straight = torch.rand(4000, generator=generator) < confidence
    found = fit_head(output, straight, torch.ones(4000).bool()).head.judge(output).score
    assert (found + 1 - confidence).abs().mean() < 0.02


def test_constant_features_have_no_weight():
    logits = torch.tensor([[0.0, 2.0, 1.0]]).expand(100, 3)
    here = torch.arange(100) % 4 > 0
    head = fit_head(logits, here, torch.ones(100).bool()).head
    assert set(head.fixed.weights) == {0.0}
    assert head.classes == 0
    assert head.judge(logits[:1]).score.tolist() == pytest.approx([-0.25], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["later", "average"])
def test_each_deferring_stage_has_a_head_for_the_last_answer(combine):
    records = stages(600, count=3, blind=1)
    rule = Policy.from_options(PolicyOptions(combine=combine), NAMES)
    found = fit_heads(records, rule)
    assert list(found) == NAMES[:2]
    logits = [record.logits for record in records]
    said = [
        replay(logits, Policy(cut, combine=combine)).prediction == records[0].labels
        for cut in ((0.0, 0.0), (float("inf"), 0.0), (float("inf"), float("inf")))
    ]
    for k, name in enumerate(NAMES[:2]):
        earlier = [found[NAMES[j]].head.judge(logits[j]) for j in range(k)]
        assert found[name] == fit_head(logits[k], said[k], said[2], earlier=earlier)


def test_heads_fitted_on_some_rows():
    records = stages(500)
    rows = torch.arange(100, 400)
    rule = Policy.from_options(PolicyOptions(), NAMES[:2])
    part = [
        Record.from_arrays(one.name, one.logits[rows], one.labels[rows], flops=1) for one in records
    ]
    assert fit_heads(records, rule, rows) == fit_heads(part, rule)


def test_records_without_logits_or_labels_are_refused():
    small, large = stages(100)
    rule = Policy.from_options(PolicyOptions(), NAMES[:2])
    scored = Record.from_arrays("small", score=torch.rand(100), correct=[1] * 100, flops=1)
    with pytest.raises(CascadeError, match=r"'small' holds which answers.*a learned score needs"):
        fit_heads([scored, large], rule)
    blank = Record.from_arrays("small", small.logits, flops=1)
    with pytest.raises(CascadeError, match="'small' holds no labels"):
        fit_heads([blank, Record.from_arrays("large", large.logits, flops=9)], rule)
    same = Record.from_arrays("large", small.logits, small.labels, flops=9)
    with pytest.raises(CascadeError, match="stage 'small': the last stage puts 0 of 100"):
        fit_heads([small, same], rule)


class Table(nn.Module):
    """A module that looks up the logits of a sample by its number."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, number):
        return self.logits[number]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("combine", [name for name in COMBINATIONS if name != "most_confident"])
def test_live_answers_equal_the_replay(count, combine):
    records = stages(400, count=count, blind=0)
    logits = [record.logits for record in records]
    found = fit_heads(records, Policy.from_options(PolicyOptions(combine=combine), NAMES[:count]))
    heads = tuple(one.head for one in found.values())
    plain = Policy(score="learned", stages=count, heads=heads)
    for place in (0.1, 0.5, 0.9):
        thresholds = tuple(
            scores.sort().values[int(place * 400)].item()
            for scores in stage_outputs(logits, replace(plain, heads=heads)).scores[:-1]
        )
        policy = Policy(thresholds, "learned", (1.0, 2.0, 0.5)[:count], combine, heads=heads)
        expected = replay(logits, policy)
        assert 0 < (expected.stage == 0).sum() < 400
        cascade = Cascade([Table(own) for own in logits], policy)
        for size in (400, 1, 7):
            parts = [cascade(numbers) for numbers in torch.arange(400).split(size)]
            assert torch.equal(torch.cat([part.stage for part in parts]), expected.stage)
            assert torch.equal(torch.cat([part.prediction for part in parts]), expected.prediction)


def test_options_need_a_head_for_each_deferring_stage():
    found = fit_heads(stages(300, count=3), Policy.from_options(PolicyOptions(), NAMES))
    numbers = {name: one.head.numbers for name, one in found.items()}
    rule = Policy.from_options(PolicyOptions(score="learned", heads=numbers), NAMES)
    assert rule.heads == tuple(one.head for one in found.values())
    # another score may be looked at without taking the heads out of the config
    assert Policy.from_options(PolicyOptions(score="margin", heads=numbers), NAMES).heads == ()
    with pytest.raises(
        UsageError, match=r"policy.heads: .* needs a head for middle; .*learn_score"
    ):
        Policy.from_options(
            PolicyOptions(score="learned", heads={"small": numbers["small"]}), NAMES
        )
    with pytest.raises(UsageError, match=r"policy\.heads: 'tiny' is unknown"):
        Policy.from_options(PolicyOptions(score="learned", heads={"tiny": {}}), NAMES)
    with pytest.raises(UsageError, match="needs a head for small, middle"):
        Policy.from_options(PolicyOptions(score="learned"), NAMES)
    options = PolicyOptions(score="learned", heads=numbers)
    assert Policy.from_options(options, NAMES, recorded=True).score == "learned"
