"""Questions over records: the arithmetic of `core` applied to what models said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.core.calibration import TemperatureFit, fit_temperature
from lit_cascade.core.combination import answers_after
from lit_cascade.core.labels import is_right
from lit_cascade.core.policy import Policy, above_floor, always_defer, route
from lit_cascade.core.scores import RECORDED, answers_of, score_and_answer
from lit_cascade.core.sweep import Curve, sweep
from lit_cascade.errors import CascadeError
from lit_cascade.options import PolicyOptions
from lit_cascade.records import Record, check_alike
from lit_cascade.units import unit_label

__all__ = [
    "Judged",
    "Outcome",
    "StageCalibration",
    "calibrate_record",
    "cost_notes",
    "curve_of_records",
    "judge",
    "outcome",
    "policy_of",
    "replay_outcome",
    "score_and_correct",
    "without_logits",
]


def without_logits(records: Sequence[Record]) -> bool:
    """Whether every stage that defers holds a score of its own instead of logits."""
    return all(record.logits is None for record in records[:-1])


def policy_of(
    options: PolicyOptions, names: Sequence[str], *, recorded: bool = False
) -> Policy | None:
    """The policy that options describe for stages of these names; None without thresholds.

    Args:
        options: what the user gave.
        names: of the stages.
        recorded: whether thresholds are of scores that the records hold, of whatever range.

    Raises:
        UsageError: an unknown stage, a wrong length, or a number out of range.

    Example:
        >>> policy_of(PolicyOptions(thresholds={"small": 0.9}), ["small", "large"])
        Policy(thresholds=(0.9,), score='max_softmax', temperatures=(1.0, 1.0), ...)
    """
    thresholds = options.thresholds_of(names)
    if thresholds is None:
        return None
    return Policy(
        thresholds,
        RECORDED.name if recorded else options.score,
        options.temperatures_of(names),
        options.combine,
        options.floors_of(names),
    )


@dataclass(frozen=True)
class Judged:
    """What the arithmetic needs of N samples and K stages.

    Attributes:
        scores: confidence of the deferring stages, (N, K - 1) float32; +inf below a floor.
        correct: whether the cascade is right if it stops after each stage, (N, K) bool.
        alone: whether each stage is right alone, (N, K) bool.
        costs: of each stage, (N, K) float64.
    """

    scores: Tensor
    correct: Tensor
    alone: Tensor
    costs: Tensor


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


def score_and_correct(
    record: Record, score: str = "max_softmax", temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Confidence and correctness of one model on every sample.

    Args:
        record: with logits, or with a score of its own.
        score: a name in `lit_cascade.core.scores.SCORES`; a record without logits keeps its own. A
            last stage with logits after stages with `recorded` scores has the largest softmax.
        temperature: divides the logits.

    Returns:
        Scores (N,) float32 and correctness (N,) bool.

    Raises:
        CascadeError: a temperature for a record without logits.
    """
    if record.logits is not None and record.labels is not None:
        score = "max_softmax" if score == RECORDED.name else score
        confidence, answer = score_and_answer(record.logits, score, temperature)
        return confidence, is_right(answer, record.labels)
    if temperature != 1.0:
        record.logits_for("a temperature")
    if record.score is None or record.correct is None:  # a record is not made without
        raise CascadeError(f"record {record.name!r} holds neither logits nor scores.")
    return record.score, record.correct


def judge(records: Sequence[Record], policy: Policy, unit: str = "flops") -> Judged:
    """Scores, correctness and cost of every stage on every sample.

    Args:
        records: one per stage, cheapest first.
        policy: its score, temperatures, combination and floors; its thresholds are not read.
        unit: of the cost.

    Raises:
        CascadeError: records of different samples, labels or classes, a unit that one of them
            does not have, or scores where the policy needs logits.
    """
    check_alike(records)
    pairs = [
        score_and_correct(record, policy.score, temperature)
        for record, temperature in zip(records, policy.temperatures, strict=True)
    ]
    scores, alone = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    correct = alone
    if policy.combine == "average":
        held = [record.logits_for("an average of probabilities") for record in records]
        answers = [answers_of(logits) for logits, _ in held]
        after = answers_after(
            policy.combine, scores, answers, [logits for logits, _ in held], policy.temperatures
        )
        labels = records[0].labels
        if labels is not None:  # logits are not recorded without
            correct = [is_right(answer, labels) for answer in after]
    elif policy.combine != "later":
        after = answers_after(policy.combine, scores, [stage.long() for stage in alone])
        correct = [answer.bool() for answer in after]
    deferring = zip(scores[:-1], policy.floors, strict=True)
    return Judged(
        scores=torch.stack([above_floor(score, floor) for score, floor in deferring], dim=1),
        correct=torch.stack(correct, dim=1),
        alone=torch.stack(alone, dim=1),
        costs=torch.stack([record.cost(unit) for record in records], dim=1),
    )


def curve_of_records(
    records: Sequence[Record], policy: Policy | None = None, unit: str = "flops"
) -> Curve:
    """The exact curve of a cascade of recorded models.

    Args:
        records: one per stage, cheapest first.
        policy: its score, temperatures, combination and floors; its thresholds are not read. By
            default the largest class probability, and the later stage's answer.
        unit: of the cost.

    Raises:
        CascadeError: as for `judge`.
    """
    check_alike(records)
    judged = judge(records, policy or always_defer(len(records)), unit)
    return sweep(judged.scores, judged.correct, judged.costs, judged.alone)


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
    """

    n: int
    accuracy: float
    deferral_rate: float
    cost: float
    cost_ratio: float
    answered: tuple[float, ...]


def outcome(stage: Tensor, right: Tensor, costs: Tensor, cost_alone: Tensor) -> Outcome:
    """Summarise where samples were answered, whether rightly, and at what cost.

    Args:
        stage: number of the stage that answered, (N,) int64.
        right: whether its answer is right, (N,) bool.
        costs: what each stage spent on each sample, 0 where it did not run, (N, K).
        cost_alone: what the last stage alone would spend, (N,).

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
    )


def replay_outcome(records: Sequence[Record], policy: Policy, unit: str = "flops") -> Outcome:
    """What a policy does to recorded samples.

    Args:
        records: one per stage, cheapest first.
        policy: for as many stages.
        unit: of the cost.

    Raises:
        CascadeError: as for `judge`, or a policy for another number of stages.
    """
    judged = judge(records, policy, unit)
    stage = route(list(judged.scores.unbind(dim=1)), policy.thresholds)
    ran = torch.arange(len(records)) <= stage[:, None]
    return outcome(
        stage,
        judged.correct.gather(1, stage[:, None]).squeeze(1),
        judged.costs * ran,
        judged.costs[:, -1],
    )


@dataclass(frozen=True)
class StageCalibration:
    """A stage's temperature and how well its confidence fits before and after.

    Attributes:
        fit: the temperature and its negative log-likelihoods.
        ece_before: expected calibration error at T = 1, 15 bins of equal width.
        ece_after: the same at the fitted temperature.
        n: number of samples it was fitted on.
    """

    fit: TemperatureFit
    ece_before: float
    ece_after: float
    n: int


def calibrate_record(record: Record) -> StageCalibration:
    """Fit a temperature to a record.

    Example:
        >>> record = Record.from_arrays("net", [[4.0, 0.0]] * 4, [0, 0, 0, 1], flops=1)
        >>> fitted = calibrate_record(record)
        >>> round(fitted.fit.temperature, 3), round(fitted.ece_before, 3)
        (3.641, 0.232)
    """
    logits, labels = record.logits_for("a temperature")
    fit = fit_temperature(logits, labels)
    return StageCalibration(
        fit=fit,
        ece_before=_calibration_error(logits, labels, 1.0),
        ece_after=_calibration_error(logits, labels, fit.temperature),
        n=len(record),
    )


def _calibration_error(logits: Tensor, labels: Tensor, temperature: float) -> float:
    # imported here: torchmetrics takes seconds, and only this question needs it
    from torchmetrics.functional.classification import multiclass_calibration_error  # noqa: PLC0415

    probabilities = (logits.double() / temperature).softmax(dim=1)
    error = multiclass_calibration_error(
        probabilities, labels, num_classes=logits.shape[1], n_bins=15, norm="l1"
    )
    return float(error)
