"""The one contract of a cascade, used by the replay over records and by the live execution.

Stage k answers a sample if and only if `score(logits_k / T_k) >= threshold_k`; otherwise the sample
is deferred to stage k + 1. The last stage always answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lit_cascade.core.scores import score_and_answer, score_named
from lit_cascade.errors import CascadeError, UsageError

__all__ = ["Policy", "Replay", "answers_here", "replay", "route"]


@dataclass(frozen=True)
class Policy:
    """What decides who answers: a score, a threshold per deferring stage, a temperature per stage.

    Attributes:
        thresholds: one per stage but the last, in stage order. `-inf` never defers, `+inf` always.
        score: a name in `lit_cascade.core.scores.SCORES`.
        temperatures: one per stage; by default 1 for each.

    Raises:
        UsageError: a threshold that is NaN or that the score cannot reach, a temperature that is
            not a positive finite number, or lengths that do not fit each other.

    Example:
        >>> Policy(thresholds=(0.9,)).temperatures
        (1.0, 1.0)
    """

    thresholds: tuple[float, ...]
    score: str = "max_softmax"
    temperatures: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Fill in the temperatures and check every number."""
        thresholds = tuple(float(t) for t in self.thresholds)
        temperatures = tuple(float(t) for t in self.temperatures) or (1.0,) * (len(thresholds) + 1)
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "temperatures", temperatures)
        score = score_named(self.score)
        if len(temperatures) != len(thresholds) + 1:
            raise UsageError(
                f"temperatures: {len(thresholds)} thresholds make {len(thresholds) + 1} stages, "
                f"which need as many temperatures, got {len(temperatures)}."
            )
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

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.temperatures)


def answers_here(scores: Tensor, threshold: float) -> Tensor:
    """Which samples a stage answers: the contract itself.

    A tie answers, and a NaN score defers because NaN is never `>=`.

    Args:
        scores: shape (N,).
        threshold: the stage's threshold.

    Returns:
        Booleans of shape (N,).

    Example:
        >>> answers_here(torch.tensor([0.4, 0.5, float("nan")]), 0.5)
        tensor([False,  True, False])
    """
    # the threshold takes the precision of the scores: one that was read from a file ties as before
    return scores >= torch.tensor(threshold, dtype=scores.dtype, device=scores.device)


def route(scores: Sequence[Tensor], thresholds: Sequence[float]) -> Tensor:
    """The stage that answers each sample.

    Args:
        scores: of each deferring stage, shape (N,), in stage order.
        thresholds: as many.

    Returns:
        Stage numbers from 0, shape (N,) int64.

    Example:
        >>> route([torch.tensor([0.9, 0.2, 0.2]), torch.tensor([0.1, 0.8, 0.3])], [0.5, 0.5])
        tensor([0, 1, 2])
    """
    if not scores or len(scores) != len(thresholds):
        raise CascadeError(
            f"expected one threshold per deferring stage ({len(scores)}), got {len(thresholds)}."
        )
    stage = torch.zeros(len(scores[0]), dtype=torch.int64, device=scores[0].device)
    undecided = torch.ones_like(stage, dtype=torch.bool)
    for column, threshold in zip(scores, thresholds, strict=True):
        undecided &= ~answers_here(column, threshold)
        stage += undecided
    return stage


class Replay(NamedTuple):
    """What a policy does to recorded samples.

    Attributes:
        stage: the stage that answered, (N,) int64.
        prediction: its answer, (N,) int64.
    """

    stage: Tensor
    prediction: Tensor


def replay(logits: Sequence[Tensor], policy: Policy) -> Replay:
    """Apply a policy to the recorded logits of every stage.

    Args:
        logits: one tensor of shape (N, C) per stage.
        policy: for as many stages.

    Raises:
        CascadeError: the policy is for another number of stages.

    Example:
        >>> small = torch.tensor([[3.0, 0.0], [0.1, 0.0]])
        >>> large = torch.tensor([[3.0, 0.0], [0.0, 9.0]])
        >>> replay([small, large], Policy(thresholds=(0.9,)))
        Replay(stage=tensor([0, 1]), prediction=tensor([0, 1]))
    """
    if len(logits) != policy.stages:
        raise CascadeError(f"the policy is for {policy.stages} stages, got {len(logits)}.")
    judged = [
        score_and_answer(stage, policy.score, temperature)
        for stage, temperature in zip(logits, policy.temperatures, strict=True)
    ]
    stage = route([scores for scores, _ in judged[:-1]], policy.thresholds)
    answers = torch.stack([answer for _, answer in judged], dim=1)
    return Replay(stage, answers.gather(1, stage[:, None]).squeeze(1))
