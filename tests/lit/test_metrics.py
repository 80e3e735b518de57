"""Metrics at given thresholds, streaming and logged."""

import warnings

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lit_cascade import (
    CascadeError,
    Policy,
    PolicyOptions,
    UsageError,
)
from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.lit import CascadeMetrics, ThresholdMetrics
from lit_cascade.lit.metrics import ClassifierMetric
from tests.lit.cascades import cascade, points, trainer
from tests.points import point_of_records
from tests.toys import Points


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_a_logger_gets_metrics_per_threshold(tmp_path, combine):
    options = PolicyOptions(combine=combine)
    run, model = trainer(logger=CSVLogger(tmp_path)), cascade(policy=options)
    run.callbacks.append(ThresholdMetrics([0.4, 0.6]))
    records = run.record(model, points())
    expected, logged = (
        point_of_records(records, Policy((0.6,), combine=combine)),
        run.callback_metrics,
    )
    assert float(logged["val_accuracy@0.6"]) == pytest.approx(expected.accuracy)
    assert float(logged["val_deferral_rate@0.6"]) == pytest.approx(expected.deferral_rate)
    assert float(logged["val_flops@0.6"]) == pytest.approx(expected.cost)


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("stages", [2, 3])
def test_streaming_metrics_are_the_curve_at_each_threshold(stages, combine):
    temperatures = (0.8, 1.5, 3.0)[:stages]
    records = trainer().record(cascade(stages), points(200))
    thresholds = [0.0, 0.4, 0.55, 0.7, 1.0]
    metrics = CascadeMetrics(
        thresholds, temperatures=temperatures, num_stages=stages, combine=combine
    )
    for part in torch.arange(200).split(33):
        metrics.update(
            [record.logits[part] for record in records],
            records[0].labels[part],
            torch.stack([record.cost()[part] for record in records], dim=1),
        )
    found = metrics.compute()
    for t, threshold in enumerate(thresholds):
        policy = Policy((threshold,) * (stages - 1), "max_softmax", temperatures, combine)
        expected = point_of_records(records, policy)
        assert float(found["accuracy"][t]) == expected.accuracy
        assert float(found["deferral_rate"][t]) == expected.deferral_rate
        assert float(found["flops"][t]) == pytest.approx(expected.cost, rel=1e-12)


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("metric", ["f1_macro", "matthews", "accuracy"])
@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("stages", [2, 3])
def test_a_streaming_metric_is_that_of_the_replay(stages, combine, metric, classes):
    records = trainer().record(cascade(stages), points(100))
    thresholds = [0.0, 0.45, 0.7, 1.0]
    parts = {"num_stages": stages, "combine": combine, "metric": metric, "num_classes": classes}
    metrics = [CascadeMetrics(thresholds, **parts) for _ in range(2)]
    for number, part in enumerate(torch.arange(100).split(33)):
        metrics[number % 2].update(
            [record.logits[part] for record in records],
            records[0].labels[part],
            torch.stack([record.cost()[part] for record in records], dim=1),
        )
    metrics[0].merge_state(metrics[1])  # as of two processes
    found = metrics[0].compute()
    for t, threshold in enumerate(thresholds):
        policy = Policy((threshold,) * (stages - 1), combine=combine)
        expected = point_of_records(records, policy, metric=metric)
        assert float(found[metric][t]) == expected.metric
        assert float(found["accuracy"][t]) == expected.accuracy
    metrics[0].reset()
    again = metrics[0]([r.logits for r in records], records[0].labels, torch.ones(100, stages))
    assert float(again[metric][0]) == metric_at(records, metric, combine, thresholds[0])


def metric_at(records, metric, combine, threshold):
    policy = Policy((threshold,) * (len(records) - 1), combine=combine)
    return point_of_records(records, policy, metric=metric).metric


def test_a_process_without_samples_adds_nothing_and_alone_has_no_metric():
    small, large = torch.randn(2, 12, 2)
    labels = torch.randint(0, 2, (12,))
    some, none = (CascadeMetrics([0.6, 0.9], metric="f1") for _ in range(2))
    with pytest.warns(UserWarning, match="called before the ``update`` method"):
        assert none.compute()["f1"].isnan().all()
    some.update([small, large], labels, torch.ones(12, 2))
    before = some.compute()["f1"].tolist()
    some.merge_state(none)
    assert some.compute()["f1"].tolist() == before
    for state in ("right", "answered", "labelled"):  # processes gather states of one shape
        assert getattr(none, state).shape == getattr(some, state).shape


@pytest.mark.parametrize(
    ("parts", "labels", "error", "says"),
    [
        ({"metric": "f1"}, [0, 1], UsageError, "got 3 classes; expected f1_macro"),
        ({"metric": "f1_macro"}, [[0, 1], [1, -1]], CascadeError, "one label per sample"),
        ({"metric": "matthews", "num_classes": 4}, [0, 1], CascadeError, "of 4 classes.* got 3"),
    ],
)
def test_a_streaming_metric_that_cannot_be_had_is_refused(parts, labels, error, says):
    metrics = CascadeMetrics([0.5], **parts)
    with pytest.raises(error, match=says):
        metrics.update([torch.randn(2, 3)] * 2, torch.tensor(labels), torch.ones(2, 2))
    for wrong in ({"metric": "f1", "num_classes": 3}, {"metric": "bleu"}):
        with pytest.raises(UsageError, match="metric: "):
            CascadeMetrics([0.5], **wrong)


class Official(Points):
    metric = "matthews"


def test_a_logger_gets_the_metric_of_the_data_or_the_one_asked_for():
    for asked, name in ((None, "matthews"), ("f1_macro", "f1_macro"), ("accuracy", None)):
        run, model = trainer(), cascade()
        run.callbacks.append(ThresholdMetrics([0.4, 0.6], asked))
        records = run.record(model, points(dataset=Official))
        logged = run.callback_metrics
        for threshold in (0.4, 0.6):
            if name is None:
                break
            expected = metric_at(records, name, "later", threshold)
            assert float(logged[f"val_{name}@{threshold}"]) == pytest.approx(expected)
        kinds = {key.removeprefix("val_").split("@")[0] for key in logged}
        assert kinds == {"accuracy", "deferral_rate", "flops", *([name] if name else [])}
        assert records[0].data["metric"] == "matthews"


def test_metrics_of_a_module_that_knows_its_classes_have_their_shape():
    model = cascade()
    assert model.metrics_at([0.5], "matthews").labelled.ndim == 0
    model.class_names = ("a", "b", "c")
    assert model.metrics_at([0.5], "matthews").right.shape == (1, 3)
    with pytest.raises(UsageError, match="got 3 classes"):
        model.metrics_at([0.5], "f1")


def test_a_plain_validation_loop_needs_no_ids():
    run = trainer(logger=False)
    run.callbacks.append(ThresholdMetrics([0.5]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        run.validate(cascade(), datamodule=points(), verbose=False)
    assert 0 <= float(run.callback_metrics["val_accuracy@0.5"]) <= 1


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


@pytest.mark.parametrize("metric", ["accuracy", "f1", "f1_macro", "matthews"])
def test_scores_add_up_over_batches(metric):
    import torchmetrics.functional.classification as oracle

    generator = torch.Generator().manual_seed(0)
    answers, labels = torch.randint(0, 2, (2, 50), generator=generator)
    score = ClassifierMetric(metric, 2)
    for part in range(0, 50, 8):
        score.update(answers[part : part + 8], labels[part : part + 8])
    expected = {
        "accuracy": oracle.binary_accuracy(answers, labels),
        "f1": oracle.binary_f1_score(answers, labels),
        "f1_macro": oracle.multiclass_f1_score(answers, labels, 2, average="macro"),
        "matthews": oracle.binary_matthews_corrcoef(answers, labels),
    }[metric]
    assert float(score.compute()) == pytest.approx(float(expected), abs=1e-6)
