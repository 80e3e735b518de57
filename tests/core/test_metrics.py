import math

import pytest
import torch
from timm.utils import accuracy

from lit_cascade.core.contract import above_floor
from lit_cascade.core.curve import sweep
from lit_cascade.core.metrics import (
    METRICS,
    Answers,
    Counts,
    count,
    is_among_best,
    is_right,
    likeliest_labels,
    measure,
)
from lit_cascade.core.scores import answers_of
from lit_cascade.errors import CascadeError, UsageError
from tests.oracles import metric_by_sklearn, stage_of

CASES = [(metric, n) for metric in METRICS for n in (2, 3, 7) if metric != "f1" or n == 2]


def random_case(n, stages, classes, levels=9):
    labels = torch.randint(0, classes, (n,))
    guesses = torch.randint(0, classes, (n, stages))
    said = torch.where(torch.rand(n, stages) < 0.6, labels[:, None], guesses)
    return torch.randint(0, levels, (n, stages - 1)) / levels, said, labels


def curve_of(metric, scores, said, labels, classes, alone=None):
    costs = torch.ones(said.shape, dtype=torch.float64)
    answers = Answers(metric, said, said if alone is None else alone, labels, classes)
    return sweep(scores, said == labels[:, None], costs, answers=answers)


def check_every_threshold(metric, scores, said, labels, classes, floors=None):
    """The curve against scikit-learn, after one loop over the samples per threshold."""
    hidden = scores
    if floors is not None:
        columns = zip(scores.T, floors, strict=True)
        hidden = torch.stack([above_floor(column, floor) for column, floor in columns], dim=1)
    curve = curve_of(metric, hidden, said, labels, classes)
    deferring = scores.shape[1]
    for row, threshold in enumerate(curve.thresholds.tolist()):
        stages = [stage_of(own, [threshold] * deferring, floors) for own in scores.tolist()]
        answers = [own[stage] for own, stage in zip(said.tolist(), stages, strict=True)]
        expected = metric_by_sklearn(metric, answers, labels.tolist(), classes)
        assert curve.by_metric[row].item() == pytest.approx(expected, rel=1e-13, abs=1e-14)
    assert curve.stage_by_metric.tolist() == pytest.approx(
        [metric_by_sklearn(metric, own, labels.tolist(), classes) for own in said.T.tolist()],
        rel=1e-13,
    )
    assert curve.by_metric.dtype == curve.stage_by_metric.dtype == torch.float64
    assert curve.by_metric.shape == curve.accuracy.shape
    return curve


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [1, 2, 60])
@pytest.mark.parametrize(("metric", "classes"), CASES)
def test_a_metric_is_that_of_scikit_learn(metric, classes, n, seed):
    torch.manual_seed(seed)
    answers, labels = torch.randint(0, classes, (2, n))
    for said in (answers, labels, torch.zeros_like(labels), torch.ones_like(labels)):
        for true in (labels, torch.zeros_like(labels), torch.ones_like(labels)):
            expected = metric_by_sklearn(metric, said.tolist(), true.tolist(), classes)
            assert measure(metric, said, true, classes) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("levels", [2, 10**6])
@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize(("metric", "classes"), CASES)
def test_every_threshold_is_that_of_scikit_learn(metric, classes, stages, levels):
    curve = check_every_threshold(metric, *random_case(40, stages, classes, levels), classes)
    assert len(curve) > (30 if levels > 2 else 1)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(("metric", "classes"), CASES)
def test_one_or_two_samples_have_a_metric_at_every_threshold(metric, classes, n, stages, seed):
    torch.manual_seed(seed)
    check_every_threshold(metric, *random_case(n, stages, classes), classes)


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize(("metric", "classes"), CASES)
def test_equal_scores_leave_the_ends(metric, classes, stages):
    _, said, labels = random_case(20, stages, classes)
    scores = torch.full((20, stages - 1), 0.5)
    assert len(check_every_threshold(metric, scores, said, labels, classes)) == 2


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize(("metric", "classes"), CASES)
def test_stages_that_know_one_class_are_counted(metric, classes, stages):
    scores, said, labels = random_case(16, stages, classes, 4)
    for known in (0, 1):
        for stage in range(stages):
            dull = said.clone()
            dull[:, stage] = known
            check_every_threshold(metric, scores, dull, labels, classes)
        check_every_threshold(metric, scores, torch.full_like(said, known), labels, classes)
        check_every_threshold(metric, scores, said, torch.full_like(labels, known), classes)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize(("metric", "classes"), CASES)
def test_floors_hold_samples_back_from_the_metric_too(metric, classes, stages, seed):
    torch.manual_seed(seed)
    case = random_case(30, stages, classes, 16)
    for floors in ([0.25, 0.375], [math.inf, math.inf], [0.0, 0.0]):
        check_every_threshold(metric, *case, classes, floors[: stages - 1])


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize(("metric", "classes"), CASES)
def test_the_ends_are_the_stages_and_the_order_of_samples_changes_no_bit(metric, classes, stages):
    scores, said, labels = random_case(300, stages, classes, 50)
    order = torch.randperm(300)
    one = curve_of(metric, scores, said, labels, classes)
    other = curve_of(metric, scores[order], said[order], labels[order], classes)
    assert torch.equal(one.by_metric, other.by_metric)
    assert one.by_metric[[0, -1]].tolist() == one.stage_by_metric[[0, -1]].tolist()


def test_by_accuracy_the_metric_is_the_accuracy():
    curve = curve_of("accuracy", *random_case(80, 3, 5), 5)
    assert torch.equal(curve.by_metric, curve.accuracy)
    assert torch.equal(curve.stage_by_metric, curve.stage_accuracy)


def test_without_answers_a_curve_has_no_metric():
    _, said, labels = random_case(20, 2, 3)
    curve = sweep(torch.rand(20), said == labels[:, None], torch.ones(20, 2))
    assert curve.metric is curve.by_metric is curve.stage_by_metric is None
    with pytest.raises(CascadeError, match=r"made without f1: it has accuracy\."):
        curve.judged_by("f1")
    with pytest.raises(CascadeError, match="made without f1: it has accuracy and matthews"):
        curve_of("matthews", torch.rand(20, 1), said, labels, 3).judged_by("f1")


def test_stages_alone_have_the_metric_of_their_own_answers():
    scores, said, labels = random_case(80, 2, 2)
    alone = torch.randint(0, 2, said.shape)
    curve = curve_of("f1", scores, said, labels, 2, alone)
    expected = [metric_by_sklearn("f1", own, labels.tolist(), 2) for own in alone.T.tolist()]
    assert curve.stage_by_metric.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "matthews"])
def test_a_thousand_classes_are_judged_at_every_threshold(metric):
    scores, said, labels = random_case(3000, 3, 1000, 10**6)
    curve = curve_of(metric, scores, said, labels, 1000)
    for row in range(0, len(curve), 400):
        at = (scores < curve.thresholds[row].float()).long().cumprod(dim=1).sum(dim=1)
        answers = said.gather(1, at[:, None]).squeeze(1).tolist()
        expected = metric_by_sklearn(metric, answers, labels.tolist(), 1000)
        assert curve.by_metric[row].item() == pytest.approx(expected, rel=1e-12)


def test_counts_of_many_samples_do_not_overflow():
    n = 2 * 10**9
    counts = Counts(
        right=torch.tensor([n // 4, n // 4]),
        answered=torch.tensor([n // 2, n // 2]),
        labelled=torch.tensor([n // 2, n // 2]),
        n=n,
    )
    assert float(METRICS["matthews"].of(counts)) == 0.0
    assert float(METRICS["f1_macro"].of(counts)) == 0.5
    perfect = counts._replace(right=counts.labelled)
    assert float(METRICS["matthews"].of(perfect)) == float(METRICS["f1"].of(perfect)) == 1.0


def test_any_number_of_classes_has_room_in_a_sum():
    for classes in (2, 1000, 21_843, 10**6):
        labels = torch.arange(classes)
        assert measure("f1_macro", labels, labels, classes) == pytest.approx(1, abs=1e-12)
        assert measure("matthews", labels, labels, classes) == 1.0


def test_several_labels_leave_accuracy():
    labels = torch.tensor([[0, 2], [1, -1]])
    assert measure("accuracy", torch.tensor([2, 0]), labels, 3) == 0.5
    assert count(torch.tensor([2, 0]), labels, 3).right.tolist() == [0, 0, 1]
    said = torch.zeros(2, 2, dtype=torch.int64)
    for metric in ("f1_macro", "matthews"):
        with pytest.raises(CascadeError, match=f"{metric} counts one label per sample.*accuracy"):
            measure(metric, torch.tensor([2, 0]), labels, 3)
        with pytest.raises(CascadeError, match="several that are right"):
            Answers(metric, said, said, labels, 3)


def test_f1_of_three_classes_names_what_would_work():
    said = torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises(UsageError, match=r"metric: f1 .* got 3 classes; expected f1_macro"):
        Answers("f1", said, said, said[:, 0], 3)


def test_an_unknown_metric_is_answered_with_those_there_are():
    said = "metric: 'f_1' is unknown; known are accuracy, f1, f1_macro, matthews. Did you mean"
    with pytest.raises(UsageError, match=said):
        measure("f_1", torch.zeros(1), torch.zeros(1), 2)


def test_answers_of_another_shape_are_refused():
    scores, said, labels = random_case(9, 3, 2)
    costs, correct = torch.ones(9, 3), said == labels[:, None]
    for after, alone in ((said[:, :2], said), (said, said[:, :2]), (said[:8], said)):
        answers = Answers("f1", after, alone, labels, 2)
        with pytest.raises(CascadeError, match=r"expected answers of shape \(9, 3\)"):
            sweep(scores, correct, costs, answers=answers)


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
