"""Learning from a teacher's record."""

import pytest
import torch
from torch.utils.data import Subset

from lit_cascade import CascadeError, LitClassifier, UsageError
from lit_cascade.data import Datasets
from lit_cascade.data.splits import describe
from lit_cascade.lit.training.teacher import Teacher, teacher_logits
from tests.lit.training.learners import saved, taught, trainer
from tests.toys import CLASSES, Named, Net, Points

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*"),
]


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
