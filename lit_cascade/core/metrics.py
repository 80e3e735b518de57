"""Metrics of answers, where a sample has one right label or several.

A metric is a function of three counts per class (right answers, answers, labels), which it reads
through sums of integers over the classes. Such sums are exact in any order: equal counts give equal
metrics, however samples were dealt to processes.

`Answers.along` evaluates a metric at every threshold of a cascade. When a sample leaves a stage for
the next its answer may change, which changes the summands of two classes; a running sum over these
changes gives the metric at a cost that does not grow with the number of classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lit_cascade.core.scores import row_blocks
from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.utilities.mapped import row_slices

_BLOCK_ELEMENTS = 2**20


def is_right(answers: Tensor, labels: Tensor) -> Tensor:
    """Whether each answer is among the labels of its sample.

    Args:
        answers: (N,) integers.
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.

    Returns:
        (N,) bool.

    Examples:
        >>> is_right(torch.tensor([1, 2]), torch.tensor([[0, 1], [0, -1]]))
        tensor([ True, False])
    """
    if labels.ndim == 1:
        return answers == labels
    return (answers[:, None] == labels).any(dim=1)


def likeliest_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """One label per sample: of several that are right, the one with the largest logit.

    An answer is right if and only if it equals this label, at any temperature, so that a
    temperature or a calibration error, which take one label per sample, can be computed with it.

    Args:
        logits: (N, C).
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.

    Returns:
        (N,) int64.

    Examples:
        >>> logits = torch.tensor([[3.0, 1.0, 2.0]])
        >>> likeliest_labels(logits, torch.tensor([[1, 2, -1]]))
        tensor([2])
    """
    if labels.ndim == 1:
        return labels
    size = max(1, _BLOCK_ELEMENTS // logits.shape[1])
    pairs = zip(row_slices(logits, size), labels.clamp(min=0).split(size), strict=True)
    values = torch.cat([some.gather(1, of).float() for some, of in pairs])
    # on a tie the first class, as in the answers
    ordered = labels.masked_fill(labels < 0, logits.shape[1]).sort(dim=1)
    values = values.gather(1, ordered.indices).masked_fill(
        ordered.values == logits.shape[1], -float("inf")
    )
    return ordered.values.gather(1, values.argmax(dim=1, keepdim=True)).squeeze(1)


def is_among_best(logits: Tensor, labels: Tensor, k: int = 5) -> Tensor:
    """Whether a label of each sample is among the classes of its k largest logits (top-k accuracy).

    Args:
        logits: (N, C) with C >= k.
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.
        k: number of classes that count as answers.

    Returns:
        (N,) bool.

    Examples:
        >>> is_among_best(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([2]), k=2)
        tensor([True])
    """
    # filled in place: many small results among large temporaries would fragment the memory
    best, start = torch.empty(len(logits), k, dtype=torch.int64, device=logits.device), 0
    for some in row_blocks(logits):
        best[start : start + len(some)] = some.topk(k, dim=1).indices
        start += len(some)
    several = labels[:, None] if labels.ndim == 1 else labels
    return (best[:, :, None] == several[:, None, :]).any(dim=2).any(dim=1)


class Counts(NamedTuple):
    """Counts per class over N samples, from which a metric is computed.

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
        name: the name used in options, records and files.
        summands: maps class numbers and `Counts` of these classes, all but `labelled` of the same
            shape (...), to S integers to be summed over the classes, (S, ...) int64.
        value: maps the sums (S, ...) and `Counts`, of which it reads `labelled` and `n`, to the
            metric, (...) float64.
    """

    name: str
    summands: Callable[[Tensor, Counts], Tensor]
    value: Callable[[Tensor, Counts], Tensor]

    def of(self, counts: Counts) -> Tensor:
        """Evaluate the metric on counts (..., C); returns (...) float64."""
        classes = torch.arange(len(counts.labelled), device=counts.labelled.device)
        return self.value(self.summands(classes, counts).sum(dim=-1), counts)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Part over whole in float64; 0 where the whole is 0."""
    return part.double() / whole.double().clamp(min=1)


def _unit(classes: int) -> float:
    """Fixed-point unit of F1 in a sum over the classes: the largest that cannot overflow int64."""
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
        Metric(
            "accuracy",
            lambda _, counts: counts.right[None],
            lambda sums, counts: sums[0].double() / counts.n,
        ),
        Metric(
            "f1",
            lambda classes, counts: torch.stack([counts.right, counts.answered]) * (classes == 1),
            lambda sums, counts: _share(2 * sums[0], sums[1] + counts.labelled[1]),
        ),
        Metric("f1_macro", _f1_each, _mean),
        Metric("matthews", _products, _matthews),
    )
}
"""`accuracy`: share of right answers. `f1`: F1 of class 1 of two classes. `f1_macro`: mean over all
classes of the F1 of each; 0 for a class that is neither answered nor a label. `matthews`: Matthews'
correlation of answers and labels for any number of classes (Gorodkin, "Comparing two K-category
assignments by a K-category correlation coefficient", 2004); 0 where all answers or all labels are
the same."""


def check_countable(name: str, classes: int, *, several: bool = False) -> None:
    """Check that a metric is defined for some data.

    Args:
        name: one of `METRICS`.
        classes: number of classes C.
        several: whether a sample may have several right labels.

    Raises:
        UsageError: an unknown name, or `f1` of more or fewer than two classes.
        CascadeError: several labels for a metric that counts one.
    """
    check_name(name, METRICS, "metric")
    if name == "f1" and classes != 2:
        raise UsageError(
            f"metric: f1 is the F1 of the second of two classes, got {classes} classes; "
            "expected f1_macro, the mean over all classes, or matthews, or accuracy."
        )
    if several and name != "accuracy":
        raise CascadeError(
            f"metric: {name} counts one label per sample, and these samples have several that are "
            "right; expected accuracy."
        )


def count(answers: Tensor, labels: Tensor, classes: int) -> Counts:
    """Count right answers, answers and labels per class.

    Args:
        answers: (N,) integers.
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.
        classes: number of classes C.

    Examples:
        >>> [part.tolist() for part in count(torch.tensor([0, 1]), torch.zeros(2).int(), 2)[:3]]
        [[1, 0], [1, 1], [2, 0]]
    """
    one = labels if labels.ndim == 1 else labels[:0, 0]
    return Counts(
        right=answers[is_right(answers, labels)].bincount(minlength=classes),
        answered=answers.bincount(minlength=classes),
        labelled=one.bincount(minlength=classes),
        n=len(labels),
    )


def measure(metric: str, answers: Tensor, labels: Tensor, classes: int) -> float:
    """Evaluate a metric on answers.

    Args:
        metric: a name in `METRICS`.
        answers: (N,) integers.
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.
        classes: number of classes C.

    Raises:
        UsageError: an unknown metric, or `f1` of more or fewer than two classes.
        CascadeError: several labels for a metric that counts one.

    Examples:
        >>> measure("f1", torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), classes=2)
        0.6666666666666666
    """
    check_countable(metric, classes, several=labels.ndim > 1)
    return float(METRICS[metric].of(count(answers, labels, classes)))


@dataclass(frozen=True)
class Answers:
    """Answers of K stages to N samples, to be evaluated by a metric.

    Attributes:
        metric: a name in `METRICS`.
        after: answer of the cascade if it stops after each stage, (N, K) int64.
        alone: answer of each stage alone, (N, K) int64.
        labels: (N,) integers, or (N, M) where several are right, filled up with -1.
        classes: number of classes C.

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
        """Check that the metric is defined for these labels."""
        check_countable(self.metric, self.classes, several=self.labels.ndim > 1)

    def rows(self, rows: Tensor) -> Answers:
        """Return the answers to some samples."""
        return replace(
            self, after=self.after[rows], alone=self.alone[rows], labels=self.labels[rows]
        )

    def of_stages(self) -> Tensor:
        """Metric of each stage alone, (K,) float64."""
        metric = METRICS[self.metric]
        columns = self.alone.unbind(dim=1)
        return torch.stack(
            [metric.of(count(column, self.labels, self.classes)) for column in columns]
        )

    def along(self, order: Tensor, passed: Tensor) -> Tensor:
        """Metric of the cascade as one sample after the other is deferred to the next stage.

        Args:
            order: sample and stage of each deferral, as flat positions in (N, K - 1), in the order
                of deferring.
            passed: P ascending positions in `order`: the metric is evaluated after each.

        Returns:
            The metric before the first deferral, then after each of `passed`: (1 + P,) float64.
        """
        metric, deferring = METRICS[self.metric], self.after.shape[1] - 1
        start = count(self.after[:, 0], self.labels, self.classes)
        before, after = (part.flatten()[order] for part in (self.after[:, :-1], self.after[:, 1:]))
        moved = (before != after).nonzero().squeeze(1)
        labels = self.labels[order[moved].div(deferring, rounding_mode="floor")]

        # each makes two changes, in turn: one answer less for a class, one more for another
        one_less, one_more = before[moved], after[moved]
        classes = torch.stack([one_less, one_more], dim=1).flatten()
        answered = torch.tensor([-1, 1], device=classes.device).repeat(len(moved))
        right = (
            answered
            * torch.stack([is_right(one_less, labels), is_right(one_more, labels)], dim=1).flatten()
        )

        # sorted by class and then by time: counts of the class before and after each change
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

        # sorted by time again: running sums over all classes
        sums = steps.new_zeros(len(steps), 1 + len(classes))
        sums[:, 0] = metric.summands(torch.arange(self.classes, device=classes.device), start).sum(
            dim=1
        )
        sums[:, 1 + by_class] = steps
        done = 2 * torch.searchsorted(moved, passed, right=True)
        return metric.value(sums.cumsum(1)[:, torch.cat([done.new_zeros(1), done])], start)
