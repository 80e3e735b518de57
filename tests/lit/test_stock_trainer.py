"""A cascade under the Trainer of Lightning itself, with plain modules and data loaders."""

import copy
import csv
import json
import pickle
import re
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_cascade import (
    Cascade,
    CascadeError,
    LitCascade,
    LitClassifier,
    Policy,
    PolicyOptions,
    Stage,
    ThresholdMetrics,
    UsageError,
)
from lit_cascade.core import DeferralHead, LogOdds
from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.contract import replay
from tests.cli.runs import done, modules_together
from tests.forks import ROOT
from tests.lit.cascades import trainer as cascade_trainer
from tests.lit.stock_work import figures, trainer
from tests.points import point_of_records
from tests.toys import Dicts, Net, Points

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
    pytest.mark.filterwarnings("ignore:.*shuffling enabled.*"),
]


def loader(n=21, dataset=Points):
    return DataLoader(dataset(n), batch_size=4)


class Data(LightningDataModule):
    def val_dataloader(self):
        return loader()

    test_dataloader = predict_dataloader = val_dataloader


def recorded(stages):
    """The records of the same stages by the commands' own Trainer."""
    from lit_cascade.data import Datasets

    return cascade_trainer().record(LitCascade(stages), Datasets(validation=Points(21)))


def nets(count=2):
    return {name: Net(4**k + 3, k) for k, name in enumerate("abc"[:count])}


def test_the_recipe_of_the_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setup, recipe, *others = re.findall(
        r"```python\n(.*?)```", (Path(ROOT) / "docs/lightning.md").read_text(), flags=re.DOTALL
    )
    assert len([line for line in recipe.splitlines() if line]) <= 10
    names = {}
    for program in (setup, recipe, *others):
        exec(program, names)  # noqa: S102
    (logged,) = tmp_path.glob("logs/**/metrics.csv")
    with logged.open() as file:
        columns = set(next(csv.reader(file)))
    assert {"val_accuracy", "val_accuracy/stage1", "val_flops@0.7", "test_flops_ratio"} <= columns
    assert sum(len(batch["stage"]) for batch in names["predictions"]) == 100
    assert names["model"].policy == Policy(0.7)


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("count", [2, 3])
def test_validate_logs_the_replay_and_test_what_ran(count, combine):
    records, temperatures = recorded(nets(count)), (0.7, 1.5, 2.0)[:count]
    scores = Policy(temperatures=temperatures)
    middle = [
        float(scores.judge(k, record.logits).score.median()) + 1e-4
        for k, record in enumerate(records[:-1])
    ]
    policy = Policy(middle, combine=combine, temperatures=temperatures)
    model, run = LitCascade(nets(count), policy), trainer(1)
    (validated,) = run.validate(model, datamodule=Data(), verbose=False)
    (tested,) = run.test(model, datamodule=Data(), verbose=False)
    expected = point_of_records(records, policy)
    assert 0 < expected.deferral_rate < 1
    for loop, logged in (("val", validated), ("test", tested)):
        assert logged[f"{loop}_accuracy"] == pytest.approx(expected.accuracy, rel=1e-6)
        assert logged[f"{loop}_deferral_rate"] == pytest.approx(expected.deferral_rate, rel=1e-6)
        assert logged[f"{loop}_flops"] == pytest.approx(expected.cost, rel=1e-6)
        assert logged[f"{loop}_flops_ratio"] == pytest.approx(expected.cost_ratio, rel=1e-6)
    for record in records:
        right = (record.logits.argmax(dim=1) == record.labels).float().mean()
        assert validated[f"val_accuracy/{record.name}"] == pytest.approx(float(right))
    answers = replay([record.logits for record in records], policy)
    predicted = run.predict(model, datamodule=Data())
    for key in ("prediction", "stage"):
        found = torch.cat([batch[key] for batch in predicted])
        assert torch.equal(found, getattr(answers, key))
    probability = torch.cat([batch["probability"] for batch in predicted])
    assert ((probability > 1 / 3) & (probability <= 1)).all()


def test_without_thresholds_the_stages_are_judged_alone():
    (logged,) = trainer(1).validate(LitCascade(nets()), loader(), verbose=False)
    assert set(logged) == {"val_accuracy/a", "val_accuracy/b"}
    for loop in ("test", "predict"):
        with pytest.raises(UsageError, match="needs a threshold for a; "):
            getattr(trainer(1), loop)(LitCascade(nets()), loader())


def test_each_of_several_loaders_has_its_own_figures():
    run, model = trainer(1, ThresholdMetrics([0.6])), LitCascade(nets(), 0.45)
    alone = [run.validate(model, loader(n), verbose=False)[0] for n in (21, 9)]
    tests = [run.test(model, loader(n), verbose=False)[0] for n in (21, 9)]
    together = run.validate(model, [loader(21), loader(9)], verbose=False)
    tested = run.test(model, {"x": loader(21), "y": loader(9)}, verbose=False)
    assert alone[0] != alone[1]
    for number in range(2):
        for found, expected in ((together[0], alone), (tested[0], tests)):
            for name, value in expected[number].items():
                assert found[f"{name}/dataloader_idx_{number}"] == value
    assert len(run.predict(model, [loader(21), loader(9)])[1]) == 3


@pytest.mark.parametrize("options", [{"limit_val_batches": 2}, {"fast_dev_run": True}])
def test_limits_of_batches_hold(options):
    seen = 4 * options.get("limit_val_batches", 1)
    (logged,) = trainer(1, **options).validate(LitCascade(nets(), 0.45), loader(), verbose=False)
    (expected,) = trainer(1).validate(LitCascade(nets(), 0.45), loader(seen), verbose=False)
    assert logged == expected


def test_a_trainer_that_recorded_a_split_takes_a_loader_too():
    from lit_cascade.data import Datasets

    run, model = cascade_trainer(), LitCascade(nets(), 0.45)
    run.execute(model, Datasets(validation=Points(9), batch_size=4))
    assert "val_accuracy" not in run.callback_metrics
    assert "test_accuracy" not in run.callback_metrics
    (tested,) = run.test(model, loader(), verbose=False)
    assert tested == trainer(1).test(LitCascade(nets(), 0.45), loader(), verbose=False)[0]


def test_predict_takes_batches_with_labels_and_without():
    x = Points(21).x
    model, run = LitCascade(nets(), 0.45), trainer(1)
    loaders = [
        loader(), loader(dataset=Dicts), DataLoader(TensorDataset(x), batch_size=4),
        DataLoader(x, batch_size=4),
        DataLoader([{"x": row} for row in x], batch_size=4),
        DataLoader([(row, "no label") for row in x], batch_size=4),
    ]  # fmt: skip
    first, *others = (run.predict(model, one) for one in loaders)
    for other in others:
        for one, same in zip(first, other, strict=True):
            assert set(one) == {"prediction", "stage", "score", "probability"}
            assert all(torch.equal(one[key], same[key]) for key in one)
    with pytest.raises(
        CascadeError, match=r"\(inputs, labels\) or dicts, got a list of 3; several"
    ):
        run.predict(model, DataLoader(TensorDataset(x, x, x), batch_size=4))


@pytest.mark.parametrize("loop", ["validate", "test"])
def test_data_that_cannot_be_judged_are_refused(loop):
    run = getattr(trainer(1), loop)
    wrong = DataLoader(TensorDataset(torch.randn(4, 2), torch.tensor([0, 1, 2, 3])))
    with pytest.raises(CascadeError, match="label 3 at row 0 is outside the 3 classes"):
        run(LitCascade(nets(), 0.45), wrong)
    with pytest.raises(CascadeError, match="the data must give batches of"):
        run(LitCascade(nets(), 0.45), DataLoader(torch.randn(4, 2)))
    lost = DataLoader(TensorDataset(torch.full((4, 2), torch.nan), torch.zeros(4).long()))
    with pytest.raises(CascadeError, match="NaN or infinite logits"):
        run(LitCascade(nets(), 0.45), lost)
    with pytest.raises(CascadeError, match=r"a has 3, b has 4|'b' has 4 classes"):
        run(LitCascade({"a": Net(), "b": Net(classes=4)}, 1.0), loader())


def test_several_processes_log_what_one_logs(tmp_path):
    """For a number of samples that two does not divide, and fewer than processes."""
    done(modules_together(2, ["tests.lit.stock_work", 2, tmp_path, 21, 1], cwd=tmp_path))
    for size in (21, 1):
        expected = figures(1, size)
        both = [json.loads((tmp_path / f"{size}-{rank}.json").read_text()) for rank in (0, 1)]
        for found in both:
            for run in ("validated", "tested", "classified"):
                assert found[run] == expected[run]
            for run, like in (("again", "validated"), ("reverse", "tested")):
                assert found[run] == pytest.approx(expected[like], rel=1e-6)
        if size == 1:
            continue
        shares = [list(chain.from_iterable(one["predicted"])) for one in both]
        whole = list(chain.from_iterable(expected["predicted"]))
        assert shares == [whole[0::2], whole[1::2]]


HEADS = (DeferralHead(LogOdds(0.25, (0.5, -1.0, 0.125, 0.1, -0.3))),)
POLICIES = [
    Policy(0.9, names=("small", "large"), evidence={"calibration": {"n": 7}}),
    Policy((0.1 + 0.2,), "margin", (0.3, 1 / 3), "average", (0.1,)),
    Policy(-0.25, "learned", heads=HEADS),
    Policy(float("-inf"), combine="most_confident"),
    Policy(stages=2, temperatures=(1.5, 2.5)),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_checkpoint_holds_weights_and_policy(policy, tmp_path):
    model, run = LitCascade([Net(3, 1), Net(8, 2)], policy), trainer(1)
    (before,) = run.validate(model, loader(), verbose=False)
    run.save_checkpoint(tmp_path / "cascade.ckpt")
    read = LitCascade.load_from_checkpoint(
        tmp_path / "cascade.ckpt", stages=[Net(3), Net(8)], weights_only=True
    )
    assert read.policy == policy
    assert read.names == model.names == (policy.names or ("stage0", "stage1"))
    assert read.policy.evidence == policy.evidence
    assert trainer(1).validate(read, loader(), verbose=False)[0] == before
    renamed = LitCascade.load_from_checkpoint(
        tmp_path / "cascade.ckpt", stages={"s": Net(3), "l": Net(8)}, weights_only=True
    )
    assert (renamed.names, renamed.policy) == (("s", "l"), policy)
    other = LitCascade.load_from_checkpoint(
        tmp_path / "cascade.ckpt", stages=[Net(3), Net(8)], policy=0.123, weights_only=True
    )
    assert other.policy == Policy(0.123)


def test_a_state_dict_holds_the_policy_as_it_is_now(tmp_path):
    model = LitCascade({"small": Net(3, 1), "large": Net(8, 2)}, 0.5)
    model.policy = replace(model.policy, thresholds=(0.75,), temperatures=(1.75, 1.0))
    save_file(model.state_dict(), tmp_path / "cascade.safetensors")
    for other in (LitCascade([Net(3), Net(8)]), Cascade([Net(3), Net(8)], [0.1])):
        prefix = "" if isinstance(other, LitCascade) else "cascade."
        state = load_file(tmp_path / "cascade.safetensors")
        if prefix:
            state = Cascade([Net(3, 1), Net(8, 2)], model.policy).state_dict()
        other.load_state_dict(state)
        policy = other.policy
        assert policy == Policy(0.75, temperatures=(1.75, 1.0))
        assert policy.names == other.names == ("stage0", "stage1")
    with pytest.raises(UsageError, match=r"a, b, c need 2 thresholds, got 1"):
        LitCascade(nets(3), [0.5, 0.5]).load_state_dict(model.state_dict(), strict=False)


def test_plain_settings_are_hyperparameters(tmp_path):
    policy = Policy(0.5, temperatures=(2.0, 1.0), names=("a", "b"), evidence={"n": 3})
    model = LitCascade(nets(), policy, channels_last=True)
    assert model.hparams == {
        "policy": {
            "score": "max_softmax", "combine": "later", "thresholds": {"a": 0.5},
            "temperatures": {"a": 2.0, "b": 1.0},
        },
        "channels_last": True, "compiled": False,
    }  # fmt: skip
    run = trainer(1)
    run.logger = CSVLogger(tmp_path)
    run.validate(model, loader(), verbose=False)
    (written,) = tmp_path.glob("**/hparams.yaml")
    assert "thresholds:\n    a: 0.5" in written.read_text()


def test_a_cascade_can_be_copied_and_pickled():
    model = LitCascade(nets(), Policy(0.45, temperatures=(2.0, 1.0)))
    run = trainer(1)
    (expected,) = run.test(model, loader(), verbose=False)
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert run.test(same, loader(), verbose=False)[0] == expected
        same.policy = 0.0
        assert model.policy.thresholds == (0.45,)


@pytest.mark.parametrize(
    ("stages", "policy", "message"),
    [
        ([Net(), Net], 0.5, r"'stage1' must be an nn.Module or a Stage, got the class Net; make"),
        ("ab", 0.5, "stages: expected the modules as a list, cheapest first, .* got a str"),
        (["small", Net()], 0.5, "'stage0' must be an nn.Module or a Stage, got a str"),
        (Net(), 0.5, "stages: expected the modules as a list"),
        ({"only": Net()}, 0.5, r"a cascade needs at least 2, got 1 \(only\)"),
        ([], 0.5, "a cascade needs at least 2, got 0"),
        ({"a/b": Net(), "c": Net()}, 0.5, "'a/b' cannot name a file"),
        (nets(), [0.5, 0.5], "a cascade of 2 stages needs 1, got 2"),
        (nets(3), Policy(0.5), "need 2 thresholds, got 1"),
        (nets(), "0.5", "thresholds: expected a number"),
        (nets(), {"treshold": 0.5}, r"policy: 'treshold' is unknown.* Did you mean 'thresholds'"),
        (nets(), Net(), "thresholds: expected a number"),
        (nets(), 1.5, "outside the range of the score"),
    ],
)
def test_wrong_arguments_end_in_an_error_of_ours(stages, policy, message):
    with pytest.raises(UsageError, match=message) as error:
        LitCascade(stages, policy)
    assert "\n" not in str(error.value)


def test_stages_and_modules_mix_and_the_policy_names_a_list():
    policy = PolicyOptions(thresholds={"s": 0.5}, temperatures={"s": 1.0, "l": 2.0})
    model = LitCascade([Net(3, 1), Stage(lambda: Net(8, 2))], policy)
    assert model.names == ("s", "l")
    assert model.policy == Policy(0.5, temperatures=(1.0, 2.0))
    assert not any(module.training for module in model.networks().values())


def test_a_checkpoint_without_stages_is_explained(tmp_path):
    with pytest.raises(UsageError, match=r"load_from_checkpoint\(path, stages=\[small, large\]\)"):
        LitCascade.load_from_checkpoint(tmp_path / "cascade.ckpt")


def test_a_cascade_is_not_fitted():
    with pytest.raises(UsageError, match=r"LitClassifier.* or `lit-cascade fit`"):
        trainer(1, max_epochs=1).fit(LitCascade(nets(), 0.5), loader(), loader())


@pytest.mark.parametrize(
    ("precision", "settings"),
    [("bf16-true", {}), ("bf16-mixed", {"channels_last": True})],
)
def test_precision_and_layout_apply(precision, settings):
    run = trainer(1, precision=precision)
    model = LitCascade(nets(), 0.45, **settings)
    (validated,) = run.validate(model, loader(), verbose=False)
    (tested,) = run.test(model, loader(), verbose=False)
    for name, value in tested.items():
        assert validated[name.replace("test", "val")] == pytest.approx(value, rel=1e-6)


def test_a_short_training_reaches_any_logger(tmp_path):
    log = CSVLogger(tmp_path, name="", version="")
    run = Trainer(
        accelerator="cpu", max_epochs=2, logger=log, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    network = nn.Linear(2, 3)
    model = LitClassifier(network)
    run.fit(model, loader(), loader())
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train_loss_epoch"]) for row in rows if row["train_loss_epoch"]]
    scores = [float(row["val_accuracy"]) for row in rows if row["val_accuracy"]]
    assert len(losses) == len(scores) == 2
    right = (network(Points(21).x).argmax(dim=1) == Points(21).y).float().mean()
    assert scores[-1] == pytest.approx(float(right))
    (tested,) = run.test(model, loader(), verbose=False)
    assert tested == {"test_accuracy": pytest.approx(float(right))}
    (first, *_) = run.predict(model, loader())
    assert set(first) == {"prediction", "probability"}
    with pytest.raises(UsageError, match=r"network: expected an nn.Module, or a function"):
        LitClassifier("resnet18")


class Scaled:
    """Preprocessing of a number: a tensor of several."""

    def __init__(self, factor):
        self.factor, self.key = factor, f"scaled-{factor}"

    def __call__(self, sample):
        assert isinstance(sample, float)
        return self.factor * torch.tensor([sample, 1 - sample])


def scaling(width, seed, factor):
    net = Net(width, seed)
    net.preprocessing = Scaled(factor)
    return net


def test_raw_samples_are_preprocessed_where_they_are_loaded():
    """For data modules of this package, and for a loader with the collate function."""
    from lit_cascade.data import Datasets

    raw = [(i / 21, i % 3) for i in range(21)]
    model = LitCascade([scaling(3, 1, 2.0), scaling(8, 2, -1.0)], 0.5)
    x = torch.tensor([number for number, _ in raw])
    x = torch.stack([x, 1 - x], dim=1)
    small, large = (stage.network.layers for stage in model.networks().values())
    answers = replay([small(2.0 * x), large(-1.0 * x)], model.policy)
    assert 0 < int(answers.stage.sum()) < 21
    labels = torch.arange(21) % 3
    expected = float((answers.prediction == labels).float().mean())
    data = Datasets(validation=lambda: raw, test=lambda: raw, batch_size=4)
    mine = DataLoader(raw, batch_size=4, collate_fn=model.collate, num_workers=1)
    for loop, name in (("validate", "val_accuracy"), ("test", "test_accuracy")):
        for source in ({"datamodule": data}, {"dataloaders": mine}):
            (logged,) = getattr(trainer(1), loop)(model, **source, verbose=False)
            assert logged[name] == pytest.approx(expected)
    bare = DataLoader([number for number, _ in raw], batch_size=4, collate_fn=model.collate)
    for source in (bare, mine):
        predicted = trainer(1).predict(model, source)
        assert torch.equal(torch.cat([batch["stage"] for batch in predicted]), answers.stage)
    done = cascade_trainer().execute(model, data)  # which preprocesses by itself
    assert torch.equal(done.stage, answers.stage)
    assert LitCascade(nets()).collate is None


def test_a_sample_that_cannot_be_read_ends_a_plain_run():
    from lit_cascade.data import RawSample

    model = LitCascade([scaling(3, 1, 2.0), scaling(8, 2, -1.0)], 0.4)
    broken = [RawSample(0.0, 0, left_out="cat.png: truncated")]
    with pytest.raises(CascadeError, match=r"data: cat.png: truncated. A plain data loader"):
        trainer(1).test(model, DataLoader(broken, collate_fn=model.collate))


def test_metrics_at_thresholds_need_a_cascade():
    with pytest.raises(UsageError, match="needs a LitCascade, got a LitClassifier"):
        trainer(1, ThresholdMetrics(0.5)).validate(LitClassifier(Net()), loader())
    (logged,) = trainer(1, ThresholdMetrics(0.5)).validate(LitCascade(nets()), loader())
    assert "val_accuracy@0.5" in logged


@pytest.mark.parametrize("loop", ["validate", "test"])
def test_stages_answer_among_the_classes_that_the_data_name(loop):
    orders = (["cat", "dog", "owl"], ["owl", "cat", "dog"])  # the first is that of the data
    nets = [Net(3, 1), Net(8, 2)]
    stages = [Stage(net, classes=order) for net, order in zip(nets, orders, strict=True)]
    (logged,) = getattr(trainer(1), loop)(LitCascade(stages, 0.45), loader(), verbose=False)
    x, labels = Points(21).x, Points(21).y
    logits = [nets[0](x), nets[1](x)[:, [1, 2, 0]]]
    right = (replay(logits, Policy(0.45)).prediction == labels).float().mean()
    assert logged[f"{loop.replace('validate', 'val')}_accuracy"] == pytest.approx(float(right))
    predicted = trainer(1).predict(LitCascade(stages, float("inf")), loader())
    assert torch.equal(
        torch.cat([batch["prediction"] for batch in predicted]), logits[1].argmax(dim=1)
    )
    other = LitCascade([Stage(Net(), classes=["emu", "dog", "owl"]), Net()], 0.45)
    with pytest.raises(CascadeError, match="'stage0' and the data cannot be aligned"):
        getattr(trainer(1), loop)(other, loader())


def test_a_network_with_preprocessing_is_not_trained_on_raw_images(tmp_path):
    from lit_cascade.data import ImageData

    model, data = LitClassifier(scaling(3, 1, 2.0)), ImageData(str(tmp_path))
    data.prepare_data, data.setup = (lambda: None), (lambda stage: None)
    with pytest.raises(UsageError, match=r"of ImageData are raw, .* CascadeTrainer.train\(model"):
        trainer(1, max_epochs=1).fit(model, datamodule=data)
