"""Several labels that are right: by hand, sample by sample."""

import pytest
import torch
from timm.utils import accuracy

from lit_cascade.core.metrics import is_among_best, is_right, likeliest_labels
from lit_cascade.core.scores import answers_of


def drawn(seed, n=80, classes=6, most=4, values=4, dtype=torch.float32):
    """Logits with many ties, and one to `most` distinct labels per sample, in any places."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-2, values - 2, (n, classes), generator=generator).to(dtype)
    labels = torch.full((n, most), -1)
    for row in range(n):
        size = int(torch.randint(1, most + 1, (1,), generator=generator))
        places = torch.randperm(most, generator=generator)[:size]
        labels[row, places] = torch.randperm(classes, generator=generator)[:size]
    return logits, labels


def right_by_hand(answers, labels):
    return [
        answer in [label for label in row if label >= 0]
        for answer, row in zip(answers.tolist(), labels.tolist(), strict=True)
    ]


def likeliest_by_hand(logits, labels):
    """Walk through the classes in order and keep the first of the largest logits."""
    found = []
    for values, row in zip(logits.tolist(), labels.tolist(), strict=True):
        best = None
        for label in range(len(values)):
            if label in row and (best is None or values[label] > values[best]):
                best = label
        found.append(best)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("most", [2, 4, 6])
@pytest.mark.parametrize("seed", range(5))
def test_both_are_what_they_are_by_hand(seed, most, dtype):
    logits, labels = drawn(seed, most=most, dtype=dtype)
    answers = answers_of(logits)
    assert is_right(answers, labels).tolist() == right_by_hand(answers, labels)
    assert likeliest_labels(logits, labels).tolist() == likeliest_by_hand(logits, labels)


@pytest.mark.parametrize("seed", range(20))
def test_an_answer_is_right_if_and_only_if_it_is_the_likeliest_label(seed):
    logits, labels = drawn(seed, values=2 + seed % 4)
    answers = answers_of(logits)
    right = is_right(answers, labels)
    assert torch.equal(right, answers == likeliest_labels(logits, labels))
    assert 0 < int(right.sum()) < len(right)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_labels_and_a_scale_of_logits_change_nothing(seed):
    logits, labels = drawn(seed)
    found = likeliest_labels(logits, labels)
    for _ in range(4):
        order = torch.randperm(labels.shape[1])
        assert torch.equal(likeliest_labels(logits * 3.7, labels[:, order]), found)


def test_one_label_is_its_own_likeliest():
    logits, labels = torch.randn(9, 3), torch.randint(0, 3, (9,))
    assert likeliest_labels(logits, labels) is labels
    assert torch.equal(is_right(labels, labels), torch.ones(9, dtype=torch.bool))
    padded = torch.stack([torch.full((9,), -1), labels], dim=1)
    assert torch.equal(likeliest_labels(logits, padded), labels)


def test_what_fills_up_is_no_label():
    labels = torch.tensor([[-1, 1], [0, -1]])
    logits = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])  # the filled-up places look likelier
    assert likeliest_labels(logits, labels).tolist() == [1, 0]
    assert is_right(answers_of(logits), labels).tolist() == [False, False]


def test_all_classes_may_be_right():
    logits, _ = drawn(0, n=30)
    labels = torch.arange(6).flip(0).expand(30, 6)
    assert torch.equal(likeliest_labels(logits, labels), answers_of(logits))
    assert is_right(answers_of(logits), labels).all()


@pytest.mark.parametrize("several", [False, True])
def test_the_best_five_are_those_of_timm(several):
    logits, labels = torch.randn(200, 12), torch.randint(0, 12, (200,))
    right = accuracy(logits, labels, topk=(1, 3, 5))
    if several:  # the same label with one that no answer can be
        labels = torch.stack([labels, torch.full_like(labels, -1)], dim=1)
    for k, share in zip((1, 3, 5), right, strict=True):
        found = is_among_best(logits, labels, k)
        assert 100 * float(found.float().mean()) == pytest.approx(float(share), abs=1e-3)
