import math

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from lit_cascade.lit.training.losses import distillation_loss, gatekeeper_loss

LOG3 = math.log(3)


def draw(n=20, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, classes, generator=generator, dtype=torch.float64)


def test_distillation_by_hand():
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * LOG3, 0.0]])
    # at T = 2 the teacher says 3/4 and 1/4, the student 1/2 each
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(distillation_loss(student, teacher, 2.0)) == pytest.approx(4 * divergence)
    # at T = 1 the teacher says 9/10 and 1/10
    divergence = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert float(distillation_loss(student, teacher, 1.0)) == pytest.approx(divergence)
    # the other way round is another number
    other = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert float(distillation_loss(teacher, student, 1.0)) == pytest.approx(other)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_is_what_torch_says(temperature):
    student, teacher = draw(seed=1), draw(seed=2)
    told = kl_div(
        log_softmax(student / temperature, dim=1),
        softmax(teacher / temperature, dim=1),
        reduction="batchmean",
    )
    found = distillation_loss(student, teacher, temperature)
    assert float(found) == pytest.approx(float(temperature**2 * told))


def test_nothing_is_to_be_learned_from_a_teacher_who_says_the_same():
    assert float(distillation_loss(draw(), draw() + 7.0, 3.0)) == pytest.approx(0, abs=1e-12)


def test_gatekeeper_by_hand():
    logits = torch.tensor([[LOG3, 0.0], [LOG3, 0.0], [LOG3, 0.0], [0.0, LOG3]])
    labels = torch.tensor([0, 1, 1, 1])  # right, wrong, wrong, right
    surprise = -math.log(0.75)
    sureness = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    for alpha in (0.0, 0.2, 1.0):
        told = (alpha * 2 * surprise + (1 - alpha) * 2 * sureness) / 4
        assert float(gatekeeper_loss(logits, labels, alpha)) == pytest.approx(told)


def test_of_right_answers_the_gatekeeper_wants_cross_entropy_alone():
    logits = draw()
    labels = logits.argmax(dim=1)
    found = gatekeeper_loss(logits, labels, 0.3)
    assert float(found) == pytest.approx(0.3 * float(cross_entropy(logits, labels)))


def test_of_wrong_answers_the_gatekeeper_wants_all_classes_alike():
    logits = draw()
    labels = logits.argmin(dim=1)
    uniform = torch.full_like(logits, 1 / 5)
    told = kl_div(uniform.log(), softmax(logits, dim=1), reduction="batchmean")
    assert float(gatekeeper_loss(logits, labels, 0.3)) == pytest.approx(0.7 * float(told))
    flat = torch.zeros(4, 5)  # the first class answers
    assert float(gatekeeper_loss(flat, torch.full((4,), 3), 0.0)) == pytest.approx(0, abs=1e-6)


def test_gradients_are_those_of_small_steps():
    student = draw(4, 3).requires_grad_()
    teacher, labels = draw(4, 3, seed=5).requires_grad_(), torch.tensor([0, 1, 2, 0])
    right = student.argmax(dim=1) == labels
    assert 0 < int(right.sum()) < 4
    assert torch.autograd.gradcheck(lambda x: gatekeeper_loss(x, labels, 0.4), student)
    assert torch.autograd.gradcheck(lambda x: distillation_loss(x, teacher.detach(), 2.0), student)
    distillation_loss(student, teacher, 2.0).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_left_before_anything_is_summed(dtype):
    logits, labels = draw().to(dtype), torch.zeros(20, dtype=torch.int64)
    for loss, again in (
        (gatekeeper_loss(logits, labels, 0.5), gatekeeper_loss(logits.float(), labels, 0.5)),
        (distillation_loss(logits, -logits, 2.0), distillation_loss(logits.float(), -logits, 2.0)),
    ):
        assert loss.dtype == torch.float32
        assert float(loss) == float(again)


@pytest.mark.parametrize("classes", [2, 1000])
def test_very_sure_answers_have_finite_losses(classes):
    logits = torch.zeros(2, classes)
    logits[:, 1] = 1e4
    labels = torch.tensor([0, 1])
    assert math.isfinite(gatekeeper_loss(logits, labels, 0.0))
    assert float(gatekeeper_loss(logits, labels, 0.0)) == pytest.approx(math.log(classes) / 2)
    assert math.isfinite(distillation_loss(-logits, logits, 1.0))
