"""Curves and operating points of recorded cascades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lit_cascade.analysis.evidence import check_overlap
from lit_cascade.core import (
    AGREEMENT,
    LEARNED,
    METRICS,
    RECORDED,
    Answers,
    Curve,
    OperatingPoint,
    Policy,
    PolicyLike,
    StageOutcomes,
    above_floor,
    answers_after,
    at_stage,
    check_countable,
    is_right,
    stage_outputs,
)
from lit_cascade.errors import CascadeError, check_name
from lit_cascade.options import PolicyOptions
from lit_cascade.records import (
    Ids,
    Record,
    RecordLike,
    check_alike,
    load_records,
    priced,
    stage_answers,
)
from lit_cascade.utilities.tabular import Tabular, described, listed
from lit_cascade.utilities.units import counted, unit_label


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


def score_notes(records: Sequence[Record], policy: PolicyLike = None) -> list[str]:
    """Return notes on stages whose answers no threshold of the score tells apart.

    Args:
        records: one per stage, cheapest first.
        policy: of the stages, in any form.
    """
    silent = [repr(record.name) for record in records[:-1] if _is_silent(record)]
    score = policy_for(records, policy, undecided=True).score
    votes, note = score == AGREEMENT.name, ""
    if votes and len(records) == 2:
        note = (
            "with two stages agreement is the confidence of the first: there is no stage before it "
            "to agree with. Put another small model between them."
        )
    elif votes and _is_silent(records[0]):
        note = (
            f"{records[0].name!r} has no confidence, and no stage before it to agree with: it only "
            "votes."
        )
    elif silent and score == RECORDED.name:
        note = (
            f"{listed(silent)} {'has' if len(silent) == 1 else 'have'} predictions without a "
            "confidence: any threshold answers all of their samples or none. Import them with "
            "--score, or let several models vote: --policy.score agreement."
        )
    return [f"Note: {note}"] if note else []


def check_tells_apart(records: Sequence[Record], policy: PolicyLike = None) -> None:
    """Check that a threshold can tell answers of one of the deferring stages apart.

    Raises:
        CascadeError: they have predictions without confidences, and none can agree with another.
    """
    score = policy_for(records, policy, undecided=True).score
    told = score == LEARNED.name or (score == AGREEMENT.name and len(records) > 2)
    if all(map(_is_silent, records[:-1])) and not told:
        names = listed([repr(record.name) for record in records[:-1]])
        raise CascadeError(
            f"records: {names} {'has' if len(records) == 2 else 'have'} predictions without a "
            "confidence, so that no threshold tells their answers apart. Import them with --score; "
            "or let two or more models vote before the last: --policy.score agreement."
        )


def _is_silent(record: Record) -> bool:
    """Whether a record holds predictions without a confidence."""
    return record.logits is None and record.score is None


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

    Examples:
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


def policy_for(
    records: Sequence[Record], policy: PolicyLike = None, *, undecided: bool = False
) -> Policy:
    """The policy of recorded stages, from any form that a policy is given in.

    Args:
        records: one per stage, cheapest first.
        policy: a policy, its options, its thresholds, or None. Its score is that of the records
            where these hold no logits.
        undecided: drop its thresholds.

    Raises:
        UsageError: a policy for other stages, or something that is no policy.
    """
    names, recorded = [record.name for record in records], without_logits(records)
    if isinstance(policy, Mapping):
        policy = PolicyOptions.from_mapping(policy, "policy")
    if undecided and isinstance(policy, Policy | PolicyOptions):
        policy = replace(policy, thresholds=None)
    if isinstance(policy, PolicyOptions):
        return Policy.from_options(policy, names, recorded=recorded)
    score = RECORDED.name if recorded else "max_softmax"
    if not isinstance(policy, Policy):
        policy = Policy(policy, score, stages=len(names))
    elif recorded and not policy.own_score:
        policy = replace(policy, score=score)
    return Policy.of(policy, names)


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
            record.output(f"the metric {metric}")
    if policy.combine == "average":
        for record in records:
            if record.logits is None:
                record.logits_for("an average of probabilities")
    if policy.reads_earlier or all(record.knows_answers for record in records):
        if labels is None and need_labels:
            stage_answers(records[0], policy, 0)
        scores, own, after = stage_outputs([one.output(policy.score) for one in records], policy)
        agrees = torch.stack(after, dim=1) == own[-1][:, None]
        correct = alone = None
        if labels is not None:
            correct, alone = ([is_right(a, labels) for a in some] for some in (after, own))
            if metric is not None:
                after_alone = torch.stack(after, dim=1), torch.stack(own, dim=1)
                answers = Answers(metric, *after_alone, labels, len(records[0].classes))
    else:
        columns = [stage_answers(record, policy, k) for k, record in enumerate(records)]
        scores, alone = [column[0] for column in columns], [column[1] for column in columns]
        # the rule of combination does not read the answers: combine their correctness instead
        after = answers_after(policy.combine, scores, [stage.long() for stage in alone])
        correct, agrees = [answer.bool() for answer in after], None
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


def curve(
    records: Sequence[RecordLike],
    policy: PolicyLike = None,
    *,
    cost: str = "flops",
    metric: str | None = None,
    allow_overlap: bool = False,
) -> Curve:
    """Accuracy and cost of a recorded cascade at every threshold, exactly.

    Args:
        records: one per stage, cheapest first; or their files.
        policy: score, temperatures, combination and floors; its thresholds are not used. By default
            the largest class probability, and the later stage's answer.
        cost: unit of the cost, or UNIT=FILE with costs that were measured apart.
        metric: second metric besides accuracy, a name in `lit_cascade.core.METRICS`.
        allow_overlap: whether the policy may have been fitted on some of the samples.

    Raises:
        UsageError: a policy for other stages, or an unknown metric.
        CascadeError: records of different samples, without labels or the unit; or a policy that
            was fitted on some of the samples.

    Examples:
        >>> labels = torch.arange(300) % 3
        >>> small, large = (
        ...     Record.from_arrays(name, torch.randn(300, 3) + k * torch.eye(3)[labels], labels,
        ...                        flops=k)
        ...     for k, name in ((1, "small"), (9, "large"))
        ... )
        >>> curve([small, large]).stage_cost.tolist()
        [1.0, 9.0]
    """
    loaded, unit = priced(load_records(records), cost)
    rule = policy_for(loaded, policy, undecided=True)
    check_overlap(rule.evidence, loaded[0].samples, loaded[0].data, loaded, allowed=allow_overlap)
    return outcomes_of(loaded, rule, unit, metric).curve()


@dataclass(frozen=True)
class Replay(Tabular):
    """Answers of a policy to recorded samples: those that the cascade gives when it runs.

    Attributes:
        ids: of the N samples.
        classes: names of the classes.
        stage: number of the last stage that ran, (N,) int64.
        score: its confidence score, (N,) float32.
        prediction: answer, (N,) int64; None where the records hold no answers.
        correct: whether the answer is right, (N,) bool; None without labels.
        cost: of the stages that ran, (N,) float64.
        point: thresholds, accuracy, deferral rate and mean cost.
        unit: unit of the cost.
    """

    ids: Ids
    classes: tuple[str, ...]
    stage: Tensor
    score: Tensor
    prediction: Tensor | None
    correct: Tensor | None
    cost: Tensor
    point: OperatingPoint
    unit: str = "flops"

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per sample: `id, prediction, correct, stage, score`, and the cost by its unit.

        What is unknown has no column.
        """
        known = {
            "prediction": self.prediction,
            "correct": self.correct,
            "stage": self.stage,
            "score": self.score,
            self.unit: self.cost,
        }
        columns: dict[str, Sequence[Any]] = {"id": self.ids.tolist()}
        return columns | {name: part.tolist() for name, part in known.items() if part is not None}

    def __repr__(self) -> str:
        samples = counted(len(self.ids), "sample")
        return described("Replay", samples, *self.point.figures(self.unit))


def replay(
    records: Sequence[RecordLike],
    policy: PolicyLike,
    *,
    cost: str = "flops",
    metric: str | None = None,
    allow_overlap: bool = False,
) -> Replay:
    """Apply a policy to recorded stages: the answers that the cascade gives when it runs.

    Args:
        records: one per stage, cheapest first; or their files.
        policy: with thresholds; or the thresholds alone.
        cost: unit of the cost, or UNIT=FILE with costs that were measured apart.
        metric: second metric of the answers, a name in `lit_cascade.core.METRICS`.
        allow_overlap: whether the policy may have been fitted on some of the samples.

    Raises:
        UsageError: a policy for other stages or without thresholds.
        CascadeError: as for `curve`, but labels are not needed.

    Examples:
        >>> small = Record.from_arrays("small", [[3.0, 0.0], [0.1, 0.0]], [0, 1], flops=1)
        >>> large = Record.from_arrays("large", [[3.0, 0.0], [0.0, 9.0]], [0, 1], flops=9)
        >>> replayed = replay([small, large], 0.9)
        >>> replayed.prediction.tolist(), replayed.stage.tolist(), replayed.point.accuracy
        ([0, 1], [0, 1], 1.0)
    """
    loaded, unit = priced(load_records(records), cost)
    rule = policy_for(loaded, policy)
    first, thresholds = loaded[0], rule.required_thresholds()
    check_overlap(rule.evidence, first.samples, first.data, loaded, allowed=allow_overlap)
    outcomes = outcomes_of(loaded, rule, unit, metric, need_labels=False)
    stage, prediction = outcomes.route(thresholds), None
    if all(record.knows_answers for record in loaded):
        outputs = stage_outputs([one.output("the replay") for one in loaded], rule)
        prediction, scores = at_stage(torch.stack(outputs.after, dim=1), stage), outputs.scores
    else:
        scores = [stage_answers(record, rule, k)[0] for k, record in enumerate(loaded)]
    correct = outcomes.correct
    return Replay(
        ids=first.ids,
        classes=first.classes,
        stage=stage,
        score=at_stage(torch.stack(scores, dim=1), stage),
        prediction=prediction,
        correct=None if correct is None else at_stage(correct, stage),
        cost=outcomes.costs_at(thresholds),
        point=outcomes.at(thresholds),
        unit=unit,
    )
