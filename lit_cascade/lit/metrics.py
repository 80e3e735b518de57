"""torchmetrics over the core: sums that processes add up, exactly."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lit_cascade.core import (
    METRICS,
    Counts,
    DeferralHead,
    Policy,
    StageOutputs,
    answers_of,
    aurc,
    check_countable,
    count,
    deferral_quality,
    is_right,
    route,
    stage_outputs,
)
from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.options import Norm


class SampleMeans(Metric):
    """Means over all samples of several columns of numbers, exact for integers below 2^53.

    Examples:
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


class ClassifierMetric(Metric):
    """A metric of one classifier, streaming, over any number of processes.

    Args:
        metric: a name in `lit_cascade.core.METRICS`.
        classes: number of classes C.

    Raises:
        UsageError: an unknown metric, or one that is not defined for so many classes.

    Examples:
        >>> metric = ClassifierMetric("f1", classes=2)
        >>> metric.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> metric.update(torch.tensor([1]), torch.tensor([0]))
        >>> round(float(metric.compute()), 3)
        0.667
    """

    full_state_update = False

    n: Tensor
    right: Tensor
    answered: Tensor
    labelled: Tensor

    def __init__(self, metric: str, classes: int) -> None:
        super().__init__()
        check_countable(metric, classes)
        self.metric, self.classes = metric, classes
        self.add_state("n", torch.tensor(0), dist_reduce_fx="sum")
        for name in ("right", "answered", "labelled"):
            self.add_state(name, torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")

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


def _scoring(policy: Policy) -> tuple[Any, ...]:
    """All of a policy that scores and answers depend on, but not where they are cut."""
    return policy.score, policy.temperatures, policy.combine, policy.heads, policy.norms


class _CascadeSums(Metric):
    """Sums over samples that the metrics of a cascade are computed from, at given thresholds.

    All of them hold all sums, so that a `MetricCollection` updates them once for all.
    Arguments and errors are those of `CascadeAccuracy`.
    """

    is_differentiable = False
    full_state_update = False
    plot_lower_bound = 0.0

    needed: ClassVar[str] = ""
    """The argument of `update`, besides the logits, that the metric cannot do without."""

    n: Tensor
    judged: Tensor
    costed: Tensor
    correct: Tensor
    deferred: Tensor
    spent: Tensor
    spent_alone: Tensor
    setting: Tensor

    def __init__(
        self,
        thresholds: float | Policy | Sequence[float | Policy],
        score: str = "max_softmax",
        temperatures: Sequence[float] = (),
        num_stages: int = 2,
        combine: str = "later",
        heads: Sequence[DeferralHead] = (),
    ) -> None:
        super().__init__()
        several = thresholds if hasattr(thresholds, "__iter__") else [thresholds]
        self.policies = tuple(
            one
            if isinstance(one, Policy)
            else Policy(
                (one,) * (num_stages - 1),
                score,
                tuple(temperatures),
                combine,
                heads=tuple(heads),
            )
            for one in several
        )
        self.num_stages = self.policies[0].stages if self.policies else num_stages
        for policy in self.policies:
            policy.required_thresholds()
            if policy.stages != self.num_stages:
                raise UsageError(
                    f"thresholds: expected policies for {self.num_stages} stages, got one for "
                    f"{policy.stages}."
                )
        zeros = torch.zeros(len(self.policies), dtype=torch.int64)
        states = {
            "n": torch.tensor(0), "judged": torch.tensor(0), "costed": torch.tensor(0),
            "correct": zeros, "deferred": zeros.clone(), "spent": zeros.double(),
            "spent_alone": torch.tensor(0.0, dtype=torch.float64),
        }  # fmt: skip
        for name, value in states.items():
            self.add_state(name, value, dist_reduce_fx="sum")
        # A collection shares the states of metrics that are equal after the first batch. Metrics at
        # other thresholds may be, by chance: this state keeps them apart.
        told = [(one.thresholds, one.floors, *_scoring(one)) for one in self.policies]
        digest = hashlib.sha256(repr(told).encode()).digest()
        self.add_state("setting", torch.tensor(list(digest), dtype=torch.uint8), "max")

    def update(
        self, logits: Sequence[Tensor], labels: Tensor | None = None, flops: Tensor | None = None
    ) -> None:
        """Add a batch.

        Args:
            logits: of every stage, (N, C) each.
            labels: (N,) integers, or (N, M) where several are right, filled up with -1. Accuracy
                needs them.
            flops: of every stage on every sample, (N, K). `CascadeFLOPs` needs them.

        Raises:
            UsageError: a missing argument.
            CascadeError: logits of another number of stages.
        """
        self._add(logits, labels, flops)

    def _add(
        self, logits: Sequence[Tensor], labels: Tensor | None, flops: Tensor | None
    ) -> list[Tensor]:
        """Add a batch, and return the answers at each threshold."""
        if {"labels": labels, "flops": flops}.get(self.needed, self) is None:
            raise UsageError(f"{self.needed}: update of {type(self).__name__} needs them.")
        if len(logits) != self.num_stages:
            raise CascadeError(f"expected logits of {self.num_stages} stages, got {len(logits)}.")
        n = len(logits[0])
        self.n += n
        if labels is not None:
            self.judged += n
        if flops is not None:
            self.costed += n
            self.spent_alone += flops[:, -1].to(self.spent).sum()
        outputs: dict[Any, StageOutputs] = {}
        answers = []
        for t, policy in enumerate(self.policies):
            scoring = _scoring(policy)
            if scoring not in outputs:
                outputs[scoring] = stage_outputs(logits, policy)
            scores, _, after = outputs[scoring]
            stage = route(scores[:-1], policy.required_thresholds(), policy.floors)[:, None]
            answers.append(torch.stack(after, dim=1).gather(1, stage).squeeze(1))
            self.deferred[t] += (stage > 0).sum()
            if labels is not None:
                self.correct[t] += is_right(answers[-1], labels).sum()
            if flops is not None:
                costs = flops.to(self.spent).cumsum(dim=1)
                self.spent[t] += costs.gather(1, stage.to(costs.device)).sum()
        return answers

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add what another metric, or its state, has seen.

        Raises:
            UsageError: a metric at other thresholds, or of another score.
        """
        other: Any = getattr(incoming_state, "setting", self.setting)
        if not torch.equal(other, self.setting):
            raise UsageError("merge_state: expected a metric at the same thresholds and score.")
        super().merge_state(incoming_state)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the value, or values of several steps, as all metrics of torchmetrics do.

        Args:
            val: by default what `compute` returns.
            ax: matplotlib axes; by default new ones.
        """
        return self._plot(val, ax)


class CascadeAccuracy(_CascadeSums):
    """Share of the samples that a cascade answers rightly, at given thresholds.

    `update` takes the logits of all stages, and labels.

    Args:
        thresholds: T thresholds on the score, which all deferring stages share, or one; a `Policy`
            among them has thresholds of its own for each stage, and its own score.
        score: a name in `lit_cascade.core.SCORES`.
        temperatures: one per stage; by default 1.
        num_stages: number of stages K.
        combine: a name in `lit_cascade.core.COMBINATIONS`.
        heads: one per deferring stage if the score is `learned`.

    Raises:
        UsageError: a threshold or temperature out of range, or a policy for other stages.

    Examples:
        >>> metric = CascadeAccuracy(0.9)
        >>> small, large = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]])
        >>> metric.update([small, large], torch.tensor([1]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = True
    plot_upper_bound = 1.0
    needed = "labels"

    def compute(self) -> Tensor:
        """Accuracy at each threshold, (T,) float64; a scalar if T is 1, NaN without samples."""
        return self.correct / self.judged.double()


class DeferralRate(_CascadeSums):
    """Share of the samples that the first stage defers, at given thresholds.

    `update` takes the logits of all stages. Arguments and errors are those of `CascadeAccuracy`.

    Examples:
        >>> metric = DeferralRate([0.5, 0.9])
        >>> metric.update([torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]])])
        >>> metric.compute()
        tensor([0., 1.], dtype=torch.float64)
    """

    higher_is_better = None
    plot_upper_bound = 1.0

    def compute(self) -> Tensor:
        """Rate at each threshold, (T,) float64; a scalar if T is 1, NaN without samples."""
        return self.deferred / self.n.double()


class CascadeFLOPs(_CascadeSums):
    """Mean FLOPs per sample of a cascade, at given thresholds: those of the stages that run.

    `update` takes the logits and the FLOPs of all stages. Arguments and errors are those of
    `CascadeAccuracy`, and `relative`: whether to divide by the FLOPs of the last stage alone.

    Examples:
        >>> metric = CascadeFLOPs([0.5, 0.9])
        >>> logits = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]])]
        >>> metric.update(logits, flops=torch.tensor([[1.0, 10.0]]))
        >>> metric.compute()
        tensor([ 1., 11.], dtype=torch.float64)
    """

    higher_is_better = False
    needed = "flops"

    def __init__(
        self,
        thresholds: float | Policy | Sequence[float | Policy],
        score: str = "max_softmax",
        temperatures: Sequence[float] = (),
        num_stages: int = 2,
        combine: str = "later",
        heads: Sequence[DeferralHead] = (),
        *,
        relative: bool = False,
    ) -> None:
        super().__init__(thresholds, score, temperatures, num_stages, combine, heads)
        self.relative = relative

    def compute(self) -> Tensor:
        """FLOPs at each threshold, (T,) float64; a scalar if T is 1, NaN without samples."""
        return self.spent / (self.spent_alone if self.relative else self.costed.double())


class _CascadeCounts(_CascadeSums):
    """Another metric of a cascade, from counts by class, at given thresholds.

    Args:
        thresholds: on the score.
        metric: a name in `lit_cascade.core.METRICS`.
        num_classes: None while it is unknown.
    """

    higher_is_better = True
    needed = "labels"

    right: Tensor
    answered: Tensor
    labelled: Tensor

    def __init__(
        self, thresholds: Sequence[Policy], metric: str, num_classes: int | None, num_stages: int
    ) -> None:
        super().__init__(thresholds, num_stages=num_stages)
        self.metric = metric
        if num_classes is None and metric == "f1":
            num_classes = 2
        if num_classes is not None:
            check_countable(metric, num_classes)
        # while the number of classes is unknown, a scalar 0 stands for the counts of all
        labelled = torch.zeros(() if num_classes is None else num_classes, dtype=torch.int64)
        shape = (len(self.policies), *labelled.shape)
        by_threshold = labelled if num_classes is None else labelled.expand(shape)
        for name, value in (
            ("right", by_threshold.clone()),
            ("answered", by_threshold.clone()),
            ("labelled", labelled),
        ):
            self.add_state(name, value, dist_reduce_fx="sum")

    def update(
        self, logits: Sequence[Tensor], labels: Tensor | None = None, flops: Tensor | None = None
    ) -> None:
        """Add a batch, as to `CascadeAccuracy`.

        Raises:
            UsageError: a metric that is not defined for so many classes.
            CascadeError: logits of another number of classes, or several labels per sample.
        """
        answers = self._add(logits, labels, flops)
        if labels is None or not answers:
            return
        classes = logits[0].shape[1]
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

    def compute(self) -> Tensor:
        """The metric at each threshold, (T,) float64; NaN without samples."""
        if not int(self.judged):
            return torch.full_like(self.spent, torch.nan)
        counts = Counts(self.right, self.answered, self.labelled, self.judged)
        return METRICS[self.metric].of(counts)


class CascadeMetrics(MetricCollection):
    """Accuracy, another metric, deferral rate and FLOPs of a cascade at given thresholds.

    A collection of `CascadeAccuracy`, `DeferralRate` and `CascadeFLOPs` that is updated once for
    all. Memory does not grow with the number of samples, and a process may have none. For every
    threshold at once, record logits and compute their curve.

    Args:
        thresholds: T thresholds on the score, which all deferring stages share, or one; a `Policy`
            among them has thresholds of its own for each stage, and its own score.
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

    Examples:
        >>> metrics = CascadeMetrics([0.5, 0.9])
        >>> small, large = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]])
        >>> metrics.update([small, large], torch.tensor([1]), torch.tensor([[1.0, 10.0]]))
        >>> metrics.compute()["accuracy"], metrics.compute()["flops"]
        (tensor([0., 1.], dtype=torch.float64), tensor([ 1., 11.], dtype=torch.float64))
    """

    def __init__(
        self,
        thresholds: float | Policy | Sequence[float | Policy],
        score: str = "max_softmax",
        temperatures: Sequence[float] = (),
        num_stages: int = 2,
        combine: str = "later",
        metric: str = "accuracy",
        num_classes: int | None = None,
        heads: Sequence[DeferralHead] = (),
    ) -> None:
        check_name(metric, METRICS, "metric")
        first = CascadeAccuracy(thresholds, score, temperatures, num_stages, combine, heads)
        policies, stages = first.policies, first.num_stages
        members: dict[str, Metric | MetricCollection] = {
            "accuracy": first,
            "deferral_rate": DeferralRate(policies, num_stages=stages),
            "flops": CascadeFLOPs(policies, num_stages=stages),
        }
        if metric not in members:
            members[metric] = _CascadeCounts(policies, metric, num_classes, stages)
        # one group, whose first member is updated for all: the only one with counts by class
        group = [metric, *(name for name in members if name != metric)]
        super().__init__(members, compute_groups=[group])

    def merge_state(self, incoming: CascadeMetrics) -> None:
        """Add what other metrics at the same thresholds have seen."""
        for name, metric in self.items(keep_base=True):
            metric.merge_state(incoming[name])


class _Ranking(Metric):
    """A metric of a score as an order of samples. It keeps two or three numbers per sample.

    Args:
        score: a name in `lit_cascade.core.SCORES`, or `learned` or `max_logit_pnorm`.
        temperature: of the model that is scored.
        head: of the score `learned`.
        norm: of the score `max_logit_pnorm`.

    Raises:
        UsageError: an unknown score, a temperature out of range, or a score without head or norm.
    """

    is_differentiable = False
    full_state_update = False

    scores: list[Tensor]
    right: list[Tensor]

    def __init__(
        self,
        score: str = "max_softmax",
        temperature: float = 1.0,
        head: DeferralHead | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        self.policy = Policy(
            score=score,
            temperatures=(temperature, 1.0),
            heads=() if head is None else (head,),
            norms=() if norm is None else (norm,),
        )
        self.add_state("scores", [], dist_reduce_fx="cat")
        # as numbers: of a process without samples torchmetrics sends an empty tensor of floats
        self.add_state("right", [], dist_reduce_fx="cat")

    def _add(self, logits: Tensor, labels: Tensor) -> None:
        score, answer, _ = self.policy.judge(0, logits)
        self.scores.append(score)
        self.right.append(is_right(answer, labels).float())

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the value, or values of several steps, as all metrics of torchmetrics do.

        Args:
            val: by default what `compute` returns.
            ax: matplotlib axes; by default new ones.
        """
        return self._plot(val, ax)


class AURC(_Ranking):
    """Area under the risk-coverage curve of a classifier; see `lit_cascade.core.aurc`.

    It keeps two numbers per sample.

    Args:
        score: a name in `lit_cascade.core.SCORES`, or `learned` or `max_logit_pnorm`.
        temperature: of the classifier.
        head: of the score `learned`.
        norm: of the score `max_logit_pnorm`.

    Raises:
        UsageError: an unknown score, a temperature out of range, or a score without head or norm.

    Examples:
        >>> metric = AURC()
        >>> metric.update(torch.tensor([[3.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def update(self, logits: Tensor | Sequence[Tensor], labels: Tensor) -> None:
        """Add a batch.

        Args:
            logits: (N, C); of the stages of a cascade the first counts.
            labels: (N,) integers, or (N, M) where several are right, filled up with -1.
        """
        self._add(logits if isinstance(logits, Tensor) else logits[0], labels)

    def compute(self) -> Tensor:
        """The area, a float64; NaN without samples.

        Raises:
            CascadeError: a score that is NaN.
        """
        scores, right = (_joined(one) for one in (self.scores, self.right))
        value = aurc(scores, right.bool()) if len(scores) else math.nan
        return torch.tensor(value, dtype=torch.float64, device=self.device)


class DeferralQuality(_Ranking):
    """Area under accuracy against deferral rate; see `lit_cascade.core.deferral_quality`.

    Scaled so that random deferral from the first stage to the last has 0 and the oracle 1. It keeps
    three numbers per sample.

    Args:
        score: of the first stage, a name in `lit_cascade.core.SCORES`, or `learned` or
            `max_logit_pnorm`.
        temperature: of the first stage.
        head: of the score `learned`.
        norm: of the score `max_logit_pnorm`.

    Raises:
        UsageError: an unknown score, a temperature out of range, or a score without head or norm.

    Examples:
        >>> metric = DeferralQuality()
        >>> small = torch.tensor([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
        >>> metric.update([small, torch.tensor([[0.0, 9.0]] * 3)], torch.tensor([0, 1, 0]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    higher_is_better = True
    plot_upper_bound = 1.0

    right_last: list[Tensor]

    def __init__(
        self,
        score: str = "max_softmax",
        temperature: float = 1.0,
        head: DeferralHead | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__(score, temperature, head, norm)
        self.add_state("right_last", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor | Sequence[Tensor], labels: Tensor) -> None:
        """Add a batch.

        Args:
            logits: of every stage, (N, C) each; the first and the last count.
            labels: (N,) integers, or (N, M) where several are right, filled up with -1.

        Raises:
            UsageError: logits of fewer than two stages.
        """
        if isinstance(logits, Tensor) or len(logits) < 2:
            raise UsageError("logits: expected those of two or more stages, as a list.")
        self._add(logits[0], labels)
        self.right_last.append(is_right(answers_of(logits[-1]), labels).float())

    def compute(self) -> Tensor:
        """The quality, a float64; NaN without samples, or where no score could help.

        Raises:
            CascadeError: a score that is NaN.
        """
        columns = (_joined(one) for one in (self.scores, self.right, self.right_last))
        scores, first, last = columns
        value = deferral_quality(scores, first.bool(), last.bool()) if len(scores) else math.nan
        return torch.tensor(value, dtype=torch.float64, device=self.device)


def _joined(parts: Tensor | Sequence[Tensor]) -> Tensor:
    """A state of torchmetrics that is a list of tensors, or the tensor of all processes."""
    if isinstance(parts, Tensor):
        return parts
    return torch.cat(list(parts)) if parts else torch.empty(0)
