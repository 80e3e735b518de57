"""Curves and operating points of recorded cascades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_cascade.core import (
    METRICS,
    Answers,
    Curve,
    Policy,
    StageOutcomes,
    above_floor,
    answers_after,
    check_countable,
    is_right,
    stage_outputs,
)
from lit_cascade.errors import CascadeError, check_name
from lit_cascade.records import Record, check_alike, stage_answers
from lit_cascade.utilities.units import unit_label


def without_logits(records: Sequence[Record]) -> bool:
    """Whether every deferring stage has a recorded score instead of logits."""
    return all(record.logits is None for record in records[:-1])


def cost_notes(records: Sequence[Record], unit: str = "flops") -> list[str]:
    """Return a note for each stage that costs at least as much as the next."""
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
    """Return the metric to report besides accuracy, or None.

    Args:
        described: descriptions of the data, as in records; their `metric`, if any, is the default.
        wanted: the user's choice; `accuracy` for no second metric.
        classes: class names of the data, if known.

    Raises:
        UsageError: an unknown name, or a metric that is not defined for so many classes.
        CascadeError: the data name different metrics.

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
    name = check_name(wanted or next(iter(named), "accuracy"), METRICS, "metric")
    if classes is not None:
        check_countable(name, len(classes))
    return None if name == "accuracy" else name


def outcomes_of(
    records: Sequence[Record],
    policy: Policy,
    unit: str = "flops",
    metric: str | None = None,
    *,
    need_labels: bool = True,
) -> StageOutcomes:
    """Tabulate scores, correctness and costs of recorded stages.

    Args:
        records: one per stage, cheapest first.
        policy: score, temperatures, combination and floors; its thresholds are not used.
        unit: unit of the cost.
        metric: a name in `lit_cascade.core.metrics.METRICS`, to include the answers that it needs.
        need_labels: raise if there are no labels; otherwise `correct` is None.

    Raises:
        UsageError: an unknown metric, or one that is not defined for so many classes.
        CascadeError: records of different samples, labels or classes, a unit that one of them
            lacks, or a record without the logits or labels that policy and metric need.
    """
    check_alike(records)
    labels, answers = records[0].labels, None
    correct: list[Tensor] | None
    alone: list[Tensor] | None
    if metric is not None:
        for record in records:
            record.logits_for(f"the metric {metric}")
    logits = [record.logits for record in records if record.logits is not None]
    if len(logits) < len(records):
        columns = [stage_answers(record, policy, k) for k, record in enumerate(records)]
        if policy.combine == "average":
            for record in records:
                record.logits_for("an average of probabilities")
        scores, alone = [column[0] for column in columns], [column[2] for column in columns]
        # the rule of combination does not read the answers: combine their correctness instead
        after = answers_after(policy.combine, scores, [stage.long() for stage in alone])
        correct, agrees = [answer.bool() for answer in after], None
    else:
        if labels is None and need_labels:
            stage_answers(records[0], policy, 0)
        scores, own, after = stage_outputs(logits, policy)
        agrees = torch.stack(after, dim=1) == own[-1][:, None]
        correct = alone = None
        if labels is not None:
            correct, alone = ([is_right(a, labels) for a in some] for some in (after, own))
            if metric is not None:
                after_alone = torch.stack(after, dim=1), torch.stack(own, dim=1)
                answers = Answers(metric, *after_alone, labels, len(records[0].classes))
    deferring = zip(scores[:-1], policy.floors, strict=True)
    return StageOutcomes(
        scores=torch.stack([above_floor(score, floor) for score, floor in deferring], dim=1),
        correct=None if correct is None else torch.stack(correct, dim=1),
        costs=torch.stack([record.cost(unit) for record in records], dim=1),
        alone=None if alone is None else torch.stack(alone, dim=1),
        agrees=agrees,
        answers=answers,
        unit=unit,
        names=tuple(record.name for record in records),
    )


def curve_of_records(
    records: Sequence[Record],
    policy: Policy | None = None,
    unit: str = "flops",
    metric: str | None = None,
) -> Curve:
    """Compute the exact curve of a cascade of recorded models.

    Args:
        records: one per stage, cheapest first.
        policy: score, temperatures, combination and floors; its thresholds are not used. By default
            the largest class probability, and the later stage's answer.
        unit: unit of the cost.
        metric: second metric besides accuracy, a name in `lit_cascade.core.metrics.METRICS`.

    Raises:
        UsageError: as for `outcomes_of`.
        CascadeError: as for `outcomes_of` and `sweep`.
    """
    check_alike(records)
    return outcomes_of(records, policy or Policy(stages=len(records)), unit, metric).curve()
