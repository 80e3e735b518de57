"""torchmetrics over the core: sums that processes add up, exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_cascade.core import (
    METRICS,
    Counts,
    DeferralHead,
    Policy,
    check_countable,
    count,
    is_right,
    route,
    stage_outputs,
)
from lit_cascade.errors import CascadeError, check_name


class _CountingMetric(Metric):
    """A metric whose states are sums, among them counts by class."""

    full_state_update = False

    n: Tensor
    right: Tensor
    answered: Tensor
    labelled: Tensor

    def _add_sums(self, **states: Tensor) -> None:
        for name, zeros in states.items():
            self.add_state(name, zeros, dist_reduce_fx="sum")


class SampleMeans(Metric):
    """Means over all samples of several columns of numbers, exact for integers below 2^53.

    Example:
        >>> means = SampleMeans(["accuracy", "flops"])
        >>> means.update({"accuracy": torch.tensor([True, False]), "flops": torch.tensor([1, 3])})
        >>> {name: float(mean) for name, mean in means.compute().items()}
        {'accuracy': 0.5, 'flops': 2.0}
    """

    full_state_update = False

    n: Tensor
    sums: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        zeros = torch.zeros(len(self.names), dtype=torch.float64)
        self.add_state("n", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("sums", zeros, dist_reduce_fx="sum")

    def update(self, columns: Mapping[str, Tensor]) -> None:
        """Add a batch: for each name a tensor (N,)."""
        columns = {name: columns[name].to(self.sums.device) for name in self.names}
        self.n += len(columns[self.names[0]])
        self.sums += torch.stack([column.double().sum() for column in columns.values()])

    def compute(self) -> dict[str, Tensor]:
        """The means by name, float64; NaN without samples."""
        return dict(zip(self.names, self.sums / self.n, strict=True))


class ClassifierMetric(_CountingMetric):
    """A metric of one classifier, streaming, over any number of processes.

    Args:
        metric: a name in `lit_cascade.core.METRICS`.
        classes: number of classes C.

    Raises:
        UsageError: an unknown metric, or one that is not defined for so many classes.

    Example:
        >>> metric = ClassifierMetric("f1", classes=2)
        >>> metric.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> metric.update(torch.tensor([1]), torch.tensor([0]))
        >>> round(float(metric.compute()), 3)
        0.667
    """

    def __init__(self, metric: str, classes: int) -> None:
        super().__init__()
        check_countable(metric, classes)
        self.metric, self.classes = metric, classes
        zeros = torch.zeros(classes, dtype=torch.int64)
        self._add_sums(
            n=torch.tensor(0), right=zeros, answered=zeros.clone(), labelled=zeros.clone()
        )

    def update(self, answers: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            answers: (N,) integers in [0, C).
            labels: the same, or (N, M) where several are right, filled up with -1.
        """
        check_countable(self.metric, self.classes, several=labels.ndim > 1)
        counts = count(answers, labels, self.classes)
        self.right += counts.right
        self.answered += counts.answered
        self.labelled += counts.labelled
        self.n += counts.n

    def compute(self) -> Tensor:
        """The metric over all batches, a float32 scalar."""
        counts = Counts(self.right, self.answered, self.labelled, self.n.clamp(min=1))
        return METRICS[self.metric].of(counts).float()


class CascadeMetrics(_CountingMetric):
    """Accuracy, another metric, deferral rate and FLOPs of a cascade at given thresholds.

    Memory does not grow with the number of samples, and a process may have none. With more than two
    stages all deferring stages share each threshold. For every threshold at once, record logits and
    compute their curve.

    Args:
        thresholds: T thresholds on the score.
        score: a name in `lit_cascade.core.SCORES`.
        temperatures: one per stage; by default 1.
        num_stages: number of stages K.
        combine: a name in `lit_cascade.core.COMBINATIONS`.
        metric: a name in `lit_cascade.core.METRICS`.
        num_classes: by default that of the first batch; required if `metric` counts classes and a
            process may have no batch.
        heads: one per deferring stage if the score is `learned`.

    Raises:
        UsageError: a threshold or temperature out of range, an unknown metric, or one that is not
            defined for so many classes.

    Example:
        >>> metrics = CascadeMetrics([0.5, 0.9])
        >>> small, large = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]])
        >>> metrics.update([small, large], torch.tensor([1]), torch.tensor([[1.0, 10.0]]))
        >>> metrics.compute()["accuracy"], metrics.compute()["flops"]
        (tensor([0., 1.], dtype=torch.float64), tensor([ 1., 11.], dtype=torch.float64))
    """

    is_differentiable = False
    higher_is_better = None

    correct: Tensor
    deferred: Tensor
    flops: Tensor

    def __init__(
        self,
        thresholds: Sequence[float],
        score: str = "max_softmax",
        temperatures: Sequence[float] = (),
        num_stages: int = 2,
        combine: str = "later",
        metric: str = "accuracy",
        num_classes: int | None = None,
        heads: Sequence[DeferralHead] = (),
    ) -> None:
        super().__init__()
        self.policies = [
            Policy(
                (threshold,) * (num_stages - 1),
                score,
                tuple(temperatures),
                combine,
                heads=tuple(heads),
            )
            for threshold in thresholds
        ]
        self.num_stages = num_stages
        zeros = torch.zeros(len(self.policies), dtype=torch.int64)
        self._add_sums(
            n=torch.tensor(0), correct=zeros, deferred=zeros.clone(), flops=zeros.double()
        )
        self.metric = check_name(metric, METRICS, "metric")
        if metric == "accuracy":
            return
        if num_classes is None and metric == "f1":
            num_classes = 2
        if num_classes is not None:
            check_countable(metric, num_classes)
        # while the number of classes is unknown, a scalar 0 stands for the counts of all
        labelled = torch.zeros(() if num_classes is None else num_classes, dtype=torch.int64)
        by_threshold = labelled if num_classes is None else labelled.expand(len(zeros), -1)
        self._add_sums(right=by_threshold.clone(), answered=by_threshold.clone(), labelled=labelled)

    def update(self, logits: Sequence[Tensor], labels: Tensor, flops: Tensor) -> None:
        """Add a batch.

        Args:
            logits: of every stage, (N, C) each.
            labels: (N,) integers, or (N, M) where several are right, filled up with -1.
            flops: of every stage on every sample, (N, K).

        Raises:
            UsageError: a metric that is not defined for so many classes.
            CascadeError: logits of another number of stages or classes, or several labels for a
                metric that counts one.
        """
        if len(logits) != self.num_stages:
            raise CascadeError(f"expected logits of {self.num_stages} stages, got {len(logits)}.")
        if not self.policies:
            return
        scores, _, after = stage_outputs(logits, self.policies[0])
        correct = torch.stack([is_right(answer, labels) for answer in after], dim=1)
        spent = flops.to(self.flops).cumsum(dim=1)
        self.n += len(labels)
        by_stage = torch.stack(after, dim=1)
        answers = []
        for t, policy in enumerate(self.policies):
            stage = route(scores[:-1], policy.required_thresholds())[:, None]
            self.correct[t] += correct.gather(1, stage).sum()
            self.deferred[t] += (stage > 0).sum()
            self.flops[t] += spent.gather(1, stage).sum()
            answers.append(by_stage.gather(1, stage).squeeze(1))
        if self.metric != "accuracy":
            self._count(answers, labels, logits[0].shape[1])

    def _count(self, answers: Sequence[Tensor], labels: Tensor, classes: int) -> None:
        """Add the counts by class of the answers at each threshold."""
        check_countable(self.metric, classes, several=labels.ndim > 1)
        if self.labelled.ndim and len(self.labelled) != classes:
            raise CascadeError(
                f"expected logits of {len(self.labelled)} classes, as given or seen before, "
                f"got {classes}."
            )
        counts = [count(column, labels, classes) for column in answers]
        self.right = self.right + torch.stack([one.right for one in counts])
        self.answered = self.answered + torch.stack([one.answered for one in counts])
        self.labelled = self.labelled + counts[0].labelled

    def compute(self) -> dict[str, Tensor]:
        """`accuracy`, `deferral_rate`, mean `flops` per sample, and the metric by its name.

        Each is (T,) float64, NaN without samples; torchmetrics makes it a scalar if T is 1.
        """
        n = self.n.double()
        values = {
            "accuracy": self.correct / n,
            "deferral_rate": self.deferred / n,
            "flops": self.flops / n,
        }
        if self.metric != "accuracy":
            values[self.metric] = values["accuracy"]  # NaN, without samples
            if int(self.n):
                counts = Counts(self.right, self.answered, self.labelled, self.n)
                values[self.metric] = METRICS[self.metric].of(counts)
        return values
