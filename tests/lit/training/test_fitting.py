"""Training of one classifier."""

import math

import pytest
import torch
from lightning.pytorch import Callback

from lit_cascade import CascadeError, LitClassifier, UsageError
from lit_cascade.data import Datasets, DigitsData
from lit_cascade.lit.training.fitting import Best, Training
from lit_cascade.lit.training.teacher import Teacher
from lit_cascade.models import Perceptron
from lit_cascade.models.stage import checkpoint_pieces
from tests.cli.runs import done, modules_together
from tests.lit.training.learners import Countdown, Reader, Scripted, Texts, saved, taught, trainer
from tests.toys import CLASSES, Net, Points

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


def expected(n):
    return torch.tensor([[float(i), 0.0, -float(i)] for i in range(n)])


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
    (tmp_path / "n.safetensors").write_bytes(
        b"".join(checkpoint_pieces(Net(), "n", ("dog", "cat", "owl")))
    )
    model = LitClassifier(Net, checkpoint=str(tmp_path / "n.safetensors"))
    with pytest.raises(CascadeError, match="at label 0 it has 'dog' and the data 'cat'"):
        trainer().train(model, Datasets(train=Points(21)))


def test_training_starts_from_the_weights_of_a_checkpoint(tmp_path):
    (tmp_path / "n.safetensors").write_bytes(b"".join(checkpoint_pieces(Net(seed=9), "n", CLASSES)))
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
    done(
        modules_together(
            2, ["tests.lit.training.together", tmp_path], cwd=tmp_path, OMP_NUM_THREADS=1
        )
    )
    told = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    points = set(Points(21).x[:, 0].tolist())
    assert set(told[0]["seen"]) | set(told[1]["seen"]) == points
    assert all(len(one["seen"]) == 11 * told[0]["epochs"] for one in told)  # each has its half
    assert all(math.isfinite(one["loss"]) for one in told)
    for mine, theirs in zip(told[0]["weights"], told[1]["weights"], strict=True):
        assert torch.equal(mine, theirs)
    assert told[0]["best"] == told[1]["best"] == pytest.approx(told[0]["judged"])
    assert {n for one in told for n, _ in one["shapes"]} == {5}
