"""What a cascade does to a split at one set of thresholds, run for real or replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.analysis import judge
from lit_cascade.core.contract import route
from lit_cascade.core.metrics import measure
from lit_cascade.core.policy import Policy
from lit_cascade.errors import CascadeError
from lit_cascade.records import Record

__all__ = ["Outcome", "outcome", "replay_outcome"]


@dataclass(frozen=True)
class Outcome:
    """What a cascade does to a split at one set of thresholds.

    Attributes:
        n: number of samples.
        accuracy: share of correct answers.
        deferral_rate: share of the samples that the first stage did not answer.
        cost: mean cost per sample over the stages that ran.
        cost_ratio: the same over the cost of the last stage alone; below 1 is a saving.
        answered: share of the samples that each stage answered, in stage order.
        metric: how good the answers are by another metric, if one was asked for.
    """

    n: int
    accuracy: float
    deferral_rate: float
    cost: float
    cost_ratio: float
    answered: tuple[float, ...]
    metric: float | None = None


def outcome(
    stage: Tensor,
    right: Tensor,
    costs: Tensor,
    cost_alone: Tensor,
    metric: float | None = None,
) -> Outcome:
    """Summarise where samples were answered, whether rightly, and at what cost.

    Args:
        stage: number of the stage that answered, (N,) int64.
        right: whether its answer is right, (N,) bool.
        costs: what each stage spent on each sample, 0 where it did not run, (N, K).
        cost_alone: what the last stage alone would spend, (N,).
        metric: how good the answers are by another metric.

    Example:
        >>> costs = torch.tensor([[1.0, 0.0], [1.0, 10.0]])
        >>> done = outcome(torch.tensor([0, 1]), torch.tensor([True, True]), costs, costs[1, 1:])
        >>> done.accuracy, done.deferral_rate, done.cost
        (1.0, 0.5, 6.0)
    """
    n, stages = costs.shape
    counts = torch.bincount(stage, minlength=stages).tolist()
    total, alone = float(costs.sum()), float(cost_alone.sum())
    if not alone > 0:
        raise CascadeError("the last stage costs nothing: a cascade cannot save anything.")
    return Outcome(
        n=n,
        accuracy=int(right.sum()) / n,
        deferral_rate=(n - counts[0]) / n,
        cost=total / n,
        cost_ratio=total / alone,
        answered=tuple(count / n for count in counts),
        metric=metric,
    )


def replay_outcome(
    records: Sequence[Record],
    policy: Policy,
    unit: str = "flops",
    metric: str | None = None,
) -> Outcome:
    """What a policy does to recorded samples.

    Args:
        records: one per stage, cheapest first.
        policy: for as many stages.
        unit: of the cost.
        metric: another than accuracy to judge the answers by too.

    Raises:
        UsageError: as for `judge`.
        CascadeError: as for `judge`, or a policy for another number of stages.
    """
    judged = judge(records, policy, unit, metric)
    stage = route(list(judged.scores.unbind(dim=1)), policy.thresholds)
    ran = torch.arange(len(records)) <= stage[:, None]
    said = judged.answers
    return outcome(
        stage,
        _chosen(judged.correct, stage),
        judged.costs * ran,
        judged.costs[:, -1],
        None
        if said is None
        else measure(said.metric, _chosen(said.after, stage), said.labels, said.classes),
    )


def _chosen(columns: Tensor, stage: Tensor) -> Tensor:
    """Of each row the value of its stage."""
    return columns.gather(1, stage[:, None]).squeeze(1)
