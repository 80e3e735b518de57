"""Which answers are right, where a sample may have one label or several.

Metrics of answers that count classes.

Each is a function of three counts per class (right answers, answers, labels), and needs of them no
more than sums over the classes of whole numbers. Those are exact in any order, so equal counts give
equal metrics, wherever they were added up.

What the stages of a cascade answer, and how good that is at every threshold by any metric.

When a sample leaves a stage for the next, its answer may change, and two classes change what they
add to a metric. A running sum over those changes gives the metric wherever it is wanted, at a cost
and in a memory that do not grow with the number of classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError, UsageError, check_name

__all__ = [
    "METRICS",
    "Answers",
    "Counts",
    "Metric",
    "check_countable",
    "check_metric",
    "count",
    "is_among_best",
    "is_right",
    "likeliest_labels",
    "measure",
]


def is_right(answers: Tensor, labels: Tensor) -> Tensor:
    """Whether each answer is among the labels of its sample.

    Args:
        answers: (N,) integers.
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.

    Returns:
        (N,) bool.

    Example:
        >>> import torch
        >>> is_right(torch.tensor([1, 2]), torch.tensor([[0, 1], [0, -1]]))
        tensor([ True, False])
    """
    if labels.ndim == 1:
        return answers == labels
    return (answers[:, None] == labels).any(dim=1)


def likeliest_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """One label per sample: of several that are right, the one with the largest logit.

    An answer is among the labels if and only if it is this one, so that whatever needs one label
    per sample, as a temperature or a calibration error does, may be asked with these. A
    temperature does not change them.

    Args:
        logits: (N, C).
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.

    Returns:
        (N,) int64.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[3.0, 1.0, 2.0]])
        >>> likeliest_labels(logits, torch.tensor([[1, 2, -1]]))
        tensor([2])
    """
    if labels.ndim == 1:
        return labels
    found = logits.gather(1, labels.clamp(min=0)).float()
    # the first of equal ones in class order, as answers have it
    ordered = labels.masked_fill(labels < 0, logits.shape[1]).sort(dim=1)
    found = found.gather(1, ordered.indices).masked_fill(
        ordered.values == logits.shape[1], -float("inf")
    )
    return ordered.values.gather(1, found.argmax(dim=1, keepdim=True)).squeeze(1)


def is_among_best(logits: Tensor, labels: Tensor, k: int = 5) -> Tensor:
    """Whether a label of each sample is among the classes of the k largest logits.

    Args:
        logits: (N, C) with C >= k.
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.
        k: how many answers there are.

    Returns:
        (N,) bool.

    Example:
        >>> import torch
        >>> is_among_best(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([2]), k=2)
        tensor([True])
    """
    best = logits.topk(k, dim=1).indices
    several = labels[:, None] if labels.ndim == 1 else labels
    return (best[:, :, None] == several[:, None, :]).any(dim=2).any(dim=1)


class Counts(NamedTuple):
    """What a metric needs to know of N samples of C classes.

    Attributes:
        right: right answers of each class, (..., C) int64.
        answered: answers of each class, (..., C) int64.
        labelled: labels of each class, (C,) int64; zeros where a sample may have several.
        n: number of samples.
    """

    right: Tensor
    answered: Tensor
    labelled: Tensor
    n: int | Tensor


@dataclass(frozen=True)
class Metric:
    """A metric as a function of sums over the classes.

    Attributes:
        name: in options, records and files.
        summands: maps class numbers and `Counts` of these classes, all but `labelled` of the same
            shape (...), to the S numbers that are summed over the classes, (S, ...) int64.
        value: maps the sums (S, ...) and the counts, of which it reads `labelled` and `n`, to the
            metric, (...) float64.
    """

    name: str
    summands: Callable[[Tensor, Counts], Tensor]
    value: Callable[[Tensor, Counts], Tensor]

    def of(self, counts: Counts) -> Tensor:
        """The metric of counts (..., C): (...) float64."""
        classes = torch.arange(len(counts.labelled), device=counts.labelled.device)
        return self.value(self.summands(classes, counts).sum(dim=-1), counts)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Part of a whole, which has at least that, and 0 of nothing; float64."""
    return part.double() / whole.double().clamp(min=1)


def _right(classes: Tensor, counts: Counts) -> Tensor:
    del classes
    return counts.right[None]


def _accuracy(sums: Tensor, counts: Counts) -> Tensor:
    return sums[0].double() / counts.n


def _of_class_1(classes: Tensor, counts: Counts) -> Tensor:
    return torch.stack([counts.right, counts.answered]) * (classes == 1)


def _f1(sums: Tensor, counts: Counts) -> Tensor:
    return _share(2 * sums[0], sums[1] + counts.labelled[1])


def _unit(classes: int) -> float:
    """The whole number that stands for 1 in a sum over the classes: the largest that has room."""
    return 2.0 ** min(52, 62 - classes.bit_length())


def _f1_each(classes: Tensor, counts: Counts) -> Tensor:
    f1 = _share(2 * counts.right, counts.answered + counts.labelled[classes])
    return (f1 * _unit(len(counts.labelled))).round().long()[None]


def _mean(sums: Tensor, counts: Counts) -> Tensor:
    classes = len(counts.labelled)
    return sums[0].double() / _unit(classes) / classes


def _products(classes: Tensor, counts: Counts) -> Tensor:
    right, answered = counts.right, counts.answered
    return torch.stack([right, answered * counts.labelled[classes], answered.square()])


def _matthews(sums: Tensor, counts: Counts) -> Tensor:
    n = counts.n
    shared = (n * sums[0] - sums[1]).double()
    spread = (n * n - sums[2]).double() * (n * n - counts.labelled.square().sum()).double()
    return torch.where(spread > 0, shared / spread.clamp(min=1).sqrt(), 0.0)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _right, _accuracy),
        Metric("f1", _of_class_1, _f1),
        Metric("f1_macro", _f1_each, _mean),
        Metric("matthews", _products, _matthews),
    )
}
"""`accuracy`: share of right answers. `f1`: F1 of class 1 of two classes. `f1_macro`: the mean over
all classes of the F1 of each; 0 for a class that is neither answered nor a label. `matthews`: the
correlation of answers and labels, of any number of classes; 0 where all answers or all labels are
the same."""


def check_metric(name: str, argument: str = "metric") -> str:
    """Return `name` if it is one of `METRICS`.

    Raises:
        UsageError: it is not; the message lists those there are.
    """
    return check_name(name, METRICS, argument)


def check_countable(name: str, classes: int, *, several: bool = False) -> None:
    """Check that a metric is defined for some data.

    Args:
        name: one of `METRICS`.
        classes: their number.
        several: whether a sample may have several right labels.

    Raises:
        UsageError: an unknown name, or `f1` of more or fewer than two classes.
        CascadeError: several labels for a metric that counts one.
    """
    check_metric(name)
    if name == "f1" and classes != 2:
        raise UsageError(
            f"metric: f1 is that of the second of two classes, got {classes} classes; "
            "expected f1_macro, the mean over all of them, or matthews, or accuracy."
        )
    if several and name != "accuracy":
        raise CascadeError(
            f"metric: {name} counts one label per sample, and these samples have several that are "
            "right; accuracy can be had."
        )


def count(answers: Tensor, labels: Tensor, classes: int) -> Counts:
    """Count answers by class.

    Args:
        answers: (N,) integers.
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.
        classes: C.

    Example:
        >>> right, answered, labelled, n = count(
        ...     torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), classes=2
        ... )
        >>> right.tolist(), answered.tolist(), labelled.tolist(), n
        ([1, 1], [1, 2], [2, 1], 3)
    """
    one = labels if labels.ndim == 1 else labels[:0, 0]
    return Counts(
        right=answers[is_right(answers, labels)].bincount(minlength=classes),
        answered=answers.bincount(minlength=classes),
        labelled=one.bincount(minlength=classes),
        n=len(labels),
    )


def measure(metric: str, answers: Tensor, labels: Tensor, classes: int) -> float:
    """A metric of some answers.

    Args:
        metric: a name in `METRICS`.
        answers: (N,) integers.
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.
        classes: C.

    Raises:
        UsageError: an unknown metric, or `f1` of more or fewer than two classes.
        CascadeError: several labels for a metric that counts one.

    Example:
        >>> measure("f1", torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), classes=2)
        0.6666666666666666
    """
    check_countable(metric, classes, several=labels.ndim > 1)
    return float(METRICS[metric].of(count(answers, labels, classes)))


@dataclass(frozen=True)
class Answers:
    """What stages say of N samples of C classes, to be judged by a metric.

    Attributes:
        metric: a name in `METRICS`.
        after: what the cascade answers if it stops after each stage, (N, K) int64.
        alone: what each stage answers alone, (N, K) int64.
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.
        classes: C.

    Raises:
        UsageError: an unknown metric, or `f1` of more or fewer than two classes.
        CascadeError: several labels for a metric that counts one.
    """

    metric: str
    after: Tensor
    alone: Tensor
    labels: Tensor
    classes: int

    def __post_init__(self) -> None:
        """Check that the metric can be had."""
        check_countable(self.metric, self.classes, several=self.labels.ndim > 1)

    def of_stages(self) -> Tensor:
        """The metric of each stage alone, (K,) float64."""
        metric = METRICS[self.metric]
        columns = self.alone.unbind(dim=1)
        return torch.stack(
            [metric.of(count(column, self.labels, self.classes)) for column in columns]
        )

    def along(self, order: Tensor, passed: Tensor) -> Tensor:
        """The metric of the cascade while one sample after the other leaves a stage for the next.

        Args:
            order: which sample leaves which stage, as positions in (N, K - 1), in the order of
                leaving.
            passed: the last that has left each time that the metric is wanted: P rising positions
                in `order`.

        Returns:
            The metric before any has left, then at each of `passed`: (1 + P,) float64.

        Example:
            >>> said = torch.tensor([[0, 1], [1, 1]])
            >>> answers = Answers("f1", said, said, labels=torch.tensor([1, 1]), classes=2)
            >>> answers.along(order=torch.tensor([1, 0]), passed=torch.tensor([0, 1])).tolist()
            [0.6666666666666666, 0.6666666666666666, 1.0]
        """
        metric, deferring = METRICS[self.metric], self.after.shape[1] - 1
        start = count(self.after[:, 0], self.labels, self.classes)
        before, after = (part.flatten()[order] for part in (self.after[:, :-1], self.after[:, 1:]))
        moved = (before != after).nonzero().squeeze(1)
        labels = self.labels[order[moved].div(deferring, rounding_mode="floor")]

        # two changes each, in turn: one answer fewer for a class, one more for another
        one_less, one_more = before[moved], after[moved]
        classes = torch.stack([one_less, one_more], dim=1).flatten()
        answered = torch.tensor([-1, 1], device=classes.device).repeat(len(moved))
        right = (
            answered
            * torch.stack([is_right(one_less, labels), is_right(one_more, labels)], dim=1).flatten()
        )

        # class by class, each in the order of time: its counts after each change, and before
        by_class = classes.sort(stable=True).indices
        classes, answered, right = classes[by_class], answered[by_class], right[by_class]
        changes = classes.bincount(minlength=self.classes)
        first = (changes.cumsum(0) - changes)[classes]

        def counted(at_start: Tensor, change: Tensor) -> Tensor:
            total = change.cumsum(0)
            return at_start[classes] + total - (total - change)[first]

        new = start._replace(
            right=counted(start.right, right), answered=counted(start.answered, answered)
        )
        old = new._replace(right=new.right - right, answered=new.answered - answered)
        steps = metric.summands(classes, new) - metric.summands(classes, old)

        # back in the order of time: running sums over all classes
        sums = steps.new_zeros(len(steps), 1 + len(classes))
        sums[:, 0] = metric.summands(torch.arange(self.classes, device=classes.device), start).sum(
            dim=1
        )
        sums[:, 1 + by_class] = steps
        done = 2 * torch.searchsorted(moved, passed, right=True)
        return metric.value(sums.cumsum(1)[:, torch.cat([done.new_zeros(1), done])], start)
