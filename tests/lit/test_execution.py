"""Cascades run for real, against the replay of their records."""

import math

import pytest
import torch

from lit_cascade import (
    CascadeError,
    Policy,
    PolicyOptions,
    UsageError,
)
from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.contract import replay
from lit_cascade.core.metrics import measure
from lit_cascade.core.scores import score_and_answer
from tests.lit.cascades import cascade, points, trainer
from tests.points import point_of_records
from tests.toys import BadNet, Dicts, Net, Points


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_running_for_real_is_the_replay_at_twenty_thresholds(stages, temperature):
    model, data = cascade(stages), points(50)
    run = trainer()
    records = run.record(model, data)
    logits = [record.logits for record in records]
    for threshold in torch.linspace(0.33, 1.0, 20).tolist():
        policy = Policy((threshold,) * (stages - 1), temperatures=(temperature,) * stages)
        model.cascade.policy = policy
        done, expected = run.execute(model, data), replay(logits, policy)
        assert torch.equal(done.stage, expected.stage)
        assert torch.equal(done.prediction, expected.prediction)
        spent = torch.stack([record.cost() for record in records], dim=1)
        ran = torch.arange(stages) <= expected.stage[:, None]
        assert torch.equal(done.flops, spent * ran)


@pytest.mark.parametrize("dataset", [Points, Dicts])
@pytest.mark.parametrize("floored", [False, True])
@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("combine", COMBINATIONS)
def test_running_a_combination_for_real_is_its_replay(combine, stages, floored, dataset):
    temperatures = (1.5, 0.5, 2.0)[:stages]
    records = trainer().record(cascade(stages), points(60))
    logits = [record.logits for record in records]
    ordered = [
        score_and_answer(stage, "margin", t)[0].sort().values
        for stage, t in zip(logits[:-1], temperatures, strict=False)
    ]
    between = [[(c[q] + c[q + 1]).item() / 2 for c in ordered] for q in (10, 40)]
    options = PolicyOptions(
        score="margin",
        thresholds=between[1],
        temperatures=list(temperatures),
        combine=combine,
        floors=between[0] if floored else None,
    )
    done = trainer().execute(cascade(stages, options), points(60, dataset))
    policy = Policy.from_options(options, [record.name for record in records])
    expected, outcome = replay(logits, policy), point_of_records(records, policy)
    assert torch.equal(done.stage, expected.stage)
    assert torch.equal(done.prediction, expected.prediction)
    assert set(done.stage.tolist()) == set(range(stages))
    assert int((done.prediction == done.samples.labels).sum()) / 60 == outcome.accuracy
    assert float(done.flops.sum()) / 60 == pytest.approx(outcome.cost)


def test_very_sure_stages_can_be_averaged_for_real():
    class Sure(Net):
        def forward(self, x):
            return super().forward(x) * 1e4

    options = PolicyOptions(thresholds=[math.inf], combine="average")
    done = trainer().execute(cascade(policy=options, net=Sure), points())
    assert done.stage.tolist() == [1] * 21


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("metric", ["f1_macro", "matthews"])
def test_the_metric_of_a_real_run_is_that_of_its_replay(metric, combine):
    records = trainer().record(cascade(3), points(60))
    options = PolicyOptions(thresholds=[0.4, 0.5], combine=combine)
    done = trainer().execute(cascade(3, options), points(60))
    expected = point_of_records(records, Policy((0.4, 0.5), combine=combine), metric=metric)
    assert measure(metric, done.prediction, done.samples.labels, 3) == expected.metric


def test_thresholds_are_needed_to_run():
    with pytest.raises(UsageError, match=r"a threshold for net0"):
        trainer().execute(cascade(), points())


def test_nan_logits_of_an_answer_stop_a_real_run():
    model = cascade(net=BadNet, policy=PolicyOptions(thresholds=[0.9]))
    with pytest.raises(CascadeError, match=r"NaN or infinite logits"):
        trainer().execute(model, points())
