"""The policy of a cascade: the numbers that decide which stage answers a sample.

How they decide is the contract, `lit_cascade.core.contract`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lit_cascade.core.combination import COMBINATIONS
from lit_cascade.core.deferral_head import DeferralHead
from lit_cascade.core.scores import (
    LEARNED,
    RECORDED,
    answers_of,
    probabilities_of,
    score_and_answer,
    score_named,
)
from lit_cascade.errors import UsageError, check_name
from lit_cascade.options import PolicyOptions


@dataclass(frozen=True)
class Policy:
    """Score, thresholds and temperatures of a cascade, checked.

    Attributes:
        thresholds: one per stage but the last, in stage order; `-inf` never defers, `+inf` always.
            None while they are undecided.
        score: a name in `lit_cascade.core.scores.SCORES`, `recorded` or `learned`.
        temperatures: one per stage; by default 1 for each. A learned score does not read them.
        combine: a name in `lit_cascade.core.combination.COMBINATIONS`: whose answer counts after a
            deferral.
        floors: one per stage but the last and not above its threshold: a stage also answers below
            its floor. By default `-inf` for each, so that no score is below.
        heads: one per stage but the last where the score is `learned`, and none otherwise.
        stages: number of stages K; by default that of the thresholds, or else of the temperatures.

    Raises:
        UsageError: a threshold that is NaN or that the score cannot reach, a floor above its
            threshold, a temperature that is not a positive finite number, an unknown name,
            lengths that do not fit each other, or a learned score with `most_confident`.

    Example:
        >>> Policy(thresholds=(0.9,)).temperatures
        (1.0, 1.0)
        >>> Policy(stages=3).thresholds is None
        True
    """

    thresholds: tuple[float, ...] | None = None
    score: str = "max_softmax"
    temperatures: tuple[float, ...] = ()
    combine: str = "later"
    floors: tuple[float, ...] = ()
    heads: tuple[DeferralHead, ...] = ()
    stages: int = 0

    def __post_init__(self) -> None:
        """Fill in what is not given, and check every number."""
        thresholds = None if self.thresholds is None else tuple(map(float, self.thresholds))
        given = len(self.temperatures) if thresholds is None else len(thresholds) + 1
        stages = self.stages or given
        filled = {
            "thresholds": thresholds,
            "stages": stages,
            "temperatures": tuple(map(float, self.temperatures)) or (1.0,) * stages,
            "floors": tuple(map(float, self.floors)) or (-math.inf,) * (stages - 1),
            "heads": tuple(self.heads),
        }
        for name, value in filled.items():
            object.__setattr__(self, name, value)
        check_name(self.combine, COMBINATIONS, "combine")
        self._check_lengths()
        for temperature in self.temperatures:
            if not (temperature > 0 and math.isfinite(temperature)):
                raise UsageError(
                    f"temperatures: expected finite numbers above 0, got {temperature}."
                )
        self._check_thresholds(thresholds or ())

    def _check_lengths(self) -> None:
        deferring = self.stages - 1
        if self.thresholds is not None and len(self.thresholds) != deferring:
            raise UsageError(
                f"thresholds: a cascade of {self.stages} stages needs {deferring}, "
                f"got {len(self.thresholds)}."
            )
        if self.stages < 2:
            raise UsageError(f"stages: a cascade needs at least 2, got {self.stages}.")
        if len(self.floors) != deferring:
            raise UsageError(
                f"floors: expected one per threshold ({deferring}), got {len(self.floors)}."
            )
        if len(self.temperatures) != self.stages:
            raise UsageError(
                f"temperatures: expected one for each of {self.stages} stages, "
                f"got {len(self.temperatures)}."
            )
        learned = self.score == LEARNED.name
        if len(self.heads) != learned * deferring:
            raise UsageError(
                f"heads: the score {self.score!r} of {deferring} deferring stages needs "
                f"{learned * deferring}, got {len(self.heads)}."
            )
        if learned and self.combine == "most_confident":
            raise UsageError(
                "combine: a learned score estimates how useful it is to defer, and the last stage "
                "has none to compare with; use later or average with score learned."
            )

    def _check_thresholds(self, thresholds: tuple[float, ...]) -> None:
        score = score_named(self.score)
        for threshold in thresholds:
            if math.isnan(threshold):
                raise UsageError("thresholds: NaN is no threshold; -inf never defers, +inf always.")
            if math.isfinite(threshold) and not score.low <= threshold <= score.high:
                raise UsageError(
                    f"thresholds: {threshold} is outside the range of the score {score.name!r}, "
                    f"{score.low:g} to {score.high:g}; use -inf to never defer, +inf to always."
                )
        ceilings = thresholds or (math.inf,) * len(self.floors)
        for floor, threshold in zip(self.floors, ceilings, strict=True):
            if not floor <= threshold:
                raise UsageError(
                    f"floors: {floor} is above its threshold {threshold}: nothing would be "
                    "deferred. Samples are deferred from the floor up to the threshold."
                )

    @classmethod
    def from_options(
        cls, options: PolicyOptions, names: Sequence[str], *, recorded: bool = False
    ) -> Policy:
        """The policy that a user's options describe; undecided if they have no thresholds.

        Args:
            options: what the user gave.
            names: of the stages, cheapest first.
            recorded: whether scores are those that the records hold, of whatever range.

        Raises:
            UsageError: an unknown stage, a wrong length, a number out of range, or a learned score
                without heads or of records without logits.

        Example:
            >>> Policy.from_options(PolicyOptions(thresholds={"small": 0.9}), ["small", "large"])
            Policy(thresholds=(0.9,), score='max_softmax', temperatures=(1.0, 1.0), ...)
        """
        if recorded and options.score == LEARNED.name:
            raise UsageError(
                "policy.score: learned reads logits, and these records hold scores of their own."
            )
        heads = zip(names, options.heads_of(names), strict=False)
        return cls(
            thresholds=options.thresholds_of(names),
            score=RECORDED.name if recorded else options.score,
            temperatures=options.temperatures_of(names),
            combine=options.combine,
            floors=options.floors_of(names),
            heads=tuple(
                DeferralHead.from_numbers(numbers, f"policy.heads.{name}")
                for name, numbers in heads
            ),
        )

    def required_thresholds(self, names: Sequence[str] = ()) -> tuple[float, ...]:
        """The thresholds, where a cascade cannot do without.

        Args:
            names: of the stages, for the message.

        Raises:
            UsageError: they are undecided.
        """
        if self.thresholds is None:
            which = ", ".join(names[:-1]) or f"each of {self.stages - 1} deferring stages"
            raise UsageError(
                f"policy.thresholds: running a cascade needs a threshold for {which}; "
                "`lit-cascade validate` lists some."
            )
        return self.thresholds

    def score_and_answer(self, stage: int, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Confidence score (N,) float32 and own answer (N,) int64 of a stage, from its logits.

        The score is the largest class probability where the policy's own is not defined: for a
        stage with logits among stages with `recorded` scores, and for the last stage where the
        score is `learned`.
        """
        if stage < len(self.heads):
            return self.heads[stage].scores(logits), answers_of(logits)
        score = "max_softmax" if self.score in {RECORDED.name, LEARNED.name} else self.score
        return score_and_answer(logits, score, self.temperatures[stage])

    def probabilities(self, stage: int, logits: Tensor) -> Tensor:
        """Class probabilities (N, C) float32 of a stage, from its logits."""
        return probabilities_of(logits, self.temperatures[stage])
