"""Questions over records: the arithmetic of `core` applied to what models said.

What a cascade does to a split at one set of thresholds, run for real or replayed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_cascade.core import (
    Answers,
    Curve,
    Policy,
    above_floor,
    answers_after,
    check_countable,
    check_metric,
    is_right,
    measure,
    route,
    sweep,
)
from lit_cascade.errors import CascadeError
from lit_cascade.records import Record, check_alike, stage_answers
from lit_cascade.utilities.units import unit_label

__all__ = [
    "Judged",
    "Outcome",
    "cost_notes",
    "curve_of_records",
    "judge",
    "official_metric",
    "outcome",
    "replay_outcome",
    "without_logits",
]


def without_logits(records: Sequence[Record]) -> bool:
    """Whether every stage that defers holds a score of its own instead of logits."""
    return all(record.logits is None for record in records[:-1])


@dataclass(frozen=True)
class Judged:
    """What the arithmetic needs of N samples and K stages.

    Attributes:
        scores: confidence of the deferring stages, (N, K - 1) float32; +inf below a floor.
        correct: whether the cascade is right if it stops after each stage, (N, K) bool.
        alone: whether each stage is right alone, (N, K) bool.
        costs: of each stage, (N, K) float64.
        answers: what `correct` and `alone` were made from, if a metric needs it.
    """

    scores: Tensor
    correct: Tensor
    alone: Tensor
    costs: Tensor
    answers: Answers | None = None


def cost_notes(records: Sequence[Record], unit: str = "flops") -> list[str]:
    """A note for every stage that costs no less than the one after it.

    Example:
        >>> one, two = (
        ...     Record.from_arrays(name, [[1.0, 0.0]], [0], flops=flops)
        ...     for name, flops in (("a", 9), ("b", 2))
        ... )
        >>> cost_notes([one, two])
        ["Note: stage 'a' costs more FLOPs than 'b' after it: stages belong in order of cost."]
    """
    means = [float(record.cost(unit).mean()) for record in records]
    what = unit_label(unit)
    return [
        f"Note: stage {one.name!r} costs {'more' if a > b else 'as many'} {what} "
        f"{'than' if a > b else 'as'} {other.name!r} after it: stages belong in order of cost."
        for one, other, a, b in zip(records, records[1:], means, means[1:], strict=False)
        if a >= b
    ]


def official_metric(
    described: Sequence[Mapping[str, Any]],
    wanted: str | None = None,
    classes: Sequence[str] | None = None,
) -> str | None:
    """The metric to judge by beside accuracy, if there is one.

    Args:
        described: descriptions of the data, as records have them. Their `metric` counts where
            nothing else is wanted; one without has no say.
        wanted: by the user; `accuracy` is none beside it.
        classes: of the data, if they are known yet.

    Raises:
        UsageError: an unknown name, or a metric that is not defined for so many classes.
        CascadeError: data with different metrics.

    Example:
        >>> official_metric([{"metric": "f1"}, {}]), official_metric([{"metric": "f1"}], "accuracy")
        ('f1', None)
    """
    named = dict.fromkeys(str(data["metric"]) for data in described if data.get("metric"))
    if wanted is None and len(named) > 1:
        raise CascadeError(
            f"metric: the records name {' and '.join(named)} as that of their data; expected one, "
            "or --metric to say which."
        )
    name = check_metric(wanted or next(iter(named), "accuracy"))
    if classes is not None:
        check_countable(name, len(classes))
    return None if name == "accuracy" else name


def judge(
    records: Sequence[Record], policy: Policy, unit: str = "flops", metric: str | None = None
) -> Judged:
    """Scores, correctness and cost of every stage on every sample.

    Args:
        records: one per stage, cheapest first.
        policy: its score, temperatures, combination and floors; its thresholds are not read.
        unit: of the cost.
        metric: a name in `lit_cascade.core.metrics.METRICS`, to have the answers too.

    Raises:
        UsageError: an unknown metric, or one that is not defined for so many classes.
        CascadeError: records of different samples, labels or classes, a unit that one of them
            does not have, or scores where the policy or the metric needs logits.
    """
    check_alike(records)
    said = [stage_answers(record, policy, k) for k, record in enumerate(records)]
    scores, own, alone = map(list, zip(*said, strict=True))
    probabilities: Iterable[Tensor] = ()
    if policy.combine == "average":
        logits = [record.logits_for("an average of probabilities")[0] for record in records]
        probabilities = (policy.probabilities(k, stage) for k, stage in enumerate(logits))
    if metric is not None:
        for record in records:
            record.logits_for(f"the metric {metric}")
    labels = records[0].labels
    if labels is None or any(record.logits is None for record in records):
        # whose answer counts does not depend on what it is: whether it is right stands for it
        labels, own = None, [stage.long() for stage in alone]
    after = answers_after(policy.combine, scores, own, probabilities)
    correct = [answer.bool() if labels is None else is_right(answer, labels) for answer in after]
    answers = None
    if metric is not None and labels is not None:
        columns = torch.stack(after, dim=1), torch.stack(own, dim=1)
        answers = Answers(metric, *columns, labels, len(records[0].classes))
    deferring = zip(scores[:-1], policy.floors, strict=True)
    return Judged(
        scores=torch.stack([above_floor(score, floor) for score, floor in deferring], dim=1),
        correct=torch.stack(correct, dim=1),
        alone=torch.stack(alone, dim=1),
        costs=torch.stack([record.cost(unit) for record in records], dim=1),
        answers=answers,
    )


def curve_of_records(
    records: Sequence[Record],
    policy: Policy | None = None,
    unit: str = "flops",
    metric: str | None = None,
) -> Curve:
    """The exact curve of a cascade of recorded models.

    Args:
        records: one per stage, cheapest first.
        policy: its score, temperatures, combination and floors; its thresholds are not read. By
            default the largest class probability, and the later stage's answer.
        unit: of the cost.
        metric: another than accuracy to judge by too, a name in `lit_cascade.core.metrics.METRICS`.

    Raises:
        UsageError: as for `judge`.
        CascadeError: as for `judge`.
    """
    check_alike(records)
    judged = judge(records, policy or Policy(stages=len(records)), unit, metric)
    return sweep(judged.scores, judged.correct, judged.costs, judged.alone, judged.answers)


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
    stage = route(list(judged.scores.unbind(dim=1)), policy.required_thresholds())
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
