import math

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import Subset

from lit_cascade import CascadeError, CascadeTrainer, LitClassifier, Record, UsageError
from lit_cascade.data import Datasets, DigitsData
from lit_cascade.data.splits import describe
from lit_cascade.lit.metrics import ClassifierMetric
from lit_cascade.lit.training.fitting import Best, Training
from lit_cascade.lit.training.teacher import Teacher, teacher_logits
from lit_cascade.models import Perceptron
from lit_cascade.models.stage import checkpoint_bytes
from tests.cli.runs import done, modules_together
from tests.lit.learners import Countdown, Reader, Scripted, Texts
from tests.toys import CLASSES, Named, Net, Points

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


def trainer(epochs=2, **options):
    return CascadeTrainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, max_epochs=epochs, **options,
    )  # fmt: skip


def taught(points, **changes):
    """A record of a teacher who says the position of each sample, its ids in another order."""
    ids = points.ids if isinstance(points.ids, list) else list(points.ids)
    said = torch.tensor([[float(i), 0.0, -float(i)] for i in range(len(ids))])
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(3))
    settings = {
        "logits": said[order],
        "labels": points.y[order],
        "ids": [ids[i] for i in order.tolist()],
        "classes": CLASSES,
        "flops": 1.0,
        "data": {"name": "points", "split": "train", "source": "points"},
    }
    return Record.from_arrays("big", **(settings | changes))


def saved(record, folder):
    record.save(folder / "big.safetensors")
    return str(folder / "big.safetensors")


def expected(n):
    return torch.tensor([[float(i), 0.0, -float(i)] for i in range(n)])


@pytest.mark.parametrize("dataset", [Points, Named])
def test_a_teacher_is_found_by_ids_whatever_their_order(tmp_path, dataset):
    points = dataset(21)
    found = teacher_logits(Teacher(saved(taught(points), tmp_path)), describe(points), CLASSES)
    assert torch.equal(found, expected(21))


def test_of_a_larger_record_a_part_is_learned(tmp_path):
    part = Subset(Points(21), [4, 2, 20])
    found = teacher_logits(Teacher(saved(taught(Points(21)), tmp_path)), describe(part), CLASSES)
    assert torch.equal(found, expected(21)[[4, 2, 20]])


def test_the_classes_of_a_teacher_are_aligned_by_name(tmp_path):
    record = taught(Points(21), classes=("owl", "cat", "dog"))
    found = teacher_logits(Teacher(saved(record, tmp_path)), describe(Points(21)), CLASSES)
    assert torch.equal(found, expected(21)[:, [1, 2, 0]])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ids": list(range(3, 24))}, "lacks 3 of the 21 training samples, first 0. Record it"),
        (
            {"ids": list(range(50, 71)), "data": {"source": "other"}},
            "lacks 21 .* first 0; its ids are counted in 'other', those of the data in 'points'",
        ),
        ({"data": {"source": "other"}}, "is of other samples; its ids are counted in 'other'"),
        ({"classes": ("cat", "dog", "cow")}, "cannot be aligned: the data has 3 .* lacks 1"),
        (
            {"logits": None, "score": torch.ones(21), "correct": torch.ones(21)},
            "holds scores and no logits, which learning from a teacher needs",
        ),
    ],
)
def test_a_teacher_of_other_samples_or_classes_is_refused(tmp_path, changes, says):
    teacher = Teacher(saved(taught(Points(21), **changes), tmp_path))
    with pytest.raises(CascadeError, match=says):
        teacher_logits(teacher, describe(Points(21)), CLASSES)


@pytest.mark.parametrize("gatekeeper", [None, 0.5])
def test_the_loss_sees_what_the_teacher_said_of_each_sample(tmp_path, monkeypatch, gatekeeper):
    points, seen = Points(21), []
    network = Net()

    def loss(logits, told, temperature):
        rows = told[:, 0].long()
        torch.testing.assert_close(logits, network(points.x[rows]))
        seen.extend(rows.tolist())
        return 8 * temperature * logits.sum() * 0 + 4.0

    monkeypatch.setattr("lit_cascade.lit.training.classifier.distillation_loss", loss)
    monkeypatch.setattr(
        "lit_cascade.lit.training.classifier.gatekeeper_loss",
        lambda logits, labels, alpha: logits.sum() * 0 + 100 * alpha,
    )
    teacher = Teacher(saved(taught(points), tmp_path), weight=0.25)
    model = LitClassifier(lambda: network, teacher=teacher, gatekeeper=gatekeeper)
    run = trainer(1)
    run.train(model, Datasets(train=points, batch_size=4))
    assert sorted(seen) == list(range(21))
    assert seen != sorted(seen)
    if gatekeeper:
        assert float(run.callback_metrics["train_loss"]) == pytest.approx(0.75 * 50 + 0.25 * 4)


def test_a_student_comes_to_say_what_its_teacher_says(tmp_path):
    points = Points(200)
    big = Net(16, seed=5)
    record = taught(points, logits=2 * big(points.x).detach(), ids=range(200), labels=points.y)
    model = LitClassifier(
        lambda: Net(16), learning_rate=0.05, teacher=Teacher(saved(record, tmp_path), weight=1.0)
    )

    def agreement():
        return float((model(points.x).argmax(1) == big(points.x).argmax(1)).float().mean())

    before = agreement()
    trainer(15).train(model, Datasets(train=points, batch_size=20))
    assert before < 0.75
    assert agreement() > 0.9


def test_a_teacher_with_other_numbers_of_classes_is_refused(tmp_path):
    record = taught(Points(21), data={})
    model = LitClassifier(lambda: Net(classes=4), teacher=Teacher(saved(record, tmp_path)))
    with pytest.raises(CascadeError, match="has 3 classes, and the network of 'stage' has 4"):
        trainer(1).train(model, Datasets(train=Points(21)))


def test_a_teacher_needs_the_trainer_of_cascades(tmp_path):
    model = LitClassifier(Net, teacher=Teacher(saved(taught(Points(21)), tmp_path)))
    with pytest.raises(UsageError, match=r"train with CascadeTrainer\.train"):
        trainer(1, limit_val_batches=0).fit(model, datamodule=Datasets(train=Points(21)))


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25, 1.0])
def test_the_linear_schedule_is_that_of_transformers(warmup):
    from transformers import get_linear_schedule_with_warmup

    class Rates(Callback):
        seen = ()

        def on_train_batch_start(self, trainer, *_):
            self.seen = (*self.seen, trainer.optimizers[0].param_groups[0]["lr"])

    rates = Rates()
    model = LitClassifier(Net, learning_rate=0.5, schedule="linear", warmup=warmup)
    trainer(3, callbacks=[rates]).train(model, Datasets(train=Points(21), batch_size=4))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    told = get_linear_schedule_with_warmup(optimizer, math.ceil(18 * warmup), 18)
    expected = []
    for _ in range(18):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        told.step()
    assert rates.seen == pytest.approx(expected)
    if warmup == 0.25:
        assert rates.seen[0] == 0
        assert max(rates.seen) == rates.seen[5] == 0.5
        assert rates.seen[-1] == pytest.approx(0.5 / 13)


def test_training_stops_and_the_best_weights_are_kept():
    model = LitClassifier(Scripted, learning_rate=1.0)
    data = Datasets(train=Countdown(), calibration=Countdown(), batch_size=10)
    run = trainer(5)
    found = run.train(model, data, patience=2, stop_on="calibration")
    assert found == Training(4, Best("calibration", "accuracy", 2, pytest.approx(0.9)))
    assert int(model.network.steps) == 2
    assert run.evaluate(model, data, "calibration").accuracy == 0.9
    assert not any("Stopping" in type(one).__name__ for one in run.callbacks)


def test_without_patience_the_last_weights_are_kept():
    model = LitClassifier(Scripted)
    data = Datasets(train=Countdown(), validation=Countdown(), batch_size=10)
    run = trainer(5)
    assert run.train(model, data) == Training(5)
    assert int(model.network.steps) == 5
    assert float(run.callback_metrics["val_accuracy"]) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("patience", "stop_on", "says"),
    [
        (2, "development", "'development' is unknown; known are calibration, train. Give one"),
        (0, "calibration", "patience: expected 1 or more"),
        (2, "train", "held back, such as development"),
    ],
)
def test_patience_that_cannot_be_is_explained(patience, stop_on, says):
    data = Datasets(train=Points(21), calibration=Points(9, first=30))
    with pytest.raises(UsageError, match=says):
        trainer().train(LitClassifier(Net), data, patience=patience, stop_on=stop_on)


def test_a_network_with_preprocessing_learns_and_is_judged_by_the_official_metric():
    model = LitClassifier(Reader, learning_rate=0.05, schedule="linear")
    data = Datasets(train=Texts(30), calibration=Texts(12), batch_size=7, num_workers=0)
    run = trainer(20)
    found = run.train(model, data, patience=3, stop_on="calibration")
    judged = run.evaluate(model, data, "calibration")
    assert found.best.metric == "matthews"
    assert found.best.score == pytest.approx(judged.metrics["matthews"])
    assert judged.accuracy == found.best.score == 1.0
    assert len({width for _, width in model.network.shapes}) > 1


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (lambda y: 0 * y - 1, "a training batch: label -1 .* outside the 3 classes"),
        (lambda y: 0 * y + 3, "a training batch: label 3 .* outside the 3 classes"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_labels_that_cannot_be_trained_on(label, says, first):
    class Odd(Points):
        def __getitem__(self, position):
            odd = first or position == 0
            x, y = self.x[position], self.y[position]
            return x, label(y) if odd else y

    with pytest.raises(CascadeError, match=says):
        trainer(3).train(LitClassifier(Net), Datasets(train=Odd(40), batch_size=4))


def test_several_labels_per_sample_cannot_be_trained_on():
    class Several(Points):
        def __getitem__(self, position):
            return self.x[position], torch.stack([self.y[position], torch.tensor(-1)])

    with pytest.raises(CascadeError, match=r"needs one label per sample, got .* shape \(4, 2\)"):
        trainer(1).train(LitClassifier(Net), Datasets(train=Several(8), batch_size=4))


def test_classes_in_another_order_than_the_networks_are_refused(tmp_path):
    (tmp_path / "n.safetensors").write_bytes(checkpoint_bytes(Net(), "n", ("dog", "cat", "owl")))
    model = LitClassifier(Net, checkpoint=str(tmp_path / "n.safetensors"))
    with pytest.raises(CascadeError, match="at label 0 it has 'dog' and the data 'cat'"):
        trainer().train(model, Datasets(train=Points(21)))


def test_training_starts_from_the_weights_of_a_checkpoint(tmp_path):
    (tmp_path / "n.safetensors").write_bytes(checkpoint_bytes(Net(seed=9), "n", CLASSES))
    model = LitClassifier(Net, checkpoint=str(tmp_path / "n.safetensors"))
    assert torch.equal(model(Points(5).x), Net(seed=9)(Points(5).x))
    with pytest.raises(UsageError, match=r"model\.checkpoint: .*nothing"):
        LitClassifier(Net, checkpoint="nothing.safetensors")


def test_networks_are_trained_in_full_precision_and_in_training_mode():
    model = LitClassifier(lambda: Net().half().eval())
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    assert model.network.training


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"warmup": 1.5}, "model.warmup: expected 0 to 1, got 1.5"),
        ({"gatekeeper": -0.1}, "model.gatekeeper: expected 0 to 1"),
        ({"gatekeeper": 0.5, "label_smoothing": 0.1}, "belongs to cross entropy"),
        ({"schedule": "cosine"}, "known are one_cycle, linear"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, says):
    with pytest.raises(UsageError, match=says):
        LitClassifier(Net, **options)
    with pytest.raises(UsageError, match=r"teacher\.weight"):
        Teacher("x", weight=2)
    with pytest.raises(UsageError, match=r"teacher\.temperature"):
        Teacher("x", temperature=0)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "f1_macro", "matthews"])
def test_scores_add_up_over_batches(metric):
    import torchmetrics.functional.classification as oracle

    generator = torch.Generator().manual_seed(0)
    answers, labels = torch.randint(0, 2, (2, 50), generator=generator)
    score = ClassifierMetric(metric, 2)
    for part in range(0, 50, 8):
        score.update(answers[part : part + 8], labels[part : part + 8])
    told = {
        "accuracy": oracle.binary_accuracy(answers, labels),
        "f1": oracle.binary_f1_score(answers, labels),
        "f1_macro": oracle.multiclass_f1_score(answers, labels, 2, average="macro"),
        "matthews": oracle.binary_matthews_corrcoef(answers, labels),
    }[metric]
    assert float(score.compute()) == pytest.approx(float(told), abs=1e-6)


def test_the_gatekeeper_makes_digits_unsure_where_they_are_read_wrong():
    torch.manual_seed(0)
    network = Perceptron(64, [3], scale=16)  # so small that many are read wrong
    data = DigitsData(augment=False)
    trainer(12).train(LitClassifier(lambda: network, learning_rate=0.03), data)
    images, labels = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))

    def looked():
        found = network.eval()(images).softmax(dim=1).max(dim=1)
        sure, right = found.values.detach(), found.indices == labels
        told_apart = (sure[right][:, None] > sure[~right]).float().mean()
        return [float(x) for x in (right.float().mean(), sure[right].mean(), sure[~right].mean(),
                                   told_apart)]  # fmt: skip

    accuracy, sure_right, sure_wrong, told_apart = looked()
    torch.manual_seed(1)
    tuned = LitClassifier(lambda: network, learning_rate=0.01, gatekeeper=0.3)
    trainer(8).train(tuned, data)
    after = looked()
    assert after[0] > accuracy - 0.06
    assert after[1] > sure_right
    assert after[2] < sure_wrong - 0.03
    assert after[3] > told_apart + 0.03


def test_two_processes_train_on_all_samples_and_keep_the_best_weights(tmp_path):
    saved(taught(Points(21)), tmp_path)
    done(modules_together(2, ["tests.lit.together", tmp_path], cwd=tmp_path, OMP_NUM_THREADS=1))
    told = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    points = set(Points(21).x[:, 0].tolist())
    assert set(told[0]["seen"]) | set(told[1]["seen"]) == points
    assert all(len(one["seen"]) == 11 * told[0]["epochs"] for one in told)  # each has its half
    assert all(math.isfinite(one["loss"]) for one in told)
    for mine, theirs in zip(told[0]["weights"], told[1]["weights"], strict=True):
        assert torch.equal(mine, theirs)
    assert told[0]["best"] == told[1]["best"] == pytest.approx(told[0]["judged"])
    assert {n for one in told for n, _ in one["shapes"]} == {5}
