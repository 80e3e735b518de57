"""Questions over records: the arithmetic of `core` applied to what models said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.core.calibration import TemperatureFit, fit_temperature
from lit_cascade.core.policy import Policy, route
from lit_cascade.core.scores import answers_of, score_and_answer
from lit_cascade.core.sweep import Curve, sweep
from lit_cascade.errors import CascadeError
from lit_cascade.options import PolicyOptions
from lit_cascade.records import Record, check_alike

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
]


def policy_of(options: PolicyOptions, names: Sequence[str]) -> Policy | None:
    """The policy that options describe for stages of these names; None without thresholds.

    Raises:
        UsageError: an unknown stage, a wrong length, or a number out of range.

    Example:
        >>> policy_of(PolicyOptions(thresholds={"small": 0.9}), ["small", "large"])
        Policy(thresholds=(0.9,), score='max_softmax', temperatures=(1.0, 1.0))
    """
    thresholds = options.thresholds_of(names)
    if thresholds is None:
        return None
    return Policy(thresholds, options.score, options.temperatures_of(names))


@dataclass(frozen=True)
class Judged:
    """What the arithmetic needs of N samples and K stages.

    Attributes:
        scores: confidence of the deferring stages, (N, K - 1) float32.
        correct: whether each stage is right, (N, K) bool.
        flops: FLOPs of each stage, (N, K) float64.
    """

    scores: Tensor
    correct: Tensor
    flops: Tensor


def cost_notes(records: Sequence[Record]) -> list[str]:
    """A note for every stage that costs no less than the one after it.

    Example:
        >>> one, two = (
        ...     Record.from_arrays(name, [[1.0, 0.0]], [0], flops=flops)
        ...     for name, flops in (("a", 9), ("b", 2))
        ... )
        >>> cost_notes([one, two])
        ["Note: stage 'a' costs more FLOPs than 'b' after it: stages belong in order of cost."]
    """
    means = [float(record.flops.mean()) for record in records]
    return [
        f"Note: stage {one.name!r} costs {'more' if a > b else 'as many'} FLOPs "
        f"{'than' if a > b else 'as'} {other.name!r} after it: stages belong in order of cost."
        for one, other, a, b in zip(records, records[1:], means, means[1:], strict=False)
        if a >= b
    ]


def judge(
    records: Sequence[Record],
    score: str = "max_softmax",
    temperatures: Sequence[float] | None = None,
) -> Judged:
    """Scores, correctness and cost of every stage on every sample.

    Args:
        records: one per stage, cheapest first.
        score: a name in `lit_cascade.core.scores.SCORES`.
        temperatures: one per stage; by default 1.

    Raises:
        CascadeError: records of different samples, labels or classes.
    """
    check_alike(records)
    scores, correct = [], []
    for record, temperature in zip(
        records[:-1], temperatures or [1.0] * len(records), strict=False
    ):
        confidence, answer = score_and_answer(record.logits, score, temperature)
        scores.append(confidence)
        correct.append(answer == record.labels)
    correct.append(answers_of(records[-1].logits) == records[-1].labels)
    return Judged(
        scores=torch.stack(scores, dim=1),
        correct=torch.stack(correct, dim=1),
        flops=torch.stack([record.flops for record in records], dim=1),
    )


def curve_of_records(
    records: Sequence[Record],
    score: str = "max_softmax",
    temperatures: Sequence[float] | None = None,
) -> Curve:
    """The exact curve of a cascade of recorded models; its cost is FLOPs per sample.

    Args:
        records: one per stage, cheapest first.
        score: a name in `lit_cascade.core.scores.SCORES`.
        temperatures: one per stage; by default 1.

    Raises:
        CascadeError: records of different samples, labels or classes.
    """
    judged = judge(records, score, temperatures)
    return sweep(judged.scores, judged.correct, judged.flops)


@dataclass(frozen=True)
class Outcome:
    """What a cascade does to a split at one set of thresholds.

    Attributes:
        n: number of samples.
        accuracy: share of correct answers.
        deferral_rate: share of the samples that the first stage did not answer.
        flops: mean FLOPs per sample over the stages that ran.
        flops_ratio: the same over the FLOPs of the last stage alone; below 1 is a saving.
        answered: share of the samples that each stage answered, in stage order.
    """

    n: int
    accuracy: float
    deferral_rate: float
    flops: float
    flops_ratio: float
    answered: tuple[float, ...]


def outcome(stage: Tensor, right: Tensor, flops: Tensor, flops_alone: Tensor) -> Outcome:
    """Summarise where samples were answered, whether rightly, and at what cost.

    Args:
        stage: number of the stage that answered, (N,) int64.
        right: whether its answer is right, (N,) bool.
        flops: FLOPs that each stage spent on each sample, 0 where it did not run, (N, K).
        flops_alone: FLOPs of the last stage alone, (N,).

    Example:
        >>> flops = torch.tensor([[1.0, 0.0], [1.0, 10.0]])
        >>> done = outcome(torch.tensor([0, 1]), torch.tensor([True, True]), flops, flops[1, 1:])
        >>> done.accuracy, done.deferral_rate, done.flops
        (1.0, 0.5, 6.0)
    """
    n, stages = flops.shape
    counts = torch.bincount(stage, minlength=stages).tolist()
    total, alone = float(flops.sum()), float(flops_alone.sum())
    if not alone > 0:
        raise CascadeError("the last stage costs no FLOPs: a cascade cannot save anything.")
    return Outcome(
        n=n,
        accuracy=int(right.sum()) / n,
        deferral_rate=(n - counts[0]) / n,
        flops=total / n,
        flops_ratio=total / alone,
        answered=tuple(count / n for count in counts),
    )


def replay_outcome(records: Sequence[Record], policy: Policy) -> Outcome:
    """What a policy does to recorded samples.

    Args:
        records: one per stage, cheapest first.
        policy: for as many stages.

    Raises:
        CascadeError: records of different samples, labels or classes, or a policy for another
            number of stages.
    """
    judged = judge(records, policy.score, policy.temperatures)
    stage = route(list(judged.scores.unbind(dim=1)), policy.thresholds)
    ran = torch.arange(len(records)) <= stage[:, None]
    return outcome(
        stage,
        judged.correct.gather(1, stage[:, None]).squeeze(1),
        judged.flops * ran,
        judged.flops[:, -1],
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
    fit = fit_temperature(record.logits, record.labels)
    return StageCalibration(
        fit=fit,
        ece_before=_calibration_error(record, 1.0),
        ece_after=_calibration_error(record, fit.temperature),
        n=len(record),
    )


def _calibration_error(record: Record, temperature: float) -> float:
    # imported here: torchmetrics takes seconds, and only this question needs it
    from torchmetrics.functional.classification import multiclass_calibration_error  # noqa: PLC0415

    probabilities = (record.logits.double() / temperature).softmax(dim=1)
    error = multiclass_calibration_error(
        probabilities, record.labels, num_classes=len(record.classes), n_bins=15, norm="l1"
    )
    return float(error)
