"""Confidence scores: how sure a stage is of its answer, from its logits.

Every score is larger where the stage is surer. A score is a function of one row of logits alone, so
it does not depend on the batch that the row came in: recorded and live logits give the same score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.errors import CascadeError, check_name

__all__ = [
    "LEARNED",
    "RECORDED",
    "SCORES",
    "Score",
    "answers_of",
    "probabilities_of",
    "row_blocks",
    "score_and_answer",
    "score_named",
]

# Rows are handled in blocks of about a megabyte, which stay in the cache of one core.
_BLOCK_ELEMENTS = 2**18
_LONG_ROW = 2**14


@dataclass(frozen=True)
class Score:
    """A confidence score with its range.

    Attributes:
        name: the name used in configs, tables and files.
        low: the least value it can take.
        high: the greatest value it can take.
        function: maps `(shifted, answers)` to scores of shape (N,). `shifted` holds
            `(logits - max) / T` in float32 of shape (N, C) and may be overwritten; `answers` is
            the argmax of each row.
    """

    name: str
    low: float
    high: float
    function: Callable[[Tensor, Tensor], Tensor]


def _max_softmax(shifted: Tensor, answers: Tensor) -> Tensor:  # noqa: ARG001 - one signature for all
    return shifted.exp_().sum(dim=1).reciprocal_()


def _margin(shifted: Tensor, answers: Tensor) -> Tensor:
    weights = shifted.exp_()
    total = weights.sum(dim=1)
    second = weights.scatter_(1, answers[:, None], -1.0).amax(dim=1)
    return (1 - second).div_(total)


def _negative_entropy(shifted: Tensor, answers: Tensor) -> Tensor:  # noqa: ARG001 - the same
    weights = shifted.exp()
    shifted.clamp_(min=torch.finfo(shifted.dtype).min)  # a probability of 0 adds 0, not 0 * -inf
    total = weights.sum(dim=1)
    # clamp: rounding must not lift a one-hot distribution above its entropy of 0
    return (weights.mul_(shifted).sum(dim=1).div_(total) - total.log()).clamp_(max=0.0)


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score("max_softmax", 0.0, 1.0, _max_softmax),
        Score("margin", 0.0, 1.0, _margin),
        Score("negative_entropy", -math.inf, 0.0, _negative_entropy),
    )
}
"""`max_softmax`: the largest class probability. `margin`: the largest minus the second largest
class probability. `negative_entropy`: the sum of p log p, in nats."""


def _no_logits(shifted: Tensor, answers: Tensor) -> Tensor:
    del shifted, answers
    raise CascadeError("the recorded score of a model cannot be computed from logits.")


RECORDED = Score("recorded", -math.inf, math.inf, _no_logits)
"""Whatever score a record without logits holds; any number is a threshold of it."""


def _no_head(shifted: Tensor, answers: Tensor) -> Tensor:
    del shifted, answers
    raise CascadeError("a learned score needs the head that was fitted for the stage.")


LEARNED = Score("learned", -1.0, 0.0, _no_head)
"""The probability, negative, that the last stage is right where this one is wrong, as a
`lit_cascade.core.deferral_head.DeferralHead` sees it."""

_OF_ELSEWHERE = {score.name: score for score in (RECORDED, LEARNED)}


def row_blocks(logits: Tensor) -> Iterator[Tensor]:
    """Rows of logits in float32, some at a time, so that a row's sums do not depend on its batch.

    Raises:
        CascadeError: logits that are not of shape (N, C).
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise CascadeError(
            f"logits must have shape (N, C) with at least 2 classes, got {tuple(logits.shape)}."
        )
    classes = logits.shape[1]
    # torch may split one long row over threads but several over rows, and then rounds otherwise
    rows = 1 if classes > _LONG_ROW else max(1, _BLOCK_ELEMENTS // classes)
    return (block.float().contiguous() for block in logits.split(rows))


def score_named(name: str) -> Score:
    """The score called `name`.

    Raises:
        UsageError: there is none; the message lists those there are.
    """
    found = SCORES.get(name) or _OF_ELSEWHERE.get(name)
    return found or SCORES[check_name(name, SCORES, "score")]


def score_and_answer(
    logits: Tensor, score: str = "max_softmax", temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Confidence score and answer of every row of logits.

    The answer is the argmax of the raw logits (the first class on a tie), so a temperature never
    changes it. A row with NaN or +inf has a score of NaN, which reaches no threshold.

    Args:
        logits: shape (N, C), floating point, any precision; computed in float32.
        score: a name in `SCORES`.
        temperature: T > 0; the score is that of `logits / T`.

    Returns:
        Scores (N,) float32 and answers (N,) int64.

    Raises:
        CascadeError: logits that are not of shape (N, C), or a temperature that is not a positive
            finite number.

    Example:
        >>> scores, answers = score_and_answer(torch.tensor([[2.0, 0.0], [0.0, 0.5]]))
        >>> scores
        tensor([0.8808, 0.6225])
        >>> answers
        tensor([0, 1])
    """
    function = score_named(score).function
    _check_temperature(temperature)
    if logits.ndim == 2 and logits.shape[1] > 1 and _is_block(logits):  # perhaps in a hurry
        shifted, answer = _shift(logits.float().contiguous(), temperature)
        return function(shifted, answer), answer
    # filled in place: many small results among large temporaries would scatter the memory
    n = logits.shape[0] if logits.ndim else 0
    scores = torch.empty(n, device=logits.device)
    answers = torch.empty(n, dtype=torch.int64, device=logits.device)
    start = 0
    for shifted, answer in _shifted(logits, temperature):
        end = start + len(answer)
        scores[start:end], answers[start:end] = function(shifted, answer), answer
        start = end
    return scores, answers


def _shifted(logits: Tensor, temperature: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of `(logits - max) / T` and of the argmax of each row."""
    _check_temperature(temperature)
    return (_shift(rows, temperature) for rows in row_blocks(logits))


def _shift(rows: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    best, answer = rows.max(dim=1, keepdim=True)
    shifted = rows - best
    if temperature != 1.0:
        shifted /= temperature
    return shifted, answer.squeeze(1)


def _check_temperature(temperature: float) -> None:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise CascadeError(f"temperature must be a finite number above 0, got {temperature}.")


def _is_block(logits: Tensor) -> bool:
    """Whether logits of shape (N, C) are handled at once."""
    return 0 < logits.numel() <= _BLOCK_ELEMENTS and logits.shape[1] <= _LONG_ROW


def probabilities_of(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Softmax of `logits / T`, row by row, so that a row's does not depend on its batch.

    Args:
        logits: shape (N, C), floating point, any precision; computed in float32.
        temperature: T > 0.

    Returns:
        Shape (N, C) float32.

    Raises:
        CascadeError: as for `score_and_answer`.

    Example:
        >>> probabilities_of(torch.tensor([[0.0, 0.0]]))
        tensor([[0.5000, 0.5000]])
    """
    blocks = []
    for shifted, _ in _shifted(logits, temperature):
        weights = shifted.exp_()
        blocks.append(weights / weights.sum(dim=1, keepdim=True))
    return torch.cat(blocks)


def answers_of(logits: Tensor) -> Tensor:
    """The answers alone: argmax of every row, the first class on a tie.

    Args:
        logits: shape (N, C).

    Returns:
        Shape (N,) int64.
    """
    return torch.cat([rows.max(dim=1).indices for rows in row_blocks(logits)])
