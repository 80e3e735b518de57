"""Metrics at given thresholds, streaming and logged."""

import pickle
import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torchmetrics import MetricCollection
from torchmetrics.functional.classification import multiclass_accuracy

from lit_cascade import (
    AURC,
    CascadeAccuracy,
    CascadeError,
    CascadeFLOPs,
    CascadeMetrics,
    DeferralQuality,
    DeferralRate,
    LitCascade,
    Policy,
    PolicyOptions,
    ThresholdMetrics,
    UsageError,
    aurc,
    deferral_quality,
)
from lit_cascade.core import SCORES, answers_of, replay
from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.lit.metrics import ClassifierMetric
from tests.cli.runs import done, modules_together
from tests.lit.cascades import cascade, points, trainer
from tests.lit.metric_work import METRICS, PARTS, batches, figures
from tests.points import point_of_records
from tests.toys import Points

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


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
        assert getattr(none["f1"], state).shape == getattr(some["f1"], state).shape


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
    assert model.metrics_at([0.5], "matthews")["matthews"].labelled.ndim == 0
    model.class_names = ("a", "b", "c")
    assert model.metrics_at([0.5], "matthews")["matthews"].right.shape == (1, 3)
    with pytest.raises(UsageError, match="got 3 classes"):
        model.metrics_at([0.5], "f1")


def test_a_plain_validation_loop_needs_no_ids():
    run = trainer(logger=False)
    run.callbacks.append(ThresholdMetrics([0.5]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        run.validate(cascade(), datamodule=points(), verbose=False)
    assert 0 <= float(run.callback_metrics["val_accuracy@0.5"]) <= 1


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


KINDS = ["random", "ties", "equal", "one"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", [
    Policy(0.6), Policy(-0.6, "negative_entropy", (0.5, 2.0)), Policy(0.7, floors=(0.5,)),
    Policy((0.7, 0.5), combine="average"), Policy((0.9, 0.6), "margin", combine="most_confident"),
])  # fmt: skip
def test_each_metric_of_a_cascade_is_the_mean_over_the_replay(policy, kind):
    stages = policy.stages
    metrics = [CascadeAccuracy(policy), DeferralRate(policy), CascadeFLOPs(policy)]
    metrics.append(CascadeFLOPs(policy, relative=True))
    parts = list(batches(kind, stages))
    for metric in metrics:
        for logits, labels, flops in parts:
            metric.update(logits, labels, flops)
    logits = [torch.cat([part[0][k] for part in parts]) for k in range(stages)]
    labels, flops = (torch.cat([part[i] for part in parts]) for i in (1, 2))
    done = replay(logits, policy)
    spent = flops.cumsum(1).gather(1, done.stage[:, None]).mean()
    expected = [
        (done.prediction == labels).double().mean(), (done.stage > 0).double().mean(), spent,
        spent / flops[:, -1].mean(),
    ]  # fmt: skip
    for metric, value in zip(metrics, expected, strict=True):
        assert float(metric.compute()) == pytest.approx(float(value), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cascade_that_never_defers_has_the_accuracy_of_torchmetrics(kind):
    accuracy, oracle = CascadeAccuracy([-float("inf"), float("inf")]), []
    for logits, labels, _ in batches(kind):
        accuracy.update(logits, labels)
        oracle.append((*logits, labels))
    small, large, labels = map(torch.cat, zip(*oracle, strict=True))
    for value, logits in zip(accuracy.compute(), (small, large), strict=True):
        expected = multiclass_accuracy(answers_of(logits), labels, 3, average="micro")
        assert float(value) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", SCORES)
def test_ranking_metrics_are_those_of_all_samples_at_once(score, kind):
    area, quality = AURC(score, 1.5), DeferralQuality(score, 1.5)
    parts = list(batches(kind))
    for logits, labels, _ in parts:
        area.update(logits, labels)
        quality.update(logits, labels)
    small, large = (torch.cat([part[0][k] for part in parts]) for k in (0, 1))
    labels = torch.cat([part[1] for part in parts])
    scores, answers, _ = Policy(stages=2, score=score, temperatures=(1.5, 1)).judge(0, small)
    right = answers == labels
    assert float(area.compute()) == aurc(scores, right)
    expected = deferral_quality(scores, right, answers_of(large) == labels)
    assert float(quality.compute()) == pytest.approx(expected, nan_ok=True, abs=0)
    alone = AURC(score, 1.5)
    alone.update(small, labels)
    assert alone.compute() == area.compute()


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_metrics_merge_reset_and_travel(name, kind):
    make = METRICS[name]
    whole, halves = make(), [make(), make(), make()]  # the last sees nothing
    for number, part in enumerate(batches(kind)):
        whole.update(**PARTS[name](*part))
        halves[number % 2].update(**PARTS[name](*part))
    expected = whole.compute()
    for other in halves[1:]:
        if getattr(other, "update_called", True):
            halves[0].merge_state(other)
    same = pickle.loads(pickle.dumps(halves[0]))  # noqa: S301
    torch.testing.assert_close(same.compute(), expected, rtol=1e-12, atol=0, equal_nan=True)
    same.reset()
    part = next(iter(batches(kind)))
    again = make()
    again.update(**PARTS[name](*part))
    now = same(**PARTS[name](*part))
    torch.testing.assert_close(now, again.compute(), rtol=1e-12, atol=0, equal_nan=True)
    figure, axes = whole.plot() if name != "CascadeMetrics" else whole.plot()[0]
    assert axes.get_figure() is figure
    plt.close("all")


def test_several_processes_have_the_metrics_of_one(tmp_path):
    """One of them has no sample."""
    done(modules_together(2, ["tests.lit.metric_work", tmp_path], cwd=tmp_path))
    expected = figures(0, 1)
    assert set(expected) == {f"{kind}.{name}" for kind in ("random", "one") for name in METRICS}
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == expected


def test_a_collection_updates_once_for_all_its_metrics():
    calls = []
    metrics = CascadeMetrics([0.5, 0.6], metric="f1_macro")
    for name, metric in metrics.items(copy_state=False):
        metric._add = lambda *args, name=name, add=metric._add: calls.append(name) or add(*args)
    for part in batches("random"):
        metrics.update(*part)
    assert calls == ["f1_macro"] * len(list(batches("random")))
    assert isinstance(metrics, MetricCollection)
    assert set(metrics.clone(prefix="val_").compute()) == {
        "val_accuracy", "val_deferral_rate", "val_flops", "val_f1_macro",
    }  # fmt: skip


def test_metrics_of_a_score_with_norms_are_those_of_the_replay():
    small, large = logits = [torch.randn(90, 4) * k for k in (2, 4)]
    labels = large.argmax(1).where(torch.rand(90) < 0.8, torch.randint(0, 4, (90,)))
    rule = Policy(0.7, "max_logit_pnorm", norms=(3,))
    metrics = LitCascade([torch.nn.Linear(2, 4), torch.nn.Linear(2, 4)], rule).metrics_at(
        [0.6, 0.7]
    )
    metrics.update(logits, labels, torch.ones(90, 2))
    for k, threshold in enumerate((0.6, 0.7)):
        found = replay(logits, replace(rule, thresholds=(threshold,)))
        assert 0 < found.stage.sum() < 90
        right = (found.prediction == labels).double().mean()
        assert float(metrics.compute()["accuracy"][k]) == pytest.approx(float(right))
        assert metrics.compute()["deferral_rate"][k] == found.stage.double().mean()
    area = AURC("max_logit_pnorm", norm=3)
    area.update(small, labels)
    score = rule.judge(0, small).score
    right_small, right_large = small.argmax(1) == labels, large.argmax(1) == labels
    assert float(area.compute()) == aurc(score, right_small)
    quality = DeferralQuality("max_logit_pnorm", norm=3)
    quality.update(logits, labels)
    assert float(quality.compute()) == deferral_quality(score, right_small, right_large)


def test_metrics_at_other_thresholds_never_share_their_sums():
    """Even if the first batch is the same to both, in a collection that a user makes."""
    mine = MetricCollection({
        "a": CascadeAccuracy(0.5), "b": CascadeAccuracy(0.9), "c": DeferralRate(0.5),
        "d": CascadeAccuracy(0.5, temperatures=(2.0, 1.0)),
    })  # fmt: skip
    sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    for small in (sure, unsure):
        mine.update([small, torch.tensor([[0.0, 1.0]])], torch.tensor([0]))
    assert sorted(map(sorted, mine.compute_groups.values())) == [["a", "c"], ["b"], ["d"]]
    found = {name: float(value) for name, value in mine.compute().items()}
    assert found == {"a": 1.0, "b": 0.5, "c": 0.0, "d": 1.0}


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda x: CascadeAccuracy(0.5).update([x, x]), "labels: update of CascadeAccuracy needs"),
        (lambda x: CascadeFLOPs(0.5).update([x, x]), "flops: update of CascadeFLOPs needs them"),
        (lambda x: DeferralRate([Policy(0.5), Policy((0.5, 0.5))]), "for 2 stages, got one for 3"),
        (lambda x: DeferralRate(Policy(stages=2)), "needs a threshold"),
        (lambda x: DeferralRate(1.5), "outside the range"),
        (lambda x: DeferralRate(0.5).merge_state(DeferralRate(0.6)), "at the same thresholds"),
        (lambda x: AURC("sure"), "'sure' is unknown"),
        (lambda x: AURC(temperature=0), "above 0"),
        (lambda x: DeferralQuality().update(x, x[:, 0].long()), "of two or more stages, as a list"),
    ],
)
def test_wrong_arguments_of_a_metric_end_in_an_error_of_ours(work, message):
    with pytest.raises(UsageError, match=message):
        work(torch.randn(4, 3))


def test_properties_that_torchmetrics_reads():
    better = {
        name: make().higher_is_better for name, make in METRICS.items() if name != "CascadeMetrics"
    }
    assert better == {
        "CascadeAccuracy": True, "DeferralRate": None, "CascadeFLOPs": False, "AURC": False,
        "DeferralQuality": True,
    }  # fmt: skip
    for make in (CascadeAccuracy, DeferralRate, CascadeFLOPs, AURC, DeferralQuality):
        assert make.is_differentiable is False
        assert make.full_state_update is False
