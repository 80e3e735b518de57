"""The one contract of a cascade, used by the replay over records and by the live execution.

Stage k answers a sample if and only if `score(logits_k / T_k) >= threshold_k`; otherwise the sample
is deferred to stage k + 1. The last stage always answers.

A floor under a threshold makes a window of it: a stage also answers where its score lies below the
floor, because a sample that hopeless is not worth another stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lit_cascade.core.combination import answers_after
from lit_cascade.core.policy import Policy
from lit_cascade.errors import CascadeError

__all__ = ["Replay", "Said", "above_floor", "answers_here", "replay", "route", "say"]


def answers_here(scores: Tensor, threshold: float, floor: float = -math.inf) -> Tensor:
    """Which samples a stage answers: the contract itself.

    A tie answers, and a NaN score defers because NaN is never `>=` and never `<`.

    Args:
        scores: shape (N,).
        threshold: the stage's threshold.
        floor: below it the stage answers too.

    Returns:
        Booleans of shape (N,).

    Example:
        >>> answers_here(torch.tensor([0.4, 0.5, float("nan")]), 0.5)
        tensor([False,  True, False])
    """
    return above_floor(scores, floor) >= _rounded(threshold, scores.dtype)


@lru_cache(maxsize=1024)
def _rounded(value: float, dtype: torch.dtype) -> float:
    """A number in the precision of scores: one that was read from a file ties as before.

    A plain number, since sending a tensor to a GPU would make the host wait for it.
    """
    return torch.tensor(value, dtype=dtype).item()


def above_floor(scores: Tensor, floor: float) -> Tensor:
    """Scores with +inf in place of those below a floor: whatever the threshold, they answer.

    Example:
        >>> above_floor(torch.tensor([0.1, 0.2]), 0.2)
        tensor([   inf, 0.2000])
    """
    if floor == -math.inf:
        return scores
    return scores.masked_fill(scores < _rounded(floor, scores.dtype), math.inf)


def route(
    scores: Sequence[Tensor], thresholds: Sequence[float], floors: Sequence[float] = ()
) -> Tensor:
    """The stage that answers each sample.

    Args:
        scores: of each deferring stage, shape (N,), in stage order.
        thresholds: as many.
        floors: as many, or none.

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
    lowest = floors or [-math.inf] * len(thresholds)
    for column, threshold, floor in zip(scores, thresholds, lowest, strict=True):
        undecided &= ~answers_here(column, threshold, floor)
        stage += undecided
    return stage


class Said(NamedTuple):
    """What the stages of a cascade say of samples that all of them saw.

    Attributes:
        scores: of each stage, (N,) float32.
        own: answers of each stage alone, (N,) int64.
        after: what the cascade answers if it stops after each stage, (N,) int64.
    """

    scores: list[Tensor]
    own: list[Tensor]
    after: list[Tensor]


def say(logits: Sequence[Tensor], policy: Policy) -> Said:
    """What each stage says, from its logits (N, C), and what the cascade makes of it.

    Raises:
        CascadeError: the policy is for another number of stages.
    """
    if len(logits) != policy.stages:
        raise CascadeError(f"the policy is for {policy.stages} stages, got {len(logits)}.")
    judged = [policy.score_and_answer(k, stage) for k, stage in enumerate(logits)]
    scores, own = [score for score, _ in judged], [answer for _, answer in judged]
    probabilities = (policy.probabilities(k, stage) for k, stage in enumerate(logits))
    return Said(scores, own, answers_after(policy.combine, scores, own, probabilities))


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
        UsageError: thresholds that are undecided.
        CascadeError: the policy is for another number of stages.

    Example:
        >>> small = torch.tensor([[3.0, 0.0], [0.1, 0.0]])
        >>> large = torch.tensor([[3.0, 0.0], [0.0, 9.0]])
        >>> replay([small, large], Policy(thresholds=(0.9,)))
        Replay(stage=tensor([0, 1]), prediction=tensor([0, 1]))
    """
    said = say(logits, policy)
    stage = route(said.scores[:-1], policy.required_thresholds(), policy.floors)
    return Replay(stage, torch.stack(said.after, dim=1).gather(1, stage[:, None]).squeeze(1))
