import math
import warnings
from dataclasses import asdict, replace

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lit_cascade import (
    CascadeError,
    CascadeTrainer,
    LitCascade,
    Policy,
    PolicyOptions,
    Promise,
    Stage,
    UsageError,
    replay,
)
from lit_cascade.analysis.curve import point_of_records
from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.metrics import measure
from lit_cascade.core.scores import score_and_answer
from lit_cascade.data import Datasets, EvaluationData
from lit_cascade.data.loading import evaluation_loader
from lit_cascade.data.splits import describe, shared_ids
from lit_cascade.lit import CascadeMetrics, ThresholdMetrics
from tests.toys import BadNet, Dicts, Named, Net, Points, SharedPoints


def trainer(**options):
    return CascadeTrainer(
        accelerator=options.pop("accelerator", "cpu"),
        logger=options.pop("logger", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )


def cascade(stages=2, policy=None, net=Net):
    widths = {f"net{k}": Stage(net(4**k + 3, seed=k)) for k in range(stages)}
    return LitCascade(widths, policy)


def points(n=21, dataset=Points, **splits):
    return Datasets(validation=dataset(n), batch_size=4, name="points", **splits)


@pytest.mark.parametrize("stages", [2, 3])
def test_records_hold_what_the_models_say(stages):
    model, data = cascade(stages), points()
    records = trainer().record(model, data)
    for record, network in zip(records, model.cascade.stages, strict=True):
        assert torch.equal(record.labels, Points(21).y)
        assert record.ids.tolist() == list(range(21))
        assert record.classes == ("cat", "dog", "owl")
        torch.testing.assert_close(record.logits, network(Points(21).x).detach())
    assert [record.name for record in records] == list(model.names)
    assert [float(record.cost()[0]) for record in records] == [
        2 * (2 * (4**k + 3) + 3 * (4**k + 3)) for k in range(stages)
    ]
    assert dict(records[0].data) == {"name": "points", "split": "validation", "source": "points"}


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
        done, told = run.execute(model, data), replay(logits, policy)
        assert torch.equal(done.stage, told.stage)
        assert torch.equal(done.prediction, told.prediction)
        spent = torch.stack([record.cost() for record in records], dim=1)
        ran = torch.arange(stages) <= told.stage[:, None]
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
    told, outcome = replay(logits, policy), point_of_records(records, policy)
    assert torch.equal(done.stage, told.stage)
    assert torch.equal(done.prediction, told.prediction)
    assert set(done.stage.tolist()) == set(range(stages))
    assert int((done.prediction == done.samples.labels).sum()) / 60 == outcome.accuracy
    assert float(done.flops.sum()) / 60 == pytest.approx(outcome.cost)


def test_without_thresholds_the_policy_is_undecided():
    model = cascade(3, PolicyOptions(floors=[0.2, 0.4], combine="average"))
    assert model.cascade.policy == Policy(stages=3, floors=(0.2, 0.4), combine="average")


def test_very_sure_stages_can_be_averaged_for_real():
    class Sure(Net):
        def forward(self, x):
            return super().forward(x) * 1e4

    options = PolicyOptions(thresholds=[math.inf], combine="average")
    done = trainer().execute(cascade(policy=options, net=Sure), points())
    assert done.stage.tolist() == [1] * 21


def test_string_ids_bring_rows_into_their_order():
    records = trainer().record(cascade(), points(dataset=Named))
    assert list(records[0].ids) == sorted(Named().ids)
    position = Named().ids.index(records[0].ids[3])
    assert records[0].labels[3] == Named().y[position]


def test_dicts_of_tensors_are_keyword_arguments():
    plain = trainer().record(cascade(), points())
    dicts = trainer().record(cascade(), points(dataset=Dicts))
    assert torch.equal(plain[1].logits, dicts[1].logits)


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_a_logger_gets_metrics_per_threshold(tmp_path, combine):
    options = PolicyOptions(combine=combine)
    run, model = trainer(logger=CSVLogger(tmp_path)), cascade(policy=options)
    run.callbacks.append(ThresholdMetrics([0.4, 0.6]))
    records = run.record(model, points())
    told, logged = point_of_records(records, Policy((0.6,), combine=combine)), run.callback_metrics
    assert float(logged["accuracy@0.6"]) == pytest.approx(told.accuracy)
    assert float(logged["deferral_rate@0.6"]) == pytest.approx(told.deferral_rate)
    assert float(logged["flops@0.6"]) == pytest.approx(told.cost)


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
        told = point_of_records(records, policy)
        assert float(found["accuracy"][t]) == told.accuracy
        assert float(found["deferral_rate"][t]) == told.deferral_rate
        assert float(found["flops"][t]) == pytest.approx(told.cost, rel=1e-12)


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
        told = point_of_records(records, policy, metric=metric)
        assert float(found[metric][t]) == told.metric
        assert float(found["accuracy"][t]) == told.accuracy
    metrics[0].reset()
    again = metrics[0]([r.logits for r in records], records[0].labels, torch.ones(100, stages))
    assert float(again[metric][0]) == told_at(records, metric, combine, thresholds[0])


def told_at(records, metric, combine, threshold):
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
            told = told_at(records, name, "later", threshold)
            assert float(logged[f"{name}@{threshold}"]) == pytest.approx(told)
        kinds = {key.split("@")[0] for key in logged}
        assert kinds == {"accuracy", "deferral_rate", "flops", *([name] if name else [])}
        assert records[0].data["metric"] == "matthews"


def test_metrics_of_a_module_that_knows_its_classes_have_their_shape():
    model = cascade()
    assert model.metrics_at([0.5], "matthews").labelled.ndim == 0
    model.class_names = ("a", "b", "c")
    assert model.metrics_at([0.5], "matthews").right.shape == (1, 3)
    with pytest.raises(UsageError, match="got 3 classes"):
        model.metrics_at([0.5], "f1")


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("metric", ["f1_macro", "matthews"])
def test_the_metric_of_a_real_run_is_that_of_its_replay(metric, combine):
    records = trainer().record(cascade(3), points(60))
    options = PolicyOptions(thresholds=[0.4, 0.5], combine=combine)
    done = trainer().execute(cascade(3, options), points(60))
    told = point_of_records(records, Policy((0.4, 0.5), combine=combine), metric=metric)
    assert measure(metric, done.prediction, done.samples.labels, 3) == told.metric


def test_calibration_sets_the_temperature_of_the_stages_that_defer():
    model = cascade(3)
    fitted, records = trainer().calibrate(model, points(200), split="validation")
    assert set(fitted) == {"net0", "net1"}
    assert model.cascade.policy.temperatures[:2] == tuple(
        found.temperature for found in fitted.values()
    )
    assert model.cascade.policy.temperatures[2] == 1.0
    assert len(records) == 3


@pytest.mark.parametrize("combine", ["later", "average", "most_confident"])
def test_a_calibrated_cascade_runs_as_its_replay(combine):
    """Live, replayed, and replayed from the options as a config holds them."""
    data = points(200)
    model = cascade(3, PolicyOptions(thresholds=[0.5, 0.4], combine=combine))
    _, records = trainer().calibrate(
        model, data, split="validation", stages=["net0", "net1", "net2"], share=0.5
    )
    policy = model.cascade.policy
    assert 1.0 not in policy.temperatures
    done = trainer().execute(model, data)
    told = replay([record.logits for record in records], policy)
    assert torch.equal(done.prediction, told.prediction)
    assert torch.equal(done.stage, told.stage)
    options = yaml.safe_load(yaml.safe_dump(asdict(model.options)))
    assert cascade(3, PolicyOptions(**options)).cascade.policy == policy
    metrics = model.metrics_at([0.5])
    metrics.update([r.logits for r in records], records[0].labels, torch.ones(200, 3))
    shared = replay([r.logits for r in records], replace(policy, thresholds=(0.5, 0.5)))
    right = float((shared.prediction == records[0].labels).double().mean())
    assert float(metrics.compute()["accuracy"]) == right


def test_calibration_without_a_method_sets_temperatures_back():
    model, data = cascade(), points(200)
    trainer().calibrate(model, data, split="validation")
    assert model.cascade.policy.temperatures[0] != 1
    trainer().calibrate(model, data, split="validation", method="none")
    assert model.cascade.policy.temperatures == (1.0, 1.0)


def test_an_unknown_stage_to_calibrate_is_named():
    with pytest.raises(UsageError, match=r"'net9' is unknown; known are net0, net1"):
        trainer().calibrate(cascade(), points(), split="validation", stages=["net9"])


def test_thresholds_are_needed_to_run():
    with pytest.raises(UsageError, match=r"a threshold for net0"):
        trainer().execute(cascade(), points())


def test_an_unknown_split_names_those_there_are():
    with pytest.raises(UsageError, match=r"'validaton' is unknown.*Did you mean 'validation'"):
        trainer().record(cascade(), points(), split="validaton")


def test_a_split_that_was_not_given_names_those_that_were():
    with pytest.raises(UsageError, match=r"'test' is unknown; known are validation"):
        trainer().record(cascade(), points(), split="test")


def test_an_empty_split_is_refused():
    with pytest.raises(CascadeError, match=r"no samples"):
        trainer().record(cascade(), points(0))


def test_a_stream_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from Points(4)

    with pytest.raises(UsageError, match=r"iterable"):
        trainer().record(cascade(), points(dataset=lambda n: Stream()))


def test_nan_logits_name_the_stage_and_the_row():
    first = int((Points(21).x[:, 0] >= 1).nonzero()[0])
    with pytest.raises(
        CascadeError, match=rf"'net0'.*NaN or infinite logits.*first at row {first}"
    ):
        trainer().record(cascade(net=BadNet), points())


def test_nan_logits_of_an_answer_stop_a_real_run():
    model = cascade(net=BadNet, policy=PolicyOptions(thresholds=[0.9]))
    with pytest.raises(CascadeError, match=r"NaN or infinite logits"):
        trainer().execute(model, points())


def test_stages_with_different_numbers_of_classes_are_refused():
    model = LitCascade({"a": Stage(Net(4)), "b": Stage(Net(8, classes=4))})
    with pytest.raises(CascadeError, match=r"a has 3, b has 4"):
        trainer().record(model, points())


@pytest.mark.parametrize("live", [False, True])
def test_classes_are_aligned_by_name_whatever_their_order(live):
    orders = {"a": ["dog", "cat", "owl"], "b": ["owl", "dog", "cat"]}
    data = Datasets(validation=Points(21), batch_size=4, class_names=["cat", "dog", "owl"])
    plain = LitCascade({name: Stage(Net(4, seed=k)) for k, name in enumerate(orders)})
    model = LitCascade(
        {
            name: Stage(Net(4, seed=k), classes=order)
            for k, (name, order) in enumerate(orders.items())
        },
        policy=PolicyOptions(thresholds=[0.45]),
    )
    if live:
        done = trainer().execute(model, data)
        told = replay(
            [record.logits for record in trainer().record(model, data)],
            Policy(thresholds=(0.45,)),
        )
        assert torch.equal(done.prediction, told.prediction)
        assert 0 < int(done.stage.sum()) < 21
        return
    for record, bare in zip(*(trainer().record(m, data) for m in (model, plain)), strict=True):
        order = orders[record.name]
        for column, name in enumerate(["cat", "dog", "owl"]):
            assert torch.equal(record.logits[:, column], bare.logits[:, order.index(name)])
        assert record.classes == ("cat", "dog", "owl")
        assert "known_classes" in record.model


def test_the_first_of_equal_orders_is_left_as_it_is():
    names = ["cat", "dog", "owl"]
    data = Datasets(validation=Points(21), batch_size=4, class_names=names)
    model = LitCascade({name: Stage(Net(4), classes=names) for name in ("a", "b")})
    assert all("known_classes" not in record.model for record in trainer().record(model, data))


@pytest.mark.parametrize(
    ("mine", "says"),
    [
        (["cat", "dog", "emu"], r"'a' and the data cannot be aligned: .*cat, dog, owl.*lacks 1 of"),
        (["cat", "dog", "owl", "emu"], r"has 4 .cat, dog, owl, ....*has 1 others, first 'emu'"),
        (["cat", "owl", "dog", "owl"], "two or more distinct class names, got 'owl' twice"),
    ],
)
def test_classes_that_cannot_be_aligned_are_refused_before_any_model_runs(mine, says):
    names = ["cat", "dog", "owl"]
    data = Datasets(validation=Points(21), batch_size=4, class_names=names)
    stages = {"a": Stage(BadNet(4), classes=mine), "b": Stage(BadNet(8))}
    with pytest.raises(CascadeError, match=says):
        trainer().record(LitCascade(stages), data)


def test_stages_without_a_class_in_common_are_refused_when_they_are_built():
    stages = {
        "a": Stage(Net(4), classes=["cat", "dog", "owl"]),
        "b": Stage(Net(8), classes=["cat", "dog", "emu"]),
    }
    with pytest.raises(CascadeError, match=r"'b' and stage 'a' cannot be aligned"):
        LitCascade(stages)


def test_labels_outside_the_classes_are_refused():
    class Unlabelled(Points):
        def __getitem__(self, position):
            return self.x[position], torch.tensor(-1)

    with pytest.raises(CascadeError, match=r"label -1 at row 0"):
        trainer().record(cascade(), points(dataset=Unlabelled))


def test_a_batch_without_labels_is_explained():
    class Bare(Points):
        def __getitem__(self, position):
            return self.x[position]

    with pytest.raises(CascadeError, match=r"batches of .inputs, labels."):
        trainer().record(cascade(), points(dataset=Bare))


def test_a_check_can_stop_before_any_model_runs():
    def check(ids, data):
        raise CascadeError(f"{len(ids)} of {data['name']}")

    with pytest.raises(CascadeError, match=r"21 of points"):
        trainer().record(cascade(net=BadNet), points(), check=check)


def test_one_stage_is_no_cascade():
    with pytest.raises(UsageError, match=r"at least 2 stages, got only"):
        LitCascade({"only": Stage(Net())})


def test_a_plain_validation_loop_needs_no_ids():
    run = trainer(logger=False)
    run.callbacks.append(ThresholdMetrics([0.5]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        run.validate(cascade(), datamodule=points(), verbose=False)
    assert 0 <= float(run.callback_metrics["accuracy@0.5"]) <= 1


@pytest.mark.parametrize("n", [1, 7, 21])
@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_processes_share_whole_batches_once_each(n, processes):
    loader = DataLoader(Points(n), batch_size=4, shuffle=True)
    alone = [batch.positions.tolist() for batch in evaluation_loader(loader)]
    shares = [
        [batch.positions.tolist() for batch in evaluation_loader(loader, rank, processes)]
        for rank in range(processes)
    ]
    assert all(shares)  # none skips the loop
    own = [batch for share in shares for batch in share if min(batch) >= 0]
    assert sorted(own) == sorted(alone)
    assert sorted(position for batch in alone for position in batch) == list(range(n))


def test_a_batch_sampler_of_the_user_is_kept():
    loader = DataLoader(Points(6), batch_sampler=[[5, 0], [1, 2, 3], [4]])
    batches = [batch.positions.tolist() for batch in evaluation_loader(loader)]
    assert batches == [[5, 0], [1, 2, 3], [4]]


def test_workers_change_nothing():
    alone = trainer().record(cascade(), points())
    data = Datasets(validation=Points(21), batch_size=4, num_workers=2, name="points")
    shared = trainer().record(cascade(), data)
    assert torch.equal(alone[0].logits, shared[0].logits)


def test_subsets_keep_the_ids_of_the_whole():
    info = describe(Subset(Subset(Points(30, first=100), [5, 6, 7, 9]), [3, 0]))
    assert info.ids.tolist() == [109, 105]
    assert (info.source, info.classes) == ("points", ("cat", "dog", "owl"))


def test_shared_ids_are_found_by_source_and_by_dataset():
    overlapping = Datasets(calibration=Points(30), validation=Points(30, first=25))
    assert shared_ids(overlapping, "calibration", "validation") == [25, 26, 27, 28, 29]
    assert shared_ids(SharedPoints(), "calibration", "validation") == [25, 26, 27, 28, 29]
    apart = Datasets(calibration=Points(20), validation=Points(20, first=20))
    assert shared_ids(apart, "calibration", "validation") == []
    assert shared_ids(apart, "calibration", "test") == []


def test_the_hooks_of_the_data_module_are_applied():
    class Doubling(Datasets):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0] * 2, batch[1]

    records = trainer().record(cascade(), Doubling(validation=Points(5), batch_size=4))
    network = cascade().cascade.stages[0]
    torch.testing.assert_close(records[0].logits, network(Points(5).x * 2).detach())
    assert EvaluationData(points(), "validation").inner is not None


@pytest.mark.parametrize("batched", [False, True])
def test_the_part_that_a_sampler_draws_is_the_part_that_is_read(batched):
    sampler = SubsetRandomSampler(range(5, 15))
    how = {"batch_sampler": BatchSampler(sampler, 4, drop_last=False)}
    loader = DataLoader(Points(21), **how if batched else {"batch_size": 4, "sampler": sampler})

    class Part(Datasets):
        def val_dataloader(self):
            return loader

    records = trainer().record(cascade(), Part(validation=Points(21), name="points"))
    assert records[0].ids.tolist() == list(range(5, 15))
    assert torch.equal(records[0].labels, Points(21).y[5:15])


def test_a_sampler_that_repeats_is_refused():
    loader = DataLoader(Points(21), batch_size=4, sampler=WeightedRandomSampler([1.0] * 21, 90))
    with pytest.raises(UsageError, match="WeightedRandomSampler draws samples more than once"):
        evaluation_loader(loader)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (lambda y: y + 0.5, "labels must be whole numbers"),
        (lambda y: y[None], "labels must be 21 integers, one per sample"),
        (lambda y: torch.tensor([0, 0, 1]), r"labels .0, 0, 1. at row 0 repeat"),
        (lambda y: torch.tensor([-1, -1]), r"labels ..* at row 0 is outside"),
        (lambda y: torch.tensor([5, -1]), r"labels .5. at row 0 is outside"),
        (lambda y: torch.tensor(7), "label 7 at row 0 is outside the 3 classes"),
    ],
)
@pytest.mark.parametrize("live", [False, True])
def test_labels_are_checked_in_every_loop(label, says, live):
    class Odd(Points):
        def __getitem__(self, position):
            return self.x[position], label(self.y[position])

    run, model = trainer(), cascade(policy=PolicyOptions(thresholds=[0.5]))
    with pytest.raises(CascadeError, match=says):
        (run.execute if live else run.record)(model, points(dataset=Odd))


def test_class_names_of_the_user_come_before_those_of_the_dataset():
    data = Datasets(validation=Points(21), class_names=["x", "y", "z"], name="points")
    assert trainer().record(cascade(), data)[0].classes == ("x", "y", "z")


def test_data_without_a_name_goes_by_its_class():
    assert trainer().record(cascade(), SharedPoints())[0].data["name"] == "SharedPoints"


def test_a_limit_of_batches_is_told():
    records = trainer(limit_val_batches=2).record(cascade(), points())
    assert len(records[0]) == 8
    assert records[0].data["limited_to"] == "8 of 21 samples"


def test_a_limit_of_no_batches_is_refused():
    with pytest.raises(CascadeError, match="no samples of the split 'validation' were read"):
        trainer(limit_val_batches=0).record(cascade(), points())


def test_the_transfer_of_the_data_module_is_used():
    class Halving(Datasets):
        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            return batch[0] / 2, batch[1]

    records = trainer().record(cascade(), Halving(validation=Points(5), batch_size=4))
    network = cascade().cascade.stages[0]
    torch.testing.assert_close(records[0].logits, network(Points(5).x / 2).detach())


def test_a_data_module_that_prepares_each_split_in_its_own_stage():
    class Staged(LightningDataModule):
        def setup(self, stage):
            if stage == "fit":
                self.held_back = Points(10)
            if stage == "validate":
                self.judged = Points(10, first=8)

        def calibration_dataloader(self):
            return DataLoader(self.held_back, batch_size=4)

        def val_dataloader(self):
            return DataLoader(self.judged, batch_size=4)

    fitted, _ = trainer().calibrate(cascade(), Staged())
    assert list(fitted) == ["net0"]
    assert shared_ids(Staged(), "calibration", "validation") == [8, 9]


def test_thresholds_with_a_promise_are_set_in_the_model():
    model, data = cascade(), points(calibration=Points(400))
    found = trainer().select(model, data, Promise("deferral_rate", 0.5))
    assert model.cascade.policy.thresholds == found.chosen.thresholds
    done = trainer().execute(model, data, "calibration")
    assert float((done.stage > 0).double().mean()) == found.chosen.deferral_rate
    before = model.cascade.policy
    nothing = trainer().select(model, data, Promise("accuracy_drop", 0.0))
    assert nothing.chosen is None
    assert model.cascade.policy == before
