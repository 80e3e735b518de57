"""The metric that a classifier is judged by while it is trained."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_cascade.core import METRICS, Counts, check_countable, count

__all__ = ["Score"]


class Score(Metric):
    """A metric of `core.metrics`, batch by batch and over any number of processes, exactly.

    Args:
        metric: one of `core.metrics.METRICS`, such as accuracy, f1 or matthews.
        classes: C.

    Raises:
        UsageError: an unknown metric, or one that is not defined for so many classes.

    Example:
        >>> score = Score("f1", classes=2)
        >>> score.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> score.update(torch.tensor([1]), torch.tensor([0]))
        >>> round(float(score.compute()), 3)
        0.667
    """

    full_state_update = False
    right: Tensor
    answered: Tensor
    labelled: Tensor
    n: Tensor

    def __init__(self, metric: str, classes: int) -> None:
        super().__init__()
        check_countable(metric, classes)
        self.metric = metric
        self.classes = classes
        for name in ("right", "answered", "labelled"):
            zeros = torch.zeros(classes, dtype=torch.int64)
            self.add_state(name, default=zeros, dist_reduce_fx="sum")
        self.add_state("n", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, answers: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            answers: (N,) integers in [0, C).
            labels: the same, or (N, M) where several are right, filled up with -1.
        """
        check_countable(self.metric, self.classes, several=labels.ndim > 1)
        found = count(answers, labels, self.classes)
        self.right += found.right
        self.answered += found.answered
        self.labelled += found.labelled
        self.n += found.n

    def compute(self) -> Tensor:
        """The metric of all that was added, a number in float32."""
        counts = Counts(self.right, self.answered, self.labelled, self.n.clamp(min=1))
        return METRICS[self.metric].of(counts).float()
