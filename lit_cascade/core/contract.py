"""The contract of a cascade, shared by the replay over records and the live execution.

Stage k answers a sample if and only if `score_k >= threshold_k`; otherwise the sample is deferred
to stage k + 1. The last stage always answers ("Efficient Inference With Model Cascades", TMLR
2023). The score is a function of the stage's logits or recorded answer, and of the answers and
confidences of the stages that ran before it; never of what a later stage would say.

A stage with a floor also answers where its score is below the floor, so that it defers the samples
in between only: where confidence is that low, another stage is rarely worth its cost.
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
from lit_cascade.core.scores import Judgement, StageOutput, answers_of, row_blocks
from lit_cascade.errors import CascadeError


def answers_here(scores: Tensor, threshold: float, floor: float = -math.inf) -> Tensor:
    """Whether a stage answers each sample: the contract itself.

    A tie answers. A NaN score defers, because NaN is neither `>=` a threshold nor `<` a floor.

    Args:
        scores: shape (N,).
        threshold: the stage's threshold.
        floor: the stage also answers below it.

    Returns:
        Booleans of shape (N,).

    Examples:
        >>> answers_here(torch.tensor([0.4, 0.5, float("nan")]), 0.5)
        tensor([False,  True, False])
    """
    return above_floor(scores, floor) >= _rounded(threshold, scores.dtype)


@lru_cache(maxsize=1024)
def _rounded(value: float, dtype: torch.dtype) -> Tensor:
    """Round to the precision of scores, so that a threshold read from a file still ties.

    The result is a tensor of no dimensions on the CPU, which scores on any device are compared with
    without a copy, and in half the time that a comparison with a plain number takes.
    """
    return torch.tensor(value, dtype=dtype, device="cpu")


def above_floor(scores: Tensor, floor: float) -> Tensor:
    """Scores with +inf in place of those below a floor, which answer at any threshold."""
    if floor == -math.inf:
        return scores
    return scores.masked_fill(scores < _rounded(floor, scores.dtype), math.inf)


def route(
    scores: Sequence[Tensor], thresholds: Sequence[float], floors: Sequence[float] = ()
) -> Tensor:
    """The stage that answers each sample.

    Args:
        scores: one tensor (N,) per deferring stage, in stage order.
        thresholds: one per deferring stage.
        floors: one per deferring stage, or none.

    Returns:
        Stage numbers from 0, shape (N,) int64.

    Raises:
        CascadeError: no scores, or another number of thresholds.

    Examples:
        >>> route([torch.tensor([0.9, 0.2, 0.2]), torch.tensor([0.1, 0.8, 0.3])], [0.5, 0.5])
        tensor([0, 1, 2])
    """
    if not scores or len(scores) != len(thresholds):
        raise CascadeError(
            f"expected one threshold per deferring stage ({len(scores)}), got {len(thresholds)}."
        )
    stage = torch.zeros(len(scores[0]), dtype=torch.int64, device=scores[0].device)
    deferred = torch.ones_like(stage, dtype=torch.bool)
    lowest = floors or [-math.inf] * len(thresholds)
    for column, threshold, floor in zip(scores, thresholds, lowest, strict=True):
        deferred &= ~answers_here(column, threshold, floor)
        stage += deferred
    return stage


class StageOutputs(NamedTuple):
    """Scores and answers where every stage of a cascade sees every sample.

    Attributes:
        scores: score of each stage, (N,) float32.
        alone: answer of each stage alone, (N,) int64.
        after: answer of the cascade if it stops after each stage, (N,) int64.
    """

    scores: list[Tensor]
    alone: list[Tensor]
    after: list[Tensor]


def stage_outputs(outputs: Sequence[StageOutput], policy: Policy) -> StageOutputs:
    """Scores and answers of all stages, from their logits or recorded answers.

    Args:
        outputs: one per stage: logits (N, C), or recorded answers.
        policy: its thresholds and floors are not read.

    Raises:
        CascadeError: the policy is for another number of stages, or needs logits that are unknown.
    """
    if len(outputs) != policy.stages:
        raise CascadeError(f"the policy is for {policy.stages} stages, got {len(outputs)}.")
    judged: list[Judgement] = []
    for k, output in enumerate(outputs):
        judged.append(policy.judge(k, output, judged))
    scores, alone = [one.score for one in judged], [one.answer for one in judged]
    if policy.combine != "average":
        return StageOutputs(scores, alone, answers_after(policy.combine, scores, alone))
    logits = [output for output in outputs if isinstance(output, Tensor)]
    if len(logits) < len(outputs):
        raise CascadeError("combine: an average needs the logits of every stage.")
    # block by block: the probabilities of all samples take more memory than their logits
    blocks = zip(*(row_blocks(stage) for stage in logits), strict=True)
    parts = [
        answers_after(
            "average",
            scores,
            [answers_of(block[0])],
            (policy.probabilities(k, stage) for k, stage in enumerate(block)),
        )
        for block in blocks
    ]
    return StageOutputs(scores, alone, [torch.cat(part) for part in zip(*parts, strict=True)])


class Replay(NamedTuple):
    """The routing and the answers of a policy on recorded samples.

    Attributes:
        stage: number of the last stage that ran, (N,) int64.
        prediction: answer of the cascade, (N,) int64.
    """

    stage: Tensor
    prediction: Tensor


def replay(outputs: Sequence[StageOutput], policy: Policy) -> Replay:
    """Apply a policy to the recorded logits or answers of every stage.

    Args:
        outputs: one per stage: logits (N, C), or recorded answers.
        policy: for as many stages.

    Raises:
        UsageError: the thresholds are undecided.
        CascadeError: the policy is for another number of stages.

    Examples:
        >>> small = torch.tensor([[3.0, 0.0], [0.1, 0.0]])
        >>> large = torch.tensor([[3.0, 0.0], [0.0, 9.0]])
        >>> replay([small, large], Policy(thresholds=(0.9,)))
        Replay(stage=tensor([0, 1]), prediction=tensor([0, 1]))
    """
    scores, _, after = stage_outputs(outputs, policy)
    stage = route(scores[:-1], policy.required_thresholds(), policy.floors)
    return Replay(stage, torch.stack(after, dim=1).gather(1, stage[:, None]).squeeze(1))
