"""What the stages of a cascade answer, and how good that is at every threshold by any metric.

When a sample leaves a stage for the next, its answer may change, and two classes change what they
add to a metric. A running sum over those changes gives the metric wherever it is wanted, at a cost
and in a memory that do not grow with the number of classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.core.labels import is_right
from lit_cascade.core.metrics import METRICS, check_countable, count

__all__ = ["Answers"]


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
