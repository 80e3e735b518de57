"""The functions that commands and notebooks share: what they take, refuse and keep apart."""

import math
from dataclasses import replace

import pytest
import torch

from lit_cascade import (
    CascadeError,
    Policy,
    PolicyOptions,
    Promise,
    Record,
    UsageError,
    calibrate,
    check,
    compare_scores,
    curve,
    replay,
    search,
    select,
)
from lit_cascade.core import contract
from lit_cascade.core.combination import COMBINATIONS
from tests.analysis.test_curve import scored

N = 600


def made(stages=2, n=N, first=0, source="noise", seed=0, split=None):
    """Records of stages of rising accuracy and cost."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    hints = torch.nn.functional.one_hot(labels, 3)
    return [
        Record.from_arrays(
            f"net{k}",
            torch.randn(n, 3, generator=generator) + (1.5 + 1.5 * k) * hints,
            labels,
            costs={"flops": 10.0 ** (k + 3), "usd": 2.0 ** (k + 1)},
            ids=torch.arange(first, first + n),
            data={"name": "noise", "source": source, "split": split},
        )
        for k in range(stages)
    ]


def saved(records, folder):
    paths = [folder / f"{record.name}.safetensors" for record in records]
    for path, record in zip(paths, records, strict=True):
        record.save(path)
    return paths


def test_files_and_records_are_the_same(tmp_path):
    records = made()
    paths = saved(records, tmp_path)
    for one, other in ((records, paths), (records, [str(path) for path in paths])):
        assert torch.equal(curve(one).accuracy, curve(other).accuracy)
        assert select(one, deferral_rate=0.3).policy == select(other, deferral_rate=0.3).policy
        assert calibrate(one).policy == calibrate(other).policy
        assert replay(one, 0.9).point == replay(other, 0.9).point
    front = search(records).cascades.points
    assert front == search(paths).cascades.points == search([tmp_path]).cascades.points
    assert search(tmp_path).cascades.points == front


@pytest.mark.parametrize("verb", [curve, calibrate, lambda r: select(r, deferral_rate=0.3)])
@pytest.mark.parametrize(
    ("records", "message"),
    [
        (None, "records: expected a list of records or their files, .* got NoneType"),
        ("a.safetensors", "got 'a.safetensors'"),
        ([torch.zeros(3)] * 2, r"expected records or their files, got Tensor; Record\.from_arrays"),
        (["nowhere.safetensors"] * 2, "there is no file 'nowhere.safetensors'"),
        (made()[:1], "a cascade needs at least 2 stages, got 1"),
        (made()[:1] * 2, "the name 'net0' occurs twice"),
    ],
)
def test_what_are_no_records_is_refused(verb, records, message):
    with pytest.raises(UsageError, match=message):
        verb(records)


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("stages", [2, 3])
def test_a_replay_gives_the_answers_of_the_contract(stages, combine):
    records = made(stages)
    policy = Policy((0.7, 0.8)[: stages - 1], combine=combine)
    done = replay(records, policy, cost="usd")
    expected = contract.replay([record.logits for record in records], policy)
    assert torch.equal(done.stage, expected.stage)
    assert torch.equal(done.prediction, expected.prediction)
    right = expected.prediction == records[0].labels
    assert torch.equal(done.correct, right)
    assert done.point.accuracy == pytest.approx(float(right.double().mean()))
    spent = torch.tensor([2.0 ** (k + 1) for k in range(stages)]).cumsum(0)[expected.stage]
    assert done.cost.tolist() == spent.tolist()
    assert done.ids == records[0].ids
    for k, record in enumerate(records):
        rows = done.stage == k
        assert torch.equal(done.score[rows], policy.judge(k, record.logits).score[rows])


def test_a_replay_needs_neither_labels_nor_logits():
    records = made()
    blind = [replace(record, labels=None) for record in records]
    done = replay(blind, 0.9)
    assert done.correct is None
    assert math.isnan(done.point.accuracy)
    assert torch.equal(done.prediction, replay(records, 0.9).prediction)
    done = replay(scored(records), 0.9)
    assert done.prediction is None
    assert torch.equal(done.correct, replay(records, 0.9).correct)
    with pytest.raises(UsageError, match="running a cascade needs a threshold"):
        replay(records, None)


def test_recorded_scores_may_have_any_range():
    records = [replace(one, score=one.score * 50) for one in scored(made())]
    policy = select(records, deferral_rate=0.3).policy
    assert policy.score == "recorded"
    assert policy.thresholds[0] > 1
    rate = replay(records, policy, allow_overlap=True).point.deferral_rate
    assert 0.2 < rate <= 0.3
    assert replay(records, policy.thresholds, allow_overlap=True).point.deferral_rate == rate


@pytest.mark.parametrize("stages", [2, 3])
def test_a_policy_goes_from_choice_to_check(stages, tmp_path):
    selection = select(made(stages), max_accuracy_drop=0.1)
    policy = selection.policy
    assert policy.thresholds == selection.chosen.typed_thresholds
    assert policy.evidence["promise"]["observed"]["value"] == selection.chosen.value
    policy.save(tmp_path / "policy.yaml")
    read, new = Policy.load(tmp_path / "policy.yaml"), made(stages, first=N, seed=1)
    assert read == policy
    for one in (policy, read):
        verdict = check(one, new)
        assert verdict.outcome in {"kept", "open"}
        assert verdict.value == pytest.approx(
            float((new[-1].logits.argmax(1) == new[0].labels).double().mean())
            - replay(new, one).point.accuracy
        )
    by_promise = select(made(stages), Promise("accuracy_drop", 0.1))
    assert by_promise.policy == policy


def test_samples_that_a_policy_was_fitted_on_are_refused_or_left_out():
    records = made()
    policy = select(records, max_accuracy_drop=0.1).policy
    for verb in (curve, replay):
        with pytest.raises(CascadeError, match="600 of these 600 samples are among those"):
            verb(records, policy)
        assert verb(records, policy, allow_overlap=True) is not None
        assert verb(made(first=N), policy) is not None
    with pytest.raises(CascadeError, match="samples are among those that the thresholds") as error:
        check(policy, records)
    assert "--allow_overlap" not in str(error.value)  # which check does not have
    fitted = calibrate(records, share=0.4, seed=3)
    chosen = select(records, deferral_rate=0.3, policy=fitted.policy)
    assert (chosen.left_out, chosen.n) == (240, 360)
    assert chosen.policy.temperatures == fitted.policy.temperatures
    assert chosen.policy.evidence["temperatures"]["n"] == 240
    assert chosen.policy.evidence["thresholds"]["n"] == 360
    everything = select(records, deferral_rate=0.3, policy=fitted.policy, allow_overlap=True)
    assert (everything.left_out, everything.n) == (0, 600)
    with pytest.raises(CascadeError, match="were fitted on all of these 600 samples"):
        select(records, deferral_rate=0.3, policy=calibrate(records).policy)
    half = [record.rows(range(N // 2)) for record in records]
    with pytest.raises(CascadeError, match="300 of these 600 samples are among"):
        compare_scores(records, fit_on=half)
    assert compare_scores(records, fit_on=half, allow_overlap=True).notes
    (note,) = compare_scores(records, fit_on=made(first=N)).notes
    assert note.startswith("max_logit_pnorm: ")
    two = made(split="calibration") + made(split="test")
    with pytest.raises(CascadeError, match="600 samples are in both splits"):
        search(two)


def test_a_learned_score_is_in_the_policy():
    records = made()
    result = calibrate(records, share=0.5, learn_score=True)
    policy = result.policy
    assert (policy.score, policy.thresholds) == ("learned", None)
    assert policy.heads == tuple(one.head for one in result.heads.values())
    again = Policy.from_options(PolicyOptions(**policy.to_dict()), policy.names)
    assert again == policy
    with pytest.raises(UsageError, match=r"learn_score: .* is most_confident"):
        calibrate(records, learn_score=True, policy=Policy(stages=2, combine="most_confident"))


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        (select, "expected one target of max_accuracy_drop, .*; got none"),
        (lambda r: select(r, max_cost=1, min_accuracy=1), "got max_cost and min_accuracy"),
        (lambda r: select(r, max_drop=0.1), "target: 'max_drop' is unknown"),
        (lambda r: select(r, deferral_rate="a"), "deferral_rate: expected a share .*got 'a'"),
        (lambda r: select(r, max_accuracy_drop=1), "max_accuracy_drop: 1 is not a share: for 1"),
        (lambda r: select(r, max_cost="1%"), "max_cost: expected a number of at least 0"),
        (lambda r: select(r, deferral_rate=0.3, policy=Policy((0.5, 0.5))), "need 1 threshold"),
        (lambda r: replay(r, "0.5"), "thresholds: expected a number"),
        (lambda r: calibrate(r, stages=["net9"]), "stages: 'net9' is unknown"),
        (lambda r: calibrate(r, method="platt"), "method: 'platt' is unknown"),
        (lambda r: check(0.9, r), "policy: expected a Policy, got float"),
        (lambda r: search(r, stages=5), "stages: expected 2, 3 or 4"),
        (lambda r: search(r, score="learned"), "score: a learned score is fitted to one cascade"),
        (lambda r: search(r, bands=[(0.9, 0.8)]), "bands: expected two accuracies"),
        (lambda r: search([]), "there are no records"),
        (lambda r: compare_scores(made(1)), "at least 2 stages, got 1"),
    ],
)
def test_wrong_arguments_end_in_an_error_of_ours(verb, message):
    with pytest.raises(UsageError, match=message):
        verb(made())


def test_what_cannot_be_promised_is_told():
    selection = select(made(n=30), max_accuracy_drop=0.001)
    assert selection.policy is None
    assert "no policy that costs less than 'net1' alone can be promised" in selection.reason
    with pytest.raises(CascadeError, match="from 30 samples"):
        selection.required_policy()
    with pytest.raises(CascadeError, match="promises nothing"):
        check(Policy(0.9), made())
