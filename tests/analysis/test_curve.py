import math
from functools import partial

import pytest
import torch

from lit_cascade import CascadeError, Policy, Record, UsageError
from lit_cascade.analysis.calibration import calibrate_record
from lit_cascade.analysis.curve import cost_notes, official_metric, outcomes_of
from lit_cascade.analysis.curve import curve as curve_of
from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.contract import replay
from lit_cascade.core.curve import OperatingPoint
from lit_cascade.core.scores import score_and_answer
from lit_cascade.records.record import score_and_correct
from tests.oracles import (
    brute_force_point,
    combined_answer,
    metric_by_sklearn,
    softmax,
    stage_of,
)
from tests.points import point_of_records

TEMPERATURES = (1.5, 0.75, 2.0)


def recorded(stages=2, n=80, classes=3):
    labels = torch.randint(0, classes, (n,))
    hints = torch.nn.functional.one_hot(labels, classes)
    return [
        Record.from_arrays(
            f"net{k}",
            torch.randn(n, classes) * 1.5 + (k + 0.5) * hints,
            labels,
            costs={"flops": 10.0 ** (k + 3), "latency_s": torch.rand(n) * (k + 1)},
        )
        for k in range(stages)
    ]


def scored(records):
    """Records with scores instead of logits."""
    found = [score_and_correct(record) for record in records]
    return [
        Record.from_arrays(
            record.name, score=score, correct=correct, costs=record.costs, ids=record.ids
        )
        for record, (score, correct) in zip(records, found, strict=True)
    ]


def judged_slowly(records, combine, score="max_softmax"):
    """Scores, correctness after each stage, and correctness of each stage, sample by sample."""
    scores, after, alone = [], [], []
    for i, label in enumerate(records[0].labels.tolist()):
        rows = [record.logits[i].tolist() for record in records]
        pairs = [
            score_and_answer(record.logits[i : i + 1], score, t)
            for record, t in zip(records, TEMPERATURES, strict=False)
        ]
        own = [pair[0].item() for pair in pairs]
        answers = [row.index(max(row)) for row in rows]
        said = [softmax(row, t) for row, t in zip(rows, TEMPERATURES, strict=False)]
        scores.append(own[:-1])
        alone.append([answer == label for answer in answers])
        after.append(
            [
                combined_answer(combine, own[: k + 1], answers[: k + 1], said[: k + 1]) == label
                for k in range(len(records))
            ]
        )
    return scores, after, alone


@pytest.mark.parametrize("unit", ["flops", "latency_s"])
@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_a_curve_of_equals_brute_force(combine, stages, unit):
    records = recorded(stages)
    scores, after, alone = judged_slowly(records, combine)
    floors = tuple(sorted(column)[15] for column in zip(*scores, strict=True))
    policy = Policy(
        stages=stages, temperatures=TEMPERATURES[:stages], combine=combine, floors=floors
    )
    costs = torch.stack([record.cost(unit) for record in records], dim=1).tolist()
    curve = curve_of(records, policy, cost=unit)
    assert len(curve) > 30
    for row, threshold in enumerate(curve.thresholds.tolist()):
        expected = brute_force_point(scores, after, costs, threshold, list(floors))
        found = [float(c[row]) for c in (curve.deferral_rate, curve.accuracy, curve.cost)]
        assert found == pytest.approx(expected, rel=1e-12)
    columns = zip(*alone, strict=True)
    assert curve.stage_accuracy.tolist() == [sum(column) / 80 for column in columns]


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_a_point_equals_a_loop_over_samples_and_the_replay(combine, stages):
    records = recorded(stages)
    scores, after, _ = judged_slowly(records, combine, "margin")
    columns = [sorted(column) for column in zip(*scores, strict=True)]
    floors, thresholds = ([column[at] for column in columns] for at in (12, 50))
    policy = Policy(
        tuple(thresholds), "margin", TEMPERATURES[:stages], combine=combine, floors=tuple(floors)
    )
    found = point_of_records(records, policy, "latency_s")
    stage = [stage_of(own, thresholds, floors) for own in scores]
    costs = torch.stack([record.cost("latency_s") for record in records], dim=1).tolist()
    spent = sum(sum(own[: k + 1]) for own, k in zip(costs, stage, strict=True))
    assert found.n == 80
    assert found.accuracy == sum(own[k] for own, k in zip(after, stage, strict=True)) / 80
    assert found.deferral_rate == sum(k > 0 for k in stage) / 80
    assert found.cost == pytest.approx(spent / 80)
    assert found.cost_ratio == pytest.approx(spent / sum(own[-1] for own in costs))
    assert found.answered == tuple(stage.count(k) / 80 for k in range(stages))
    told = replay([record.logits for record in records], policy)
    assert told.stage.tolist() == stage
    assert found.accuracy == int((told.prediction == records[0].labels).sum()) / 80


@pytest.mark.parametrize("combine", ["later", "most_confident"])
def test_scores_alone_give_the_curve_of_their_logits(combine):
    records = recorded(3)
    policy = Policy(stages=3, combine=combine, floors=(0.4, 0.45))
    one, other = (curve_of(r, policy, cost="latency_s") for r in (records, scored(records)))
    for part in ("thresholds", "deferral_rate", "accuracy", "cost", "stage_accuracy"):
        assert torch.equal(getattr(one, part), getattr(other, part))
    told = Policy((0.6, 0.7), combine=combine, floors=(0.4, 0.45))
    assert point_of_records(records, told) == point_of_records(scored(records), told)


def test_without_a_policy_the_later_stage_answers():
    records = recorded(2)
    one, other = curve_of(records), curve_of(records, Policy(stages=2))
    assert torch.equal(one.accuracy, other.accuracy)
    assert torch.equal(one.cost, other.cost)


def test_scores_are_infinite_below_the_floor():
    records = recorded(2)
    score = score_and_correct(records[0])[0]
    floor = score.sort().values[30].item()
    judged = outcomes_of(records, Policy(stages=2, floors=(floor,)))
    assert (judged.scores[:, 0] == math.inf).tolist() == (score < floor).tolist()
    assert (score < floor).sum() == 30


def test_what_needs_logits_is_refused_for_scores():
    records = scored(recorded(2))
    with pytest.raises(CascadeError, match="'net0' holds scores and no logits, which a temper"):
        curve_of(records, Policy(stages=2, temperatures=(2.0, 1.0)))
    with pytest.raises(CascadeError, match="'net1' holds scores and no logits, which a temper"):
        curve_of(records, Policy(stages=2, temperatures=(1.0, 2.0)))
    with pytest.raises(CascadeError, match="which an average of probabilities needs"):
        curve_of(records, Policy(stages=2, combine="average"))
    with pytest.raises(CascadeError, match="which a temperature needs"):
        calibrate_record(records[0])


def test_a_unit_that_a_record_lacks_is_named_with_those_it_has():
    one, other = recorded(2)
    other = Record.from_arrays("other", other.logits, other.labels, flops=1.0)
    of_curve = partial(curve_of, cost="latency_s")
    for question in (of_curve, partial(point_of_records, unit="latency_s")):
        with pytest.raises(CascadeError, match="'other' has no cost 'latency_s'; it has flops"):
            question([one, other], Policy((0.5,)))
    with pytest.raises(CascadeError, match="'net0' has no cost 'usd'; it has flops, latency_s"):
        cost_notes([one, other], "usd")


def test_notes_name_the_unit():
    parts = {"score": [0.5], "correct": [1]}
    a = Record.from_arrays("a", costs={"latency_s": 2, "usd": 1}, **parts)
    b = Record.from_arrays("b", costs={"latency_s": 1, "usd": 1}, **parts)
    assert "'a' costs more seconds than 'b'" in cost_notes([a, b], "latency_s")[0]
    assert "'a' costs as many dollars as 'b'" in cost_notes([a, b], "usd")[0]
    assert cost_notes([b, a], "latency_s") == []


def test_a_last_stage_that_costs_nothing_is_refused():
    with pytest.raises(CascadeError, match="the last stage costs nothing"):
        OperatingPoint.measured(
            [0.5], torch.zeros(1).long(), None, torch.zeros(1, 2), torch.zeros(1)
        )


@pytest.mark.parametrize("floored", [False, True])
@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("metric", ["f1", "f1_macro", "matthews"])
def test_a_metric_on_the_curve_is_that_of_the_replay_at_every_threshold(
    metric, combine, stages, floored
):
    classes = 2 if metric == "f1" else 4
    records = recorded(stages, 24, classes)
    logits, labels = [record.logits for record in records], records[0].labels
    parts = {"temperatures": TEMPERATURES[:stages], "combine": combine}
    if floored:
        columns = zip(records[:-1], TEMPERATURES, strict=False)
        scores = [score_and_correct(record, temperature=t)[0] for record, t in columns]
        parts["floors"] = tuple(score.sort().values[9].item() for score in scores)
    curve = curve_of(records, Policy(stages=stages, **parts), metric=metric)
    plain = curve_of(records, Policy(stages=stages, **parts))
    assert curve.metric == metric
    assert torch.equal(curve.accuracy, plain.accuracy)
    assert torch.equal(curve.thresholds, plain.thresholds)
    for row, threshold in enumerate(curve.thresholds.tolist()):
        # below a floor the threshold says nothing, and is none that a policy could have
        held = [max(threshold, floor) for floor in parts.get("floors", [-math.inf] * (stages - 1))]
        policy = Policy(tuple(held), **parts)
        answers = replay(logits, policy).prediction.tolist()
        expected = metric_by_sklearn(metric, answers, labels.tolist(), classes)
        assert curve.by_metric[row].item() == pytest.approx(expected, rel=1e-13)
        assert (
            point_of_records(records, policy, metric=metric).metric == curve.by_metric[row].item()
        )
    own = [stage.argmax(dim=1).tolist() for stage in logits]
    assert curve.stage_by_metric.tolist() == pytest.approx(
        [metric_by_sklearn(metric, answers, labels.tolist(), classes) for answers in own]
    )


def test_without_a_metric_a_point_has_none():
    records = recorded(2)
    assert point_of_records(records, Policy((0.5,))).metric is None
    assert outcomes_of(records, Policy((0.5,))).answers is None


def test_a_metric_needs_answers():
    words = "holds which answers are right .* the metric f1"
    with pytest.raises(CascadeError, match=f"'net0' {words}"):
        curve_of(scored(recorded(2, classes=2)), metric="f1")
    first, last = recorded(2, classes=2)
    parts = {"score": torch.rand(80), "correct": torch.ones(80), "costs": last.costs}
    last = Record.from_arrays("api", labels=first.labels, classes=first.classes, **parts)
    assert len(curve_of([first, last], cost="latency_s")) > 2
    with pytest.raises(CascadeError, match=f"'api' {words}"):
        point_of_records([first, last], Policy((0.5,)), "latency_s", "f1")


def test_the_official_metric_is_the_users_or_that_of_the_data():
    f1, none, other = {"metric": "f1"}, {"name": "x"}, {"metric": "matthews"}
    assert official_metric([none, none]) is None
    assert official_metric([f1, f1]) == official_metric([none, f1]) == "f1"
    assert official_metric([f1, other], "f1_macro") == "f1_macro"
    assert official_metric([f1], "accuracy") is official_metric([{"metric": "accuracy"}]) is None
    with pytest.raises(CascadeError, match=r"name f1 and matthews as that of their data.*--metric"):
        official_metric([f1, other])
    for data, wanted in (
        ([{"metric": "bleu"}], None),
        ([f1], "bleu"),
        ([{"metric": ["f1"]}], None),
    ):
        with pytest.raises(UsageError, match="known are accuracy, f1, f1_macro, matthews"):
            official_metric([{"metric": name} for name in data], wanted)
    assert official_metric([f1], None, ("no", "yes")) == "f1"
    with pytest.raises(UsageError, match="got 3 classes"):
        official_metric([f1], None, ("a", "b", "c"))
