"""What decides who answers: the numbers of a cascade, checked, and what they make of logits.

Who answers then is the contract, `core.contract`.

The policy that a user's options describe, for stages of given names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lit_cascade.core.combination import check_combination
from lit_cascade.core.deferral_head import DeferralHead
from lit_cascade.core.scores import (
    LEARNED,
    RECORDED,
    answers_of,
    probabilities_of,
    score_and_answer,
    score_named,
)
from lit_cascade.errors import UsageError
from lit_cascade.options import PolicyOptions

__all__ = ["Policy", "always_defer", "policy_of", "rule_of"]


@dataclass(frozen=True)
class Policy:
    """What decides who answers: a score, a threshold per deferring stage, a temperature per stage.

    Attributes:
        thresholds: one per stage but the last, in stage order. `-inf` never defers, `+inf` always.
        score: a name in `lit_cascade.core.scores.SCORES`, or `learned`.
        temperatures: one per stage; by default 1 for each. A learned score does not read them.
        combine: how the answers of the stages that ran make one, a name in
            `lit_cascade.core.combination.COMBINATIONS`.
        floors: one per threshold and not above it: a stage also answers below its floor. By default
            `-inf`, which nothing lies below.
        heads: one per threshold where the score is `learned`, and none otherwise.

    Raises:
        UsageError: a threshold that is NaN or that the score cannot reach, a floor above its
            threshold, a temperature that is not a positive finite number, an unknown name,
            lengths that do not fit each other, or a learned score with `most_confident`.

    Example:
        >>> Policy(thresholds=(0.9,)).temperatures
        (1.0, 1.0)
    """

    thresholds: tuple[float, ...]
    score: str = "max_softmax"
    temperatures: tuple[float, ...] = ()
    combine: str = "later"
    floors: tuple[float, ...] = ()
    heads: tuple[DeferralHead, ...] = ()

    def __post_init__(self) -> None:
        """Fill in what is not given, and check every number."""
        thresholds = tuple(float(t) for t in self.thresholds)
        temperatures = tuple(float(t) for t in self.temperatures) or (1.0,) * (len(thresholds) + 1)
        floors = tuple(float(f) for f in self.floors) or (-math.inf,) * len(thresholds)
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "temperatures", temperatures)
        object.__setattr__(self, "floors", floors)
        score = score_named(self.score)
        check_combination(self.combine)
        self._check_lengths()
        self._check_heads()
        for temperature in temperatures:
            if not (temperature > 0 and math.isfinite(temperature)):
                raise UsageError(
                    f"temperatures: expected finite numbers above 0, got {temperature}."
                )
        for threshold in thresholds:
            if math.isnan(threshold):
                raise UsageError("thresholds: NaN is no threshold; -inf never defers, +inf always.")
            if math.isfinite(threshold) and not score.low <= threshold <= score.high:
                raise UsageError(
                    f"thresholds: {threshold} is outside the range of the score {score.name!r}, "
                    f"{score.low:g} to {score.high:g}; use -inf to never defer, +inf to always."
                )
        for floor, threshold in zip(floors, thresholds, strict=True):
            if not floor <= threshold:
                raise UsageError(
                    f"floors: {floor} is above its threshold {threshold}: nothing would be "
                    "deferred. Samples are deferred from the floor up to the threshold."
                )

    def _check_heads(self) -> None:
        object.__setattr__(self, "heads", tuple(self.heads))
        wanted = len(self.thresholds) if self.score == LEARNED.name else 0
        if len(self.heads) != wanted:
            raise UsageError(
                f"heads: the score {self.score!r} of {len(self.thresholds)} deferring stages needs "
                f"{wanted}, got {len(self.heads)}."
            )
        if self.score == LEARNED.name and self.combine == "most_confident":
            raise UsageError(
                "combine: a learned score says how useful it is to defer, and the last stage has "
                "none to compare with; use later or average with score learned."
            )

    def _check_lengths(self) -> None:
        deferring, stages = len(self.thresholds), len(self.temperatures)
        if len(self.floors) != deferring:
            raise UsageError(
                f"floors: expected one per threshold ({deferring}), got {len(self.floors)}."
            )
        if stages != deferring + 1:
            raise UsageError(
                f"temperatures: {deferring} thresholds make {deferring + 1} stages, which need as "
                f"many temperatures, got {stages}."
            )

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.temperatures)

    def score_and_answer(self, stage: int, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Confidence score (N,) float32 and own answer (N,) int64 of a stage, from its logits.

        Whatever has no score of the policy's kind has the largest class probability: a stage with
        logits among stages with `recorded` scores, and the last stage where the score is `learned`.
        """
        if stage < len(self.heads):
            return self.heads[stage].scores(logits), answers_of(logits)
        score = "max_softmax" if self.score in {RECORDED.name, LEARNED.name} else self.score
        return score_and_answer(logits, score, self.temperatures[stage])

    def probabilities(self, stage: int, logits: Tensor) -> Tensor:
        """Class probabilities (N, C) float32 of a stage, from its logits."""
        return probabilities_of(logits, self.temperatures[stage])


def always_defer(stages: int, **parts: Any) -> Policy:
    """A policy under which every sample goes through every stage.

    Args:
        stages: how many.
        parts: of the policy, but for its thresholds.

    Example:
        >>> always_defer(3).thresholds
        (inf, inf)
    """
    return Policy((math.inf,) * (stages - 1), **parts)


def rule_of(options: PolicyOptions, names: Sequence[str], *, recorded: bool = False) -> Policy:
    """The policy that options describe for stages of these names, but that it defers everything.

    Args:
        options: what the user gave; thresholds are not read.
        names: of the stages.
        recorded: whether scores are those that the records hold, of whatever range.

    Raises:
        UsageError: an unknown stage, a wrong length, a number out of range, or a learned score
            without heads or of records without logits.
    """
    if recorded and options.score == LEARNED.name:
        raise UsageError(
            "policy.score: learned reads logits, and these records hold scores of their own."
        )
    heads = zip(names, options.heads_of(names), strict=False)
    return always_defer(
        len(names),
        score=RECORDED.name if recorded else options.score,
        temperatures=options.temperatures_of(names),
        combine=options.combine,
        floors=options.floors_of(names),
        heads=tuple(
            DeferralHead.from_numbers(numbers, f"policy.heads.{name}") for name, numbers in heads
        ),
    )


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
    return replace(rule_of(options, names, recorded=recorded), thresholds=thresholds)
