"""Metrics of answers that count classes.

Each is a function of three counts per class (right answers, answers, labels), and needs of them no
more than sums over the classes of whole numbers. Those are exact in any order, so equal counts give
equal metrics, wherever they were added up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lit_cascade.core.labels import is_right
from lit_cascade.errors import CascadeError, UsageError, check_name

__all__ = [
    "METRICS",
    "Counts",
    "Metric",
    "check_countable",
    "check_metric",
    "count",
    "measure",
]


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
