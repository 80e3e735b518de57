"""Fitting of deferral heads, and cascades that run by them."""

import pytest
import torch
from torch import nn

from lit_cascade import Cascade, PolicyOptions, Record
from lit_cascade.analysis.deferral_head import FEWEST, MOST_CLASSES, fit_head, fit_heads
from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.contract import replay
from lit_cascade.core.deferral_head import features_of
from lit_cascade.core.policy import Policy
from lit_cascade.core.quality import deferral_quality
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
def test_a_head_is_the_regression_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    small, large = stages(900)
    fitted = fit_head(small.logits, right(small), right(large))
    features, answers = features_of(small.logits)
    table = torch.stack([*features, *nn.functional.one_hot(answers, 4).double().T], dim=1).numpy()
    fixed = (right(large) & ~right(small)).numpy()
    outside = make_pipeline(
        StandardScaler(), LogisticRegression(C=fitted.strength, max_iter=5000, tol=1e-10)
    ).fit(table, fixed)
    expected = outside.predict_proba(table)[:, 1].tolist()
    assert (-fitted.head.scores(small.logits)).tolist() == pytest.approx(expected, abs=1e-5)
    assert fitted.fixed == fixed.sum()
    assert fitted.n == 900
    # a logistic regression with an intercept gets the mean right
    assert sum(expected) / 900 == pytest.approx(fitted.fixed / 900, abs=1e-4)


def test_the_same_samples_give_the_same_head():
    small, large = stages(300)
    one, other = (fit_head(small.logits, right(small), right(large)) for _ in range(2))
    assert one == other


def test_a_head_learns_where_a_stage_is_confident_and_wrong():
    small, large = stages(2000, blind=2)
    head = fit_head(small.logits, right(small), right(large)).head
    fresh, other = stages(2000, seed=1, blind=2)
    plain = torch.tensor([max(softmax(row)) for row in fresh.logits.tolist()])
    learned = deferral_quality(head.scores(fresh.logits), right(fresh), right(other))
    before = deferral_quality(plain, right(fresh), right(other))
    assert learned > before + 0.1
    # it answers 3 in place of class 2, and 2 only by mistake: neither is to be believed
    assert min(head.by_answer[2:]) > max(head.by_answer[:2]) + 0.5


def test_areas_are_of_the_samples_fitted_on():
    small, large = stages(400, blind=2)
    found = fit_head(small.logits, right(small), right(large))
    plain = torch.tensor([max(softmax(row)) for row in small.logits.tolist()])
    assert found.area_before == pytest.approx(
        deferral_quality(plain, right(small), right(large)), abs=1e-3
    )
    assert found.area == deferral_quality(
        found.head.scores(small.logits), right(small), right(large)
    )


@pytest.mark.parametrize(("count", "n"), [(0, 50), (FEWEST - 1, 50), (50, 50), (46, 50)])
def test_too_few_samples_are_refused(count, n):
    here = torch.ones(n).bool()
    here[:count] = False
    with pytest.raises(
        CascadeError, match=rf"puts {count} of {n} answers right.*at least {FEWEST}"
    ):
        fit_head(torch.randn(n, 3), here, torch.ones(n).bool())


def test_many_classes_have_no_weight_per_answer():
    here = torch.rand(300) < 0.7
    for classes in (MOST_CLASSES, MOST_CLASSES + 1):
        found = fit_head(torch.randn(300, classes), here, torch.ones(300).bool())
        assert len(found.head.by_answer) == (classes if classes == MOST_CLASSES else 0)


def test_constant_features_have_no_weight():
    logits = torch.tensor([[0.0, 2.0, 1.0]]).expand(100, 3)
    here = torch.arange(100) % 4 > 0
    head = fit_head(logits, here, torch.ones(100).bool()).head
    assert set(head.weights) == set(head.by_answer) == {0.0}
    assert head.scores(logits[:1]).tolist() == pytest.approx([-0.25], abs=1e-4)


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
        assert found[name] == fit_head(logits[k], said[k], said[2])


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
    with pytest.raises(CascadeError, match=r"'small' holds scores and no logits.*a learned score"):
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
    for place in (0.1, 0.5, 0.9):
        thresholds = tuple(
            head.scores(own).sort().values[int(place * 400)].item()
            for head, own in zip(heads, logits, strict=False)
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
    with pytest.raises(UsageError, match=r"policy\.score: learned reads logits"):
        Policy.from_options(PolicyOptions(score="learned", heads=numbers), NAMES, recorded=True)
